"""ConvNeXt as its authors and Hugging Face write it; ResNet, whose names torchvision and timm share."""

import re
from typing import TYPE_CHECKING

from bench.backbones.formats import IMAGENET, Format

if TYPE_CHECKING:
    from bench.backbones.formats import State

SCALE = re.compile(r"stages\.\d\.blocks\.\d+\.(gamma|mlp\.grn\.(weight|bias))")
LINEAR = re.compile(r"stages\.\d\.blocks\.\d+\.mlp\.fc\d\.weight")
CONVOLVED = (40, 48, 64, 80)  # widths of atto to nano, whose linear layers timm has as convolutions


def shaped(state: "State") -> "State":
    """Shapes as timm's: scales [C], which some hold as [C, 1, 1] or [1, 1, 1, C], and 1 x 1 convolutions."""
    stem = state.get("stem.1.weight")
    if stem is not None and stem.numel() in CONVOLVED:
        state = {k: v[..., None, None] if LINEAR.fullmatch(k) and v.ndim == 2 else v for k, v in state.items()}
    return {k: v.flatten() if SCALE.fullmatch(k) else v for k, v in state.items()}


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
        convert=shaped,
        normalisation=IMAGENET,
        source="models/convnext.py and models/convnextv2.py of ConvNeXt and ConvNeXt V2",
    ),
    Format(
        name="Hugging Face, ConvNeXt",
        marks=(r"encoder\.stages\.\d\.layers\.\d+\.(dwconv|pwconv[12])\.",),
        rename=HUGGING_FACE,
        convert=shaped,
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
        normalisation=IMAGENET,
        source="modeling_resnet.py of transformers",
    ),
    Format(
        name="ResNet",
        marks=(r"conv1\.weight$|bn1\.", r"layer1\.\d+\.conv\d\.weight$", r"layer4\.\d+\.conv\d\."),
        normalisation=IMAGENET,
        source="models/resnet.py of torchvision; timm, OpenMMLab and MoCo have its names",
    ),
)
