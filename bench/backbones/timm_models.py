"""A timm model without its classifier, for images of any size where its class can take them."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from bench.backbones import build
from bench.backbones.backbone import LoadReport
from bench.errors import UserError


def create(
    arch: str,
    *,
    weights: str | Path | None = None,
    part: str | None = None,
    allow_partial: Sequence[str] = (),
    drop_blocks: int = 0,
    img_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
    seed: int | None = None,
    timm_options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, LoadReport]:
    """Build a timm model without classifier that takes images of any size, if its class can.

    Args:
        arch: timm's name, without tag.
        weights, part, allow_partial, drop_blocks: see `bench.backbones.build.build`.
        img_size: (height, width) that position embeddings are made for; timm's own by default.
        drop_path_rate: stochastic depth at the last block.
        seed: of the initialisation; torch's global generator is left as it was.
        timm_options: further arguments for `timm.create_model`.

    Raises UserError.
    """
    options = {"num_classes": 0, "img_size": img_size, "drop_path_rate": drop_path_rate}
    options |= {"dynamic_img_size": True, **(timm_options or {})}
    known = _parameters(arch)
    if options["drop_path_rate"] and "drop_path_rate" not in known:
        raise OutsideContractError(arch, "it has no drop path, and drop_path_rate is not 0")
    # Convolutions take no image size.
    unknown = {"img_size", "dynamic_img_size", "drop_path_rate"} - known
    accepted = {name: value for name, value in options.items() if name not in unknown}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:  # not torch.manual_seed, which would seed the GPUs as well
            torch.random.default_generator.manual_seed(seed)
        model, report = build.build(
            arch, weights=weights, part=part, allow_partial=allow_partial, drop_blocks=drop_blocks, **accepted
        )
    return model, report


@functools.cache
def _parameters(arch: str) -> frozenset[str]:
    """Return the parameter names of the constructors of the architecture's class and its bases."""
    with torch.device("meta"):
        bases = type(timm.create_model(arch)).__mro__
    return frozenset(name for base in bases for name in inspect.signature(base).parameters)


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the only (height, width) of images that a timm model handles correctly; None if it handles any."""
    if hasattr(model, "unroll"):  # Hiera reorders its tokens by a fixed schedule
        (rows, columns), stride = model.tokens_spatial_shape, model.patch_stride
        return rows * stride[0], columns * stride[1]
    if "mvitv2" in type(model).__module__:
        # It accepts smaller images, but reads its relative positions from the wrong end of the tables.
        attention, stride = model.stages[0].blocks[0].attn, model.feature_info[0]["reduction"]
        sides = [len(table) // 2 + 1 for table in (attention.rel_pos_h, attention.rel_pos_w)]
        return sides[0] * stride, sides[1] * stride
    patch_embed: Any = getattr(model, "patch_embed", None)
    return patch_embed.img_size if getattr(patch_embed, "strict_img_size", False) else None


class OutsideContractError(UserError):
    """An architecture does not satisfy the feature contract."""

    def __init__(self, arch: str, reason: str) -> None:
        """Name the architecture and the reason."""
        self.reason = reason
        super().__init__(
            f"The architecture {arch} cannot be used here: {reason}. Plain ViTs (DeiT, DINOv2), Swin, "
            f"SwinV2, ConvNeXt, ResNet, EfficientNet and Hiera are supported; full list: docs/supported-models.md."
        )
