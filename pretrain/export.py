"""A pretrained encoder as a weights file: safetensors, timm's keys, and a header that says what it is.

    python -m bench.run --backbone OUT/backbone.safetensors --task all

just works, since the header names the architecture and how images are normalised.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.errors import UserError
from bench.training.hooks import replace_durably

NAME = "backbone.safetensors"
REQUIRED = ("arch", "method", "recipe", "data", "epochs", "mean", "std", "img_size", "commit")


def export(encoder: nn.Module, path: Path, header: Mapping[str, str], mask_token: Tensor | None = None) -> None:
    """Write the encoder's weights, in fp32, whole or not at all.

    Args:
        encoder: a timm model; its state_dict's keys are the file's.
        header: strings by name; `bench` reads `arch`, `method`, `mean` and `std` (JSON lists, RGB of images
            in 0-1) and `img_size` ("[height, width]").
        mask_token: what the encoder was shown in place of hidden patches, [1, 1, D]; `mask_token` in the file, as
            SimMIM's own has it, for `analysis/occlusion`; of the last update, also where the encoder is an average.

    Raises UserError when the file cannot be written.
    """
    missing = [name for name in REQUIRED if name not in header]
    assert not missing, f"the header lacks {missing}"
    weights = encoder.state_dict()
    if mask_token is not None:
        weights["mask_token"] = mask_token
    state = {
        key: value.detach().float().cpu().contiguous()
        if value.is_floating_point()
        else value.detach().cpu().contiguous()
        for key, value in weights.items()
    }
    temporary = path.with_name(f".{path.name}")
    try:
        save_file(state, temporary, metadata=dict(header))
        replace_durably(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The backbone {path} cannot be written ({error}). Training is done and its last checkpoint lies beside "
            f"it: free space or mend the folder, and run the same command again."
        ) from None
