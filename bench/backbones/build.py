"""Build a timm model with its weights, correct shifted windows and, if asked for, without its last blocks."""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.backbones import checkpoints, formats, load
from bench.backbones.adapt import trained_windows
from bench.backbones.backbone import LoadReport
from bench.errors import UserError

Attention = Callable[[Tensor], Tensor]


def build(
    arch: str,
    *,
    weights: Path | str | None = None,
    part: str | None = None,
    allow_partial: Sequence[str] = (),
    drop_blocks: int = 0,
    **timm_kwargs: Any,
) -> tuple[nn.Module, LoadReport]:
    """Create a timm model and load its weights; `timm_kwargs` go to `timm.create_model`.

    Without weights the initialisation depends on torch's global seed, which the caller sets.

    Args:
        arch: timm's name, without tag.
        weights: a file in any format of `bench.backbones.formats`; None initialises randomly.
        part: which set of weights of a file that contains several (`teacher`, `student`).
        allow_partial: patterns of keys that may be missing, unexpected or misshapen; see `bench.backbones.load.load`.
        drop_blocks: number of blocks removed from the end after the weights are loaded.

    Raises UserError if the weights do not fit or the blocks cannot be removed.
    """
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
    """Read the encoder of a file; raises UserError if its keys are in no known format and not those of `arch`."""
    state, *_ = checkpoints.read(path, part)
    encoder = formats.recognise(state, lambda inside: _shares_names(arch, inside))
    if encoder is None:
        raise UserError(
            f"The weights file {path} is in no known format, and its keys ({', '.join(list(state)[:3])}, ...) are "
            f"not those of {arch}. Give the architecture it was trained with, as ARCH@{path.name}."
        )
    return dataclasses.replace(encoder, grid=_grid(path, encoder))


def _grid(path: Path, encoder: formats.Encoder) -> tuple[int, int] | None:
    """Return the (rows, columns) of patches of the image size in a file's header: an export need not be square."""
    stated = checkpoints.header(path).get("img_size")
    weight = encoder.state.get("patch_embed.proj.weight")
    if stated is None or weight is None or weight.ndim != 4:
        return None
    height, width = json.loads(stated)
    return height // weight.shape[2], width // weight.shape[3]


def _shares_names(arch: str, inside: Collection[str]) -> bool:
    """Whether most of these keys are timm's names for that architecture."""
    with torch.device("meta"):
        own = timm.create_model(arch).state_dict().keys()
    return 2 * sum(key in own for key in inside) > min(len(own), len(inside))


def pad_before_shifting(model: nn.Module) -> None:
    """Make timm's Swin, SwinV2 and SwinV2-CR pad maps to whole windows before shifting, in place; leave other models.

    timm (1.0.31) shifts the tokens and then pads them, while its mask assumes the opposite order: if a map does not
    divide into windows, tokens at opposite edges of the image attend to each other. The paper's code pads first. The
    result differs only where padding is needed.
    """
    for block in model.modules():
        for name in ("_attn", "_shifted_window_attn"):
            if hasattr(block, "shift_size") and hasattr(block, name):
                setattr(block, name, functools.partial(_padded, block, getattr(block, name)))


def _padded(block: nn.Module, attention: Attention, tokens: Tensor) -> Tensor:
    """Apply `attention` to tokens (N, rows, columns, C) zero-padded to whole windows; crop the result."""
    rows, columns = tokens.shape[1:3]
    below, right = -rows % block.window_size[0], -columns % block.window_size[1]
    return attention(F.pad(tokens, (0, 0, 0, right, 0, below)))[:, :rows, :columns]


def remove_last_blocks(model: nn.Module, arch: str, count: int) -> None:
    """Remove a timm model's last `count` blocks in place, after its weights were loaded.

    A plain ViT keeps at least its first block, a hierarchical transformer the first block of its last stage. Widths,
    strides and the final norm stay. Raises UserError if the model has no such blocks, or too few. Source: "Revealing
    the Dark Secrets of Masked Image Modeling", arXiv 2205.13543 (the last layers' loss of diversity).
    """
    assert count > 0, count
    holder, droppable = _last_blocks(model)
    if count > droppable:
        raise _refusal(arch, count, droppable)
    holder.blocks = holder.blocks[:-count]
    if hasattr(model, "stage_ends"):  # Hiera has one list of blocks and the index of each stage's last one
        model.stage_ends = [*model.stage_ends[:-1], model.stage_ends[-1] - count]
    elif holder is model:
        model.feature_info = model.feature_info[:-count]


def _last_blocks(model: Any) -> tuple[Any, int]:
    """Return the module that owns the last `blocks`, and how many of them can be removed."""
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
            f"The last blocks of {arch} cannot be dropped: it is not a transformer, or its last stage is a "
            f"single block, which sets the width and stride of the heads. Plain ViTs (DeiT, BEiT), Swin, SwinV2 and "
            f"Hiera with two or more blocks in the last stage are allowed. Give the protocol without -drop{count}."
        )
    return UserError(
        f"The last {count} blocks of {arch} cannot be dropped: at most {droppable} can, since one must remain (in its "
        f"last stage, if it has stages). Give -drop1 to -drop{droppable}."
    )


def is_plain(model: nn.Module) -> bool:
    """Whether all maps of a timm model have one stride, as a ViT's do."""
    return len({stage["reduction"] for stage in getattr(model, "feature_info", ())}) == 1
