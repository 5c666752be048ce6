"""A small representative of every family inside the feature contract, and what is true of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.backbones.backbone import Backbone
from bench.backbones.extract import FeatureExtractor, load_backbone

SMALL_VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SMALL_HIERA = {"embed_dim": 24, "stages": (1, 1, 2, 1)}
WIDE, WIDE_14 = (96, 128), (84, 112)  # of patches: 6 x 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A representative, and what is true of it.

    layers: how many layers learn at rates of their own, stem and blocks.
    end: what `forward_features` does behind the last map, on it.
    layout: of what its blocks give.
    """

    arch: str
    layers: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    img_size: tuple[int, int] | None = None
    size: tuple[int, int] = WIDE
    plain: bool = False
    prefix: int = 0
    normed: bool = False
    layout: str = "NCHW"
    end: Callable[[nn.Module, Tensor], Tensor] = lambda model, last: last


def swin_end(model: nn.Module, last: Tensor) -> Tensor:
    return model.norm(last.permute(0, 2, 3, 1))


FAMILIES = {
    "ViT": Family(arch="test_vit", layers=7, plain=True, prefix=1, normed=True),
    "ViT, pooled": Family(arch="test_vit2", layers=9, plain=True, prefix=1),
    "DeiT": Family(
        arch="deit_tiny_distilled_patch16_224", options=SMALL_VIT, layers=5, plain=True, prefix=2, normed=True
    ),
    "ViT with registers": Family(
        arch="vit_small_patch14_reg4_dinov2",
        options=SMALL_VIT,
        img_size=(56, 56),
        size=WIDE_14,
        layers=5,
        plain=True,
        prefix=5,
        normed=True,
    ),
    "EVA-02": Family(arch="eva02_tiny_patch14_224", options=SMALL_VIT, size=WIDE_14, layers=5, plain=True, prefix=1),
    "DINOv3": Family(arch="vit_small_patch16_dinov3", options=SMALL_VIT, layers=5, plain=True, prefix=5, normed=True),
    "BEiT": Family(arch="beit_base_patch16_224", options=SMALL_VIT, img_size=WIDE, layers=5, plain=True, prefix=1),
    "Swin": Family(arch="swin_tiny_patch4_window7_224", options=SMALL_SWIN, layers=6, layout="NHWC", end=swin_end),
    "SwinV2": Family(arch="swinv2_tiny_window8_256", options=SMALL_SWIN, layers=6, layout="NHWC", end=swin_end),
    "ConvNeXt": Family(arch="test_convnext", layers=10),
    "ConvNeXt V2": Family(arch="convnextv2_atto", options={"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}, layers=6),
    "ResNet": Family(arch="test_resnet", layers=5),
    "EfficientNet": Family(
        arch="test_efficientnet", layers=6, end=lambda model, last: model.bn2(model.conv_head(last))
    ),
    "Hiera": Family(
        arch="hiera_tiny_224",
        options=SMALL_HIERA,
        img_size=WIDE,
        layers=6,
        layout="unrolled",
        end=lambda model, last: last.flatten(2).mT,
    ),
    "Hiera, windowed positions": Family(
        arch="hiera_small_abswin_256",
        options=SMALL_HIERA,
        img_size=WIDE,
        layers=6,
        layout="unrolled",
        end=lambda model, last: last.flatten(2).mT,
    ),
    "SAM 2": Family(
        arch="sam2_hiera_tiny",
        options={**SMALL_HIERA, "global_att_blocks": (3,)},
        layers=6,
        layout="NHWC",
        end=lambda model, last: last.permute(0, 2, 3, 1),
    ),
}


def load(family: Family, **changes: Any) -> FeatureExtractor:
    settings = {"img_size": family.img_size, "timm_options": family.options, "seed": 0, **changes}
    return load_backbone(Backbone(name=family.arch, arch=family.arch), **settings)


def lively(model: nn.Module) -> nn.Module:
    """No parameter at a constant such as 0 or 1e-5 any more: nothing is left without effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.std() < 0.05:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
