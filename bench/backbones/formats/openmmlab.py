"""OpenMMLab's spellings: Swin, SwinV2, ViT (also of MAE, MoCo v3, DeiT), BEiT, ConvNeXt, ResNet with a deep stem.

mmpretrain, mmdetection, mmsegmentation and mmpose save them under `backbone.`. Their ResNets and ViTDet's
ViT have the names that timm has. A `caffe` ResNet has its stride in another convolution, which weights do not
show.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import IMAGENET, Format, beit, swin, vit
from bench.backbones.formats.convolutional import CONVNEXT, shaped

if TYPE_CHECKING:
    from bench.backbones.formats import State

MERGING = re.compile(r"layers\.\d\.downsample\.(reduction|norm)\.(weight|bias)")


def official_order(state: "State") -> "State":
    """Put the inputs of patch merging in the official order.

    nn.Unfold lays the four neighbours of one channel side by side, row by row; the official models lay
    all channels of one neighbour side by side, column by column. A norm behind the merging has no order.
    """
    ordered = dict(state)
    for key in filter(MERGING.fullmatch, state):
        reduction = state.get(f"{key.rpartition('.downsample.')[0]}.downsample.reduction.weight")
        inputs = reduction.shape[-1] if reduction is not None and reduction.ndim == 2 else 0
        if state[key].shape[-1:] == (inputs,) and inputs % 4 == 0:
            neighbours = state[key].unflatten(-1, (inputs // 4, 2, 2))
            ordered[key] = neighbours.movedim(-3, -1).transpose(-3, -2).flatten(-3)
    return ordered


def vit_options(state: "State") -> Mapping[str, Any]:
    """What the names leave open: heads (MoCo v3), LayerScale, a norm before the blocks, DeiT III's positions."""
    patches = vit.length(state, "pos_embed")
    moco = vit.sines(state, rows_first=True)
    return {
        **(vit.moco_v3(state) if moco else vit.pooled(state)),
        **({"init_values": 1e-6} if vit.has(state, r"blocks\.\d+\.ls[12]\.") else {}),
        **({"pre_norm": True} if vit.has(state, r"norm_pre\.") else {}),
        **({"no_embed_class": True} if patches and math.isqrt(patches) ** 2 == patches else {}),
    }


BLOCK = (
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),  # mmsegmentation's ViT holds torch's attention
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
    (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
)
SWIN = (*BLOCK, (r"^stages\.(\d)\.", r"layers.\1."), (r"^norm3\.", "norm."))
VIT = (
    *BLOCK,
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"^ln1\.", "norm."),
    (r"^ln2\.", "fc_norm."),  # of the mean of the patch tokens
    (r"^pre_norm\.", "norm_pre."),
)
OUTPUT_NORMS = r"norm[012]\."  # of the lower maps of a pyramid, which a detector trained
MASK = r"mask_token$"
VIT_MARKS = (r"layers\.\d+\.ln[12]\.", r"layers\.\d+\.ffn\.layers\.\d\.")
BEIT = r"layers\.\d+\.attn\.[qv]_bias$"

FORMATS = (
    Format(
        name="OpenMMLab, Swin",
        marks=(r"stages\.\d\.blocks\.\d+\.attn\.w_msa\.relative_position_bias_table$",),
        leftover=(OUTPUT_NORMS, MASK),
        rename=(*SWIN, *swin.LATER),
        convert=official_order,
        normalisation=IMAGENET,
        source="backbones/swin.py of mmdetection, backbones/swin_transformer.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, SwinV2",
        marks=(r"stages\.\d\.blocks\.\d+\.attn\.w_msa\.(cpb_mlp|logit_scale)",),
        leftover=(OUTPUT_NORMS, MASK),
        rename=SWIN,
        convert=official_order,
        arch=swin.v2_arch,
        options=swin.v2_options,
        normalisation=IMAGENET,
        source="backbones/swin_transformer_v2.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, BEiT",
        marks=(*VIT_MARKS, BEIT),
        leftover=(MASK,),
        rename=VIT,
        arch=beit.named("beit"),
        options=beit.options,
        source="backbones/beit.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, MAE",
        method="mae",
        marks=VIT_MARKS,
        around=(r"neck\.decoder_(blocks|embed|norm|pred)\.",),
        unlike=(BEIT,),
        rename=VIT,
        arch=vit.NAME,
        options=vit_options,
        normalisation=IMAGENET,
        source="selfsup/mae.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, MoCo v3",
        method="mocov3",
        marks=VIT_MARKS,
        around=(r"momentum_encoder\.",),
        unlike=(BEIT,),
        rename=VIT,
        arch=vit.NAME,
        options=vit.moco_v3,
        normalisation=IMAGENET,
        source="selfsup/mocov3.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, ViT",
        marks=VIT_MARKS,
        unlike=(BEIT,),
        leftover=(MASK,),
        rename=VIT,
        arch=vit.NAME,
        options=vit_options,
        source="backbones/vision_transformer.py of mmpretrain, backbones/vit.py of mmsegmentation",
    ),
    Format(
        name="OpenMMLab, ConvNeXt",
        marks=(r"stages\.\d\.\d+\.(depthwise_conv|pointwise_conv[12])\.", r"downsample_layers\.\d\."),
        leftover=(OUTPUT_NORMS,),
        rename=(
            (r"\.depthwise_conv\.", ".dwconv."),
            (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
            (r"^norm3\.", "norm."),
            *CONVNEXT,
        ),
        convert=shaped,
        normalisation=IMAGENET,
        source="backbones/convnext.py of mmpretrain",
    ),
    Format(
        name="OpenMMLab, ResNet with a deep stem",
        marks=(r"stem\.[0346]\.(weight|bias)$", r"layer1\.\d+\.conv\d\.", r"layer4\."),
        rename=((r"^stem\.7\.", "bn1."), (r"^stem\.", "conv1.")),
        normalisation=IMAGENET,
        source="ResNetV1c and ResNetV1d, backbones/resnet.py of mmsegmentation",
    ),
)
