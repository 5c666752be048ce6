"""Export of a pretrained encoder as a weights file: safetensors with timm's keys and a descriptive header.

    python -m bench.run --backbone OUT/backbone.safetensors --task all

needs no further options, since the header names the architecture and the normalisation of images.
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
    """Write the encoder's weights in fp32, atomically.

    Args:
        encoder: a timm model; its state_dict's keys are the file's.
        header: strings by name; `bench` reads `arch`, `method`, `mean` and `std` (JSON lists, RGB of images
            in 0-1) and `img_size` ("[height, width]").
        mask_token: replaces hidden patches, [1, 1, D]; `mask_token` in the file, as in SimMIM's own files, for
            `analysis/occlusion`. It is the one of the last update, also if the encoder is a moving average.

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
            f"The backbone {path} cannot be written ({error}). Training is done and its last checkpoint is in the same "
            f"folder: free disk space or fix the folder's permissions, and run the same command again."
        ) from None
