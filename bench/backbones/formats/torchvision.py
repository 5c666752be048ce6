"""torchvision's Swin, SwinV2, ViT and ConvNeXt; its ResNet has timm's names."""

from typing import TYPE_CHECKING

from bench.backbones.formats import IMAGENET, Format, swin, vit
from bench.backbones.formats.convolutional import shaped

if TYPE_CHECKING:
    from bench.backbones.formats import State


def split_bias(state: "State") -> "State":
    """torchvision's SwinV2 holds a bias of the key, which it never adds."""
    split = dict(state)
    for key in [k for k, v in state.items() if k.endswith("attn.qkv.bias") and v.ndim == 1]:
        query, _, value = split.pop(key).tensor_split(3)
        owner = key.removesuffix("qkv.bias")
        split[f"{owner}q_bias"], split[f"{owner}v_bias"] = query, value
    return split


SWIN = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    *((rf"^features\.{2 * i + 1}\.(\d+)\.", rf"layers.{i}.blocks.\1.") for i in range(4)),
    *((rf"^features\.{2 * i}\.", f"layers.{i}.downsample.") for i in (1, 2, 3)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    *swin.HEAD,
)
VIT = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
CONVNEXT = (
    (r"^features\.0\.", "stem."),
    *((rf"^features\.{2 * i + 1}\.(\d+)\.", rf"stages.{i}.blocks.\1.") for i in range(4)),
    *((rf"^features\.{2 * i}\.", f"stages.{i}.downsample.") for i in (1, 2, 3)),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)

FORMATS = (
    Format(
        name="torchvision, Swin",
        marks=(r"features\.\d\.\d+\.attn\.relative_position_bias_table$", r"features\.0\.2\."),
        rename=SWIN,
        normalisation=IMAGENET,
        source="models/swin_transformer.py of torchvision",
    ),
    Format(
        name="torchvision, SwinV2",
        marks=(r"features\.\d\.\d+\.attn\.(cpb_mlp|logit_scale)", r"features\.0\.2\."),
        rename=SWIN,
        convert=split_bias,
        arch=swin.v2_arch,
        options=swin.v2_options,
        normalisation=IMAGENET,
        source="models/swin_transformer.py of torchvision",
    ),
    Format(
        name="torchvision, ViT",
        marks=(r"encoder\.layers\.encoder_layer_\d+\.", r"conv_proj\."),
        rename=VIT,
        arch=vit.NAME,
        normalisation=IMAGENET,
        source="models/vision_transformer.py of torchvision",
    ),
    Format(
        name="torchvision, ConvNeXt",
        marks=(r"features\.\d\.\d+\.block\.\d\.", r"features\.\d\.\d+\.layer_scale$"),
        rename=CONVNEXT,
        convert=shaped,
        normalisation=IMAGENET,
        source="models/convnext.py of torchvision",
    ),
)
