"""Plain ViTs under timm's own names, which DeiT, DINO, MoCo v3, MAE, iBOT and DINOv2 took over.

They differ in the keys around the encoder, in a few tokens, and in options that shapes do not show.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import IMAGENET, Format

if TYPE_CHECKING:
    from bench.backbones.formats import State

# Each matches even if any one encoder key is absent: the load report then names that key.
VIT = (r"blocks\.\d+\.(\d+\.)?attn\.qkv\.weight$", r"patch_embed\.proj\.(weight|bias)$", r"(pos_embed|cls_token)$")

# Attention of other families that share these names.
OTHERS = (
    r"blocks\.\d+\.attn\.(q_bias|q_norm|norm|rel_pos|relative_position|rope|gat|qk\.|proj_[lw])",
    r"blocks\.\d+\.(proj|attn_block|mlp\.w1)\.",
    r"(rope|reg_token|norm_pre|pos_embed_window|stages\.|rel_pos_bias|blocks_token_only)",
)

SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (512, 12): "medium",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
    (1536, 40): "giant",
}


def named(pattern: str, *, exact: bool = False) -> Callable[["State"], str | None]:
    """The guess at timm's name from shapes: `pattern` with {size}, {patch} and {image} filled in.

    An image size that no name has is taken as 224's, unless `exact`; None where timm has neither.
    """

    def name(state: "State") -> str | None:
        import timm

        weight = state.get("patch_embed.proj.weight")
        size = SIZES.get((width(state), depth(state)))
        if weight is None or weight.ndim != 4 or size is None or "cls_token" not in state:
            return None
        patch = weight.shape[-1]
        names = [pattern.format(size=size, patch=patch, image=i) for i in (patch * side(state), 224)]
        return next((name for name in names if timm.is_model(name)), None)

    return name


def width(state: "State") -> int:
    """Channels of the tokens; 0 without a final norm."""
    found = [v for k, v in state.items() if re.match(r"(fc_)?norm\.(weight|bias)$", k)]
    return found[0].numel() if found else 0


def depth(state: "State") -> int:
    """Number of blocks."""
    return 1 + max((int(found[1]) for k in state if (found := re.match(r"blocks\.(\d+)\.", k))), default=-1)


def length(state: "State", key: str) -> int:
    """How many tokens an embedding [1, n, D] has; 0 where it is absent or of another form."""
    embedding = state.get(key)
    return embedding.shape[1] if embedding is not None and embedding.ndim == 3 else 0


def side(state: "State") -> int:
    """Patches along an image's edge, prefix tokens not counted; 0 without position embeddings."""
    return math.isqrt(length(state, "pos_embed"))


def has(state: "State", expression: str) -> bool:
    """Whether any key begins so."""
    return any(re.match(expression, key) for key in state)


def pooled(state: "State") -> Mapping[str, Any]:
    """The mean of the patch tokens where their mean is normalised, as MAE fine-tunes."""
    return {"global_pool": "avg"} if has(state, r"fc_norm\.") else {}


def moco_v3(state: "State") -> Mapping[str, Any]:
    """Its ViT-S has 12 heads, as its ViT-B; the others have timm's number."""
    return {**pooled(state), **({"num_heads": 12} if width(state) == 384 else {})}


def sines(state: "State", *, rows_first: bool) -> bool:
    """Whether positions are fixed: sines of the row, then of the column (MoCo v3), or the reverse (MAE).

    Source: `build_2d_sincos_position_embedding` in vits.py of MoCo v3, util/pos_embed.py of MAE.
    """
    import torch

    n, embedding = side(state), state.get("pos_embed")
    if embedding is None or embedding.is_meta or length(state, "pos_embed") != n * n + 1:
        return False
    channels, odd = divmod(embedding.shape[2], 4)
    omega = 10000.0 ** -(torch.arange(channels) / max(channels, 1))
    angles = torch.arange(n)[:, None] * omega
    table = torch.cat([angles.sin(), angles.cos()], 1)
    first = embedding[0, 1:, : 2 * channels].float().reshape(n, n, -1)
    return not odd and torch.allclose(first, table[:, None] if rows_first else table[None], atol=1e-4)


def plain(state: "State") -> Mapping[str, Any]:
    """What the names of a ViT leave open, whatever pretrained it."""
    return moco_v3(state) if sines(state, rows_first=True) else pooled(state)


def separate_class_token(state: "State") -> "State":
    """Registers have no position: the class token's is added to it, as timm's `no_embed_class` wants."""
    token, embedding = state.get("cls_token"), state.get("pos_embed")
    if "reg_token" not in state or token is None or embedding is None:
        return state
    if token.ndim != 3 or embedding.ndim != 3 or token.shape[-1] != embedding.shape[-1]:
        return state
    return {**state, "cls_token": token + embedding[:, :1], "pos_embed": embedding[:, 1:]}


def dinov2(state: "State") -> Mapping[str, Any]:
    """LayerScale, register tokens, and ViT-g's gated MLP."""
    options: dict[str, Any] = {"init_values": 1e-5}
    if "reg_token" in state:
        options |= {"reg_tokens": length(state, "reg_token"), "no_embed_class": True}
    return options | gated(state)


def gated(state: "State") -> dict[str, Any]:
    """SwiGLU: `fc1` gives twice what `fc2` takes."""
    from timm.layers import SwiGLUPacked

    inner, outer = state.get("blocks.0.mlp.fc1.bias"), state.get("blocks.0.mlp.fc2.weight")
    if inner is None or outer is None or outer.ndim != 2 or inner.numel() != 2 * outer.shape[1]:
        return {}
    ratio = (inner.numel() + 0.5) / outer.shape[0]  # timm rounds down
    return {"mlp_layer": SwiGLUPacked, "mlp_ratio": ratio, "act_layer": "silu"}


NAME = named("vit_{size}_patch{patch}_{image}")


def dinov2_name(state: "State") -> str | None:
    """Of the weights, with or without registers; those that were trained at another patch have none."""
    registers = f"reg{count}_" if (count := length(state, "reg_token")) else ""
    return named(f"vit_{{size}}_patch{{patch}}_{registers}dinov2")(state) or NAME(state)


def deit3(state: "State") -> Mapping[str, Any]:
    """LayerScale; a position for each patch, none for the class token."""
    patches_alone = side(state) ** 2 == length(state, "pos_embed")
    return {**pooled(state), "init_values": 1e-6, "no_embed_class": patches_alone}


FORMATS = (
    Format(
        name="MAE, pretraining",
        method="mae",
        marks=(*VIT, r"decoder_(embed|blocks|pos_embed)", r"(mask_token|decoder_pred)"),
        leftover=(r"decoder_", r"mask_token$"),
        arch=NAME,
        normalisation=IMAGENET,
        source="models_mae.py of MAE",
    ),
    Format(
        name="MoCo v3, pretraining",
        method="mocov3",
        marks=VIT,
        unlike=OTHERS,
        around=(r"(module\.)?base_encoder\.", r"(module\.)?momentum_encoder\."),
        arch=NAME,
        options=moco_v3,
        normalisation=IMAGENET,
        source="moco/builder.py and vits.py of MoCo v3",
    ),
    Format(
        name="iBOT",
        method="ibot",
        marks=VIT,
        unlike=OTHERS,
        around=(r"(module\.)?head\.(last_layer2|mlp2)\b",),
        leftover=(r"masked_embed$",),
        arch=NAME,
        options=pooled,
        normalisation=IMAGENET,
        source="main_ibot.py and models/vision_transformer.py of iBOT",
    ),
    Format(
        name="iBOT, backbone",
        method="ibot",
        marks=(*VIT, r"masked_embed$"),
        unlike=OTHERS,
        leftover=(r"masked_embed$",),
        arch=NAME,
        options=pooled,
        normalisation=IMAGENET,
        source="models/vision_transformer.py of iBOT",
    ),
    Format(
        name="DINO",
        method="dino",
        marks=VIT,
        unlike=(*OTHERS, r"blocks\.\d+\.(\d+\.)?ls1\."),
        around=(r"(module\.)?head\.last_layer\b",),
        arch=NAME,
        normalisation=IMAGENET,
        source="main_dino.py and vision_transformer.py of DINO",
    ),
    Format(
        name="DINOv2",
        method="dinov2",
        marks=(*VIT, r"blocks\.\d+\.(\d+\.)?ls1\.gamma$", r"(mask_token|register_tokens)$"),
        leftover=(r"mask_token$",),
        # Trained in chunks of blocks, whose second number counts from the first block.
        rename=(
            (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
            (r"^register_tokens$", "reg_token"),
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
        convert=separate_class_token,
        arch=dinov2_name,
        options=dinov2,
        normalisation=IMAGENET,
        source="dinov2/models/vision_transformer.py of DINOv2",
    ),
    Format(
        name="DeiT, distilled",
        method="deit",
        marks=(*VIT, r"dist_token$"),
        arch=named("deit_{size}_distilled_patch{patch}_{image}"),
        normalisation=IMAGENET,
        source="models.py of DeiT",
    ),
    Format(
        name="DeiT III",
        method="deit3",
        marks=(*VIT, r"pos_embed$", r"blocks\.\d+\.gamma_[12]$"),
        unlike=OTHERS,
        rename=((r"\.gamma_(\d)$", r".ls\1.gamma"),),
        arch=named("deit3_{size}_patch{patch}_{image}"),
        options=deit3,
        normalisation=IMAGENET,
        source="models_v2.py of DeiT III",
    ),
    Format(
        # As given out, without decoder, or with the classifier of a linear probe.
        name="MAE, encoder",
        method="mae",
        marks=VIT,
        unlike=OTHERS,
        holds=partial(sines, rows_first=False),
        arch=NAME,
        options=pooled,
        normalisation=IMAGENET,
        source="models_mae.py and util/pos_embed.py of MAE",
    ),
    Format(
        name="MoCo v3, encoder",
        method="mocov3",
        marks=VIT,
        unlike=OTHERS,
        holds=partial(sines, rows_first=True),
        arch=NAME,
        options=moco_v3,
        normalisation=IMAGENET,
        source="main_lincls.py and vits.py of MoCo v3",
    ),
    Format(
        name="ViT",
        marks=VIT,
        unlike=(*OTHERS, r"blocks\.\d+\.(\d+|ls1)\."),
        arch=named("vit_{size}_patch{patch}_{image}", exact=True),
        options=pooled,
        source="vision_transformer.py of timm; DeiT, DINO, MoCo v3 and MAE give theirs out so",
    ),
)
