"""CLIP's vision tower: OpenAI's names, which open_clip took over, and those of Hugging Face's transformers.

The tensors do not show whether an MLP has GELU (open_clip's own weights) or QuickGELU (OpenAI's): unless other keys
of the file do, the architecture must be given, as `vit_base_patch16_clip_224` or
`vit_base_patch16_clip_quickgelu_224`. Under any other name the weights do not fit.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import CLIP, Format, fuse
from bench.backbones.formats.vit import named

if TYPE_CHECKING:
    from bench.backbones.formats import State

OPENAI = (r"(class_embedding|ln_pre\.\w+)$", r"transformer\.resblocks\.\d+\.attn\.in_proj_")
RENAME = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.ls_(\d)\.", r".ls\1."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)
HUGGING_FACE = (
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),  # its authors' spelling
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)


def batched(state: "State") -> "State":
    """Class token [D] and positions [N, D] with timm's leading dimensions; query, key and value as one."""
    state = fuse(state)
    token, embedding = state.get("cls_token"), state.get("pos_embed")
    if token is not None and token.ndim == 1:
        state["cls_token"] = token[None, None]
    if embedding is not None and embedding.ndim == 2:
        state["pos_embed"] = embedding[None]
    return state


def openai(_: "State") -> Mapping[str, Any]:
    """What timm's architectures with `clip_quickgelu` in their name have."""
    from functools import partial

    from timm.layers import LayerNorm

    return {"pre_norm": True, "act_layer": "quick_gelu", "norm_layer": partial(LayerNorm, eps=1e-5)}


FORMATS = (
    Format(
        name="CLIP, OpenAI",
        method="clip",
        marks=OPENAI,
        around=(r"(.*\.)?(input_resolution|context_length|vocab_size)$",),  # only OpenAI's files
        leftover=(r"proj$",),
        rename=RENAME,
        convert=batched,
        arch=named("vit_{size}_patch{patch}_clip_quickgelu_{image}"),
        options=openai,
        normalisation=CLIP,
        source="clip/model.py and clip/clip.py of CLIP",
    ),
    Format(
        name="CLIP",
        method="clip",
        marks=OPENAI,
        leftover=(r"proj$",),
        rename=RENAME,
        convert=batched,
        normalisation=CLIP,
        source="clip/model.py of CLIP, src/open_clip/transformer.py of open_clip",
    ),
    Format(
        name="Hugging Face CLIP",
        method="clip",
        marks=(r"(embeddings\.class_embedding|pre_layrnorm\.\w+)$", r"encoder\.layers\.\d+\.self_attn\."),
        leftover=(r"embeddings\.position_ids$",),
        rename=HUGGING_FACE,
        convert=batched,
        normalisation=CLIP,
        source="models/clip of transformers",
    ),
)
