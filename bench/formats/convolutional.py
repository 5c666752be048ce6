"""ConvNeXt as its authors and Hugging Face write it; ResNet, whose names torchvision and timm share."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.formats import IMAGENET, Format

if TYPE_CHECKING:
    from bench.formats import State

CONVNEXTS: dict[tuple[int, tuple[int, ...]], str] = {
    (40, (2, 2, 6, 2)): "atto",
    (48, (2, 2, 6, 2)): "femto",
    (64, (2, 2, 6, 2)): "pico",
    (80, (2, 2, 8, 2)): "nano",
    (96, (3, 3, 9, 3)): "tiny",
    (96, (3, 3, 27, 3)): "small",
    (128, (3, 3, 27, 3)): "base",
    (192, (3, 3, 27, 3)): "large",
    (256, (3, 3, 27, 3)): "xlarge",
    (352, (3, 3, 27, 3)): "huge",
}
RESNETS: dict[
    tuple[tuple[int, ...], tuple[int | str, ...]], str
] = {  # blocks of the stages, and the second convolution of the first block
    ((2, 2, 2, 2), (64, 64)): "resnet18",
    ((3, 4, 6, 3), (64, 64)): "resnet34",
    ((3, 4, 6, 3), (64, 64, "bottleneck")): "resnet50",
    ((3, 4, 23, 3), (64, 64, "bottleneck")): "resnet101",
    ((3, 8, 36, 3), (64, 64, "bottleneck")): "resnet152",
    ((3, 4, 6, 3), (128, 128, "bottleneck")): "wide_resnet50_2",
    ((3, 4, 23, 3), (128, 128, "bottleneck")): "wide_resnet101_2",
    ((3, 4, 6, 3), (128, 4, "bottleneck")): "resnext50_32x4d",
    ((3, 4, 23, 3), (256, 8, "bottleneck")): "resnext101_32x8d",
    ((3, 4, 23, 3), (256, 4, "bottleneck")): "resnext101_64x4d",
}


def flat(state: "State") -> "State":
    """Scales of channels, which some hold as [C, 1, 1] or [1, 1, 1, C], as timm's [C]."""
    scale = re.compile(r"stages\.\d\.blocks\.\d+\.(gamma|mlp\.grn\.(weight|bias))")
    return {k: v.flatten() if scale.fullmatch(k) else v for k, v in state.items()}


def convnext_arch(state: "State") -> str | None:
    """Name the size by width and depths, the version by its response normalisation."""
    stem = state.get("stem.1.weight")
    size = (
        None
        if stem is None
        else CONVNEXTS.get((stem.numel(), _depths(state, r"stages\.(\d)\.blocks")))
    )
    version = "v2" if _second(state) else ""
    return None if size is None or (size == "huge" and not version) else f"convnext{version}_{size}"


def convnext_options(state: "State") -> Mapping[str, Any]:
    """Linear layers where timm's small models have 1 x 1 convolutions; LayerScale or its successor."""
    second = _second(state)
    return {"conv_mlp": False, "use_grn": second, "ls_init_value": None if second else 1e-6}


def _second(state: "State") -> bool:
    return any(".mlp.grn." in key for key in state)


def resnet_arch(state: "State") -> str | None:
    """Name the size by depths and the first block; None for relatives with parts of their own."""
    weight = state.get("layer1.0.conv2.weight")
    known = re.compile(r"(conv1|bn1|layer\d\.\d+\.((conv|bn)\d|downsample\.[01])|fc)\.\w+")
    if weight is None or weight.ndim != 4 or not all(map(known.fullmatch, state)):
        return None
    bottleneck = ("bottleneck",) if "layer1.0.conv3.weight" in state else ()
    return RESNETS.get((_depths(state, r"layer([1-4])"), (*weight.shape[:2], *bottleneck)))


def _depths(state: "State", stage: str) -> tuple[int, ...]:
    """Number of blocks of every stage; `stage` precedes the block's number and holds the stage's."""
    found = map(re.compile(rf"{stage}\.(\d+)\.").match, state)
    blocks = {match.groups() for match in found if match}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(block[0] == stage for block in blocks) for stage in stages)


CONVNEXT = (
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv", ".mlp.fc"),
    (r"\.grn\.(gamma|weight)$", ".mlp.grn.weight"),
    (r"\.grn\.(beta|bias)$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
HUGGING_FACE = (
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1.blocks."),
    (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^layernorm\.", "head.norm."),
    (r"\.layernorm\.", ".norm."),
    *CONVNEXT,
)

FORMATS = (
    Format(
        name="ConvNeXt, official",
        marks=(r"stages\.\d\.\d+\.(dwconv|pwconv[12])\.", r"downsample_layers\.\d\."),
        rename=CONVNEXT,
        convert=flat,
        arch=convnext_arch,
        options=convnext_options,
        normalisation=IMAGENET,
        source="models/convnext.py and models/convnextv2.py of ConvNeXt and ConvNeXt V2",
    ),
    Format(
        name="Hugging Face, ConvNeXt",
        marks=(r"encoder\.stages\.\d\.layers\.\d+\.(dwconv|pwconv[12])\.",),
        rename=HUGGING_FACE,
        convert=flat,
        arch=convnext_arch,
        options=convnext_options,
        normalisation=IMAGENET,
        source="modeling_convnext.py and modeling_convnextv2.py of transformers",
    ),
    Format(
        name="Hugging Face, ResNet",
        marks=(r"embedder\.embedder\.", r"encoder\.stages\.\d\.layers\.\d+\.layer\.\d\."),
        rename=(
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            *((rf"^encoder\.stages\.{i}\.layers\.(\d+)\.", rf"layer{i + 1}.\1.") for i in range(4)),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
            *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
        ),
        arch=resnet_arch,
        normalisation=IMAGENET,
        source="modeling_resnet.py of transformers",
    ),
    Format(
        name="ResNet",
        marks=(r"conv1\.weight$|bn1\.", r"layer1\.\d+\.conv\d\.weight$", r"layer4\.\d+\.conv\d\."),
        arch=resnet_arch,
        normalisation=IMAGENET,
        source="models/resnet.py of torchvision; timm, OpenMMLab and MoCo have its names",
    ),
)
