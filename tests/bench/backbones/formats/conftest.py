import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.backbones.backbone import LoadReport
from bench.backbones.build import build
from bench.backbones.formats import recognise
from bench.backbones.load import load
from bench.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))  # restated_vit is shared, and no test

TOLERANCE = 1e-5
ELSEWHERE = r"(^|\.)(head|classifier|relative_\w+|attn_mask|num_batches_tracked)(\.|$)"

# The adapters keep it out of OpenMMLab's sight in their process, which may be this one.
if sys.modules.get("transformers", sys) is None:
    del sys.modules["transformers"]


@pytest.fixture
def disturb() -> Callable[[nn.Module], nn.Module]:
    return _disturb


def _disturb(model: nn.Module) -> nn.Module:
    """Random numbers everywhere, so that a tensor that is dropped or swapped shows.

    Tokens begin small, so that the eps of norms shows as well.
    """
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("relative_coords_table"):
            noise = torch.randn(tensor.shape, generator=generator)
            small = 1e-3 if re.search(r"embed|token", name) else 1.0
            value = small * (1 + 0.3 * noise if tensor.ndim == 1 else 0.15 * noise)
            tensor.copy_(value.abs() if name.endswith("running_var") else value)
    return model.eval()


@pytest.fixture
def agrees() -> Callable[..., tuple[nn.Module, LoadReport]]:
    return _agrees


@torch.no_grad()
def _agrees(
    reference: nn.Module,
    their_blocks: Sequence[nn.Module],
    arch: str,
    weights: Path,
    size: int = 32,
    part: str | None = None,
    our_blocks: Callable[[Any], Sequence[nn.Module]] = lambda model: model.blocks,
    **options: Any,
) -> tuple[nn.Module, LoadReport]:
    """Load `weights` as `arch` and compare it with what wrote them after every block."""
    model, report = build(arch, weights=weights, part=part, num_classes=0, **options)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    ours = _outputs(model.eval(), our_blocks(model), images)
    theirs = _outputs(reference.eval(), their_blocks, images)
    assert len(ours) == len(theirs) > 1
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our.shape == their.shape
        assert (our - their).abs().max() <= TOLERANCE * their.abs().max(), f"block {index}"
    return model, report


def _outputs(model: nn.Module, blocks: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """What every block gives, as tokens where it is a map, and what the model does."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: found.append(out)) for block in blocks]
    final = model(images)
    for hook in hooks:
        hook.remove()
    found.append(final if isinstance(final, Tensor) else final[0])
    tensors = [out if isinstance(out, Tensor) else out[0] for out in found]
    return [out.flatten(1, 2) if out.ndim == 4 else out for out in tensors]


@pytest.fixture
def swallowed() -> Callable[..., list[str]]:
    return _swallowed


def _swallowed(state: dict[str, Tensor], arch: str, **options: Any) -> list[str]:
    """What a load does not refuse with the name of a key, of the damages to every tenth key of an encoder."""
    keys = [key for key in state if not re.search(ELSEWHERE, key)]
    found = []
    for key in keys[:: len(keys) // 10]:
        rest, tensor = {k: v for k, v in state.items() if k != key}, state[key]
        damages = {"dropped": rest, "renamed": rest | {f"{key}_": tensor}}
        damages["misshapen"] = rest | {key: torch.cat([tensor, tensor[:1]])}
        for damage, damaged in damages.items():
            encoder = recognise(damaged, lambda _: False)
            assert encoder is not None, f"{key} {damage}: no format fits any more"
            try:
                load(arch, encoder, "w.pth", num_classes=0, **options)
            except UserError as error:
                if not re.search(r"\d (missing|unexpected|of another shape) \(\w", str(error)):
                    found.append(f"{key} {damage}: {error}")
            else:
                found.append(f"{key} {damage}: loaded")
    return found
