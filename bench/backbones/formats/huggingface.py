"""ViTs as Hugging Face's transformers names them: ViT, DeiT, ViTMAE, DINOv2, BEiT.

Files have its old names (`encoder.layer.0.attention.attention.query`), models of its version 5 have new
ones (`layers.0.attention.q_proj`); both are read.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import IMAGENET, INCEPTION, Format, beit, fuse, fuse_gates, vit

if TYPE_CHECKING:
    from bench.backbones.formats import State

VIT = (
    r"embeddings\.(patch_embeddings\.projection\.|cls_token)",
    r"(encoder\.layer|layers)\.\d+\.(attention|norm1|layernorm_before)\.",
)
RENAME = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.(gate|up)_proj\.", r".mlp.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"^(encoder\.relative_position_bias|shared_position_bias)\.", "rel_pos_bias."),
    (r"\.(attention\.attention\.)?relative_position_bias\.", ".attn."),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
)
MASK = (r"(beit\.)?embeddings\.mask_token$",)


def fine(options: Callable[["State"], Mapping[str, Any]]) -> Callable[["State"], Mapping[str, Any]]:
    """Options, and norms with an eps of 1e-12, the default of these models (timm's is 1e-6)."""

    def with_eps(state: "State") -> Mapping[str, Any]:
        from functools import partial

        from timm.layers import LayerNorm

        return {**options(state), "norm_layer": partial(LayerNorm, eps=1e-12)}

    return with_eps


def registers(state: "State") -> "State":
    """Fused, and the class token's position added to it where there are registers."""
    return vit.separate_class_token(fuse_gates(fuse(state)))


FORMATS = (
    Format(
        name="Hugging Face DINOv2",
        method="dinov2",
        marks=(*VIT, r"encoder\.layer\.\d+\.layer_scale[12]\."),
        leftover=MASK,
        rename=RENAME,
        convert=registers,
        arch=vit.dinov2_name,
        options=vit.dinov2,
        normalisation=IMAGENET,
        source="models/dinov2 and models/dinov2_with_registers of transformers",
    ),
    Format(
        # The final norm is the head's module, outside of the encoder.
        name="Hugging Face BEiT, pretraining",
        method="beit",
        marks=(r"beit\.embeddings\.", r"lm_head\.", r"layernorm\."),
        leftover=(*MASK, r"lm_head\."),
        rename=((r"^beit\.", ""), *RENAME),
        convert=fuse,
        arch=beit.named("beit"),
        options=fine(beit.pretraining),
        normalisation=INCEPTION,
        source="models/beit of transformers: BeitForMaskedImageModeling",
    ),
    Format(
        name="Hugging Face BEiT",
        method="beit",
        marks=(*VIT, r"(encoder\.layer|layers)\.\d+\.lambda_[12]$"),
        leftover=MASK,
        rename=RENAME,
        convert=fuse,
        arch=beit.named("beit"),
        options=fine(beit.options),
        normalisation=INCEPTION,
        source="models/beit of transformers",
    ),
    Format(
        name="Hugging Face ViTMAE, pretraining",
        method="mae",
        marks=VIT,
        around=(r"decoder\.decoder_",),
        rename=RENAME,
        convert=fuse,
        arch=vit.NAME,
        options=fine(vit.pooled),
        normalisation=IMAGENET,
        source="models/vit_mae of transformers",
    ),
    Format(
        name="Hugging Face DeiT, distilled",
        method="deit",
        marks=(*VIT, r"embeddings\.distillation_token$"),
        leftover=MASK,
        rename=RENAME,
        convert=fuse,
        arch=vit.named("deit_{size}_distilled_patch{patch}_{image}"),
        options=fine(vit.pooled),
        normalisation=IMAGENET,
        source="models/deit of transformers",
    ),
    Format(
        # ViTMAE's encoder, DINO's and DeiT's look the same: nothing settles how images were normalised.
        name="Hugging Face ViT",
        marks=VIT,
        unlike=(r"embeddings\.(norm|patch_embeddings\.norm)\.", r"encoder\.layers\.\d+\.blocks\."),
        leftover=MASK,
        rename=RENAME,
        convert=fuse,
        arch=vit.NAME,
        options=fine(vit.pooled),
        source="models/vit and models/vit_mae of transformers",
    ),
)
