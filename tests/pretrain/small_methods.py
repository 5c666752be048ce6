"""Methods on a tiny ViT, and eight images for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.data import Batch
from pretrain.methods import method
from pretrain.siamese import Siamese, build

SMALL: dict[str, Any] = {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4, "projector_dim": 64}


def small(name: str, arch: str = "test_vit", **changes: Any) -> Siamese:
    classes = 8 if name == "supervised" else 0
    return build(method(name, **SMALL | changes), arch, img_size=64, num_classes=classes, seed=0)


def eight() -> Batch:
    """Smooth images, another crop of each, each of a class of its own, and the right half in front."""
    generator = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.randn(8, 3, 5, 5, generator=generator), 72, mode="bicubic")
    front = torch.zeros(8, 64, 64, dtype=torch.bool)
    front[:, :, 32:] = True
    return Batch(
        images=images[:, :, :64, :64], others=images[:, :, 8:, 8:].flip(3), labels=torch.arange(8), occluders=front
    )


def part(batch: Batch, rank: int, world: int) -> Batch:
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{name: value.chunk(world)[rank] for name, value in tensors.items()})


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()
