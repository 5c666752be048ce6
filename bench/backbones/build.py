"""Swin's shifted windows at any size of image, as in the official models.

timm (1.0.31) shifts the tokens and then pads them to whole windows, while its mask is made for the
opposite order: where a map does not divide into windows, tokens at opposite edges of the image attend
to each other. Padding first is what the paper's code does, and changes nothing where no padding is.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bench.backbones import checkpoints, formats, load
from bench.backbones.adapt import trained_windows
from bench.backbones.backbone import LoadReport
from bench.errors import UserError

Attention = Callable[[Tensor], Tensor]


def pad_before_shifting(model: nn.Module) -> None:
    """Put timm's Swin, SwinV2 and SwinV2-CR right, in place; other models stay as they are."""
    for block in model.modules():
        for name in ("_attn", "_shifted_window_attn"):
            if hasattr(block, "shift_size") and hasattr(block, name):
                setattr(block, name, functools.partial(_padded, block, getattr(block, name)))


def _padded(block: nn.Module, attention: Attention, tokens: Tensor) -> Tensor:
    """Attention among tokens (N, rows, columns, C), in whole windows, padded with zeros."""
    rows, columns = tokens.shape[1:3]
    below, right = -rows % block.window_size[0], -columns % block.window_size[1]
    return attention(F.pad(tokens, (0, 0, 0, right, 0, below)))[:, :rows, :columns]


# A backbone without its last blocks (Xie et al., Dark Secrets of MIM, arXiv 2205.13543: where lost diversity hurts).
#
#
# The weights are loaded whole, and then blocks go from the end: of a plain ViT any but the first, of a
# hierarchical transformer those of its last stage but the first. Widths, strides and the final norm stay.


def remove_last_blocks(model: nn.Module, arch: str, count: int) -> None:
    """Remove a timm model's last `count` blocks, in place; raises UserError where it has none, or too few, to drop."""
    assert count > 0, count
    holder, droppable = _last_blocks(model)
    if count > droppable:
        raise _refusal(arch, count, droppable)
    holder.blocks = holder.blocks[:-count]
    if hasattr(model, "stage_ends"):  # Hiera's stages are spans of one list
        model.stage_ends = [*model.stage_ends[:-1], model.stage_ends[-1] - count]
    elif holder is model:
        model.feature_info = model.feature_info[:-count]


def _last_blocks(model: Any) -> tuple[Any, int]:
    """What holds the last `blocks`, and how many of them can go."""
    if hasattr(model, "stage_ends"):
        return model, model.stage_ends[-1] - model.stage_ends[-2] - 1
    if is_plain(model) and hasattr(model, "blocks"):
        return model, len(model.blocks) - 1
    stages = getattr(model, "layers", None) or getattr(model, "stages", None) or [None]
    last: Any = getattr(stages[-1], "blocks", ())
    attends = len(last) > 0 and hasattr(last[-1], "attn")
    return stages[-1], len(last) - 1 if attends else 0


def _refusal(arch: str, count: int, droppable: int) -> UserError:
    if not droppable:
        return UserError(
            f"The last blocks of {arch} cannot be dropped: it is no transformer, or its last stage is a single block, "
            f"whose widths and strides the heads stand on. Plain ViTs (DeiT, BEiT), Swin, SwinV2 and Hiera with "
            f"two blocks or more at the end can. Give the protocol without -drop{count}."
        )
    return UserError(
        f"{arch} cannot lose its last {count} blocks: {droppable} at most can go, so that one is left (of its last "
        f"stage, where it has stages). Give -drop1 to -drop{droppable}."
    )


def build(
    arch: str,
    *,
    weights: Path | str | None = None,
    part: str | None = None,
    allow_partial: Sequence[str] = (),
    drop_blocks: int = 0,
    **timm_kwargs: Any,
) -> tuple["nn.Module", LoadReport]:
    """Create a timm model and load its weights; `timm_kwargs` go to `timm.create_model`.

    Without weights the initialisation follows torch's global seed, which is the caller's to set.

    Args:
        arch: timm's name, without tag.
        weights: a file in any format of `bench.backbones.formats`; None is scratch.
        part: of a file that holds several sets of weights (`teacher`, `student`): which.
        allow_partial: patterns of the keys that need not fit; see `bench.backbones.load.load`.
        drop_blocks: how many blocks are removed from the end, once the weights are loaded.

    Raises UserError when the weights do not fit, or the blocks cannot be dropped.
    """
    import timm

    pass  # RELAYOUT
    pass  # RELAYOUT

    if weights is None:
        options = {**trained_windows(arch), **timm_kwargs}
        model, report = timm.create_model(arch, pretrained=False, **options), LoadReport()
    else:
        path = Path(weights)
        encoder = _encoder(arch, path, part)
        model, report = load.load(arch, encoder, path.name, allow_partial=allow_partial, **timm_kwargs)
    pad_before_shifting(model)
    if drop_blocks:
        remove_last_blocks(model, arch, drop_blocks)
    return model, report


def _encoder(arch: str, path: Path, part: str | None) -> formats.Encoder:
    """The encoder in a file; raises UserError where its keys are of no known format, nor of `arch`."""
    state, *_ = checkpoints.read(path, part)
    encoder = formats.recognise(state, lambda inside: _shares_names(arch, inside))
    if encoder is None:
        raise UserError(
            f"The weights file {path} is of no known format, and its keys ({', '.join(list(state)[:3])}, ...) are "
            f"not those of {arch}. Give the architecture that it was made with, as ARCH@{path.name}."
        )
    return dataclasses.replace(encoder, grid=_grid(path, encoder))


def _grid(path: Path, encoder: formats.Encoder) -> tuple[int, int] | None:
    """The grid of patches of the image size that a file's header states: an export's need not be square."""
    stated = checkpoints.header(path).get("img_size")
    weight = encoder.state.get("patch_embed.proj.weight")
    if stated is None or weight is None or weight.ndim != 4:
        return None
    height, width = json.loads(stated)
    return height // weight.shape[2], width // weight.shape[3]


def _shares_names(arch: str, inside: Collection[str]) -> bool:
    """Whether these are timm's own names, or mostly so, of that architecture."""
    import timm
    import torch

    with torch.device("meta"):
        own = timm.create_model(arch).state_dict().keys()
    return 2 * sum(key in own for key in inside) > min(len(own), len(inside))


def is_plain(model: nn.Module) -> bool:
    """Whether all maps of a timm model are of one stride, as a ViT's."""
    return len({stage["reduction"] for stage in getattr(model, "feature_info", ())}) == 1
