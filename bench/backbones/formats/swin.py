"""Swin and SwinV2: the official files, those of SimMIM and Hugging Face.

timm merges patches at the start of a stage, the official models at the end of the one before. SwinV2's bias
is a function of coordinates divided by the window of the pretraining, which a file's table of coordinates shows.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import IMAGENET, Format, fuse

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbones.formats import State

STAGES = 4
V2_NAMES = {  # (window of the pretraining, window) of the first stage
    (8, 8): "window8_256",
    (16, 16): "window16_256",
    (12, 12): "window12_192",
    (12, 16): "window12to16_192to256",
    (12, 24): "window12to24_192to384",
}


def v2_arch(state: "State") -> str | None:
    """Of timm's names that fit the weights, the one of these windows, where the file has coordinates."""
    from bench.backbones import architectures

    trained = v2_options(state).get("pretrained_window_sizes")
    if not trained:
        return None
    window = (_tables(state)[0].shape[1] + 1) // 2
    names = architectures.matching({key: tuple(value.shape) for key, value in state.items()})
    known = V2_NAMES.get((trained[0], window))
    return next((name for name in names if known and name.endswith(known)), None)


def v2_options(state: "State") -> Mapping[str, Any]:
    """The windows of the pretraining, from the tables of coordinates that were made with them."""
    tables = _tables(state)
    if len(tables) < STAGES or any(table.ndim != 4 for table in tables):
        return {}
    return {"pretrained_window_sizes": tuple(map(_trained_window, tables))}


def _tables(state: "State") -> list["Tensor"]:
    """The coordinates of every stage's first block, where they are."""
    keys = (f"layers.{stage}.blocks.0.attn.relative_coords_table" for stage in range(STAGES))
    return [state[key] for key in keys if key in state]


def _trained_window(table: "Tensor") -> int:
    """Solve the largest coordinate, log2(1 + 8 (w - 1) / (p - 1)) / 3, for p.

    After equation 4 of SwinV2 (arXiv 2111.09883) and its code. 0 for a window of one token, whose only
    coordinate is 0.
    """
    window, largest = (table.shape[1] + 1) // 2, float(table.float().nan_to_num().max())
    return round(1 + 8 * (window - 1) / (2 ** (3 * largest) - 1)) if largest > 0 else 0


# Each mark matches even if any one key is absent: the load report then names that key.
V1 = (r"layers\.\d\.blocks\.\d+\.attn\.relative_position_bias_table$",)
V2 = (r"layers\.\d\.blocks\.\d+\.attn\.(cpb_mlp|logit_scale)",)
OFFICIAL = (r"layers\.0\.downsample\.(reduction|norm)\.", r"layers\.\d\.blocks\.\d+\.attn\.qkv\.weight$")
LATER = tuple((rf"^layers\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in (2, 1, 0))
HEAD = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)
MASK = r"mask_token$"

HUGGING_FACE = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.", ""),
    *LATER,
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self|relative_position_bias)\.(relative|logit_scale)", r".attn.\2"),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.(output\.dense|mlp\.fc2)\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)
FORMATS = (
    Format(
        name="SimMIM, Swin",
        method="simmim",
        marks=(*V1, *OFFICIAL, MASK),
        leftover=(MASK,),
        rename=(*LATER, *HEAD),
        normalisation=IMAGENET,
        source="models/simmim.py and models/swin_transformer.py of SimMIM",
    ),
    Format(
        name="SimMIM, SwinV2",
        method="simmim",
        marks=(*V2, *OFFICIAL, MASK),
        leftover=(MASK,),
        rename=(*LATER, *HEAD),
        arch=v2_arch,
        options=v2_options,
        normalisation=IMAGENET,
        source="models/simmim.py and models/swin_transformer_v2.py of Swin-Transformer",
    ),
    Format(
        name="Swin, official",
        marks=(*V1, *OFFICIAL),
        rename=(*LATER, *HEAD),
        normalisation=IMAGENET,
        source="models/swin_transformer.py of Swin-Transformer",
    ),
    Format(
        name="SwinV2, official",
        marks=(*V2, *OFFICIAL),
        rename=(*LATER, *HEAD),
        arch=v2_arch,
        options=v2_options,
        normalisation=IMAGENET,
        source="models/swin_transformer_v2.py of Swin-Transformer",
    ),
    Format(
        name="Hugging Face, Swin",
        marks=(
            r"embeddings\.patch_embeddings\.projection\.",
            r"encoder\.layers\.\d\.blocks\.\d+\.attention\.(self|relative_position_bias)\.relative_position_bias_table$",
        ),
        leftover=(r"embeddings\.mask_token$",),
        rename=HUGGING_FACE,
        convert=fuse,
        normalisation=IMAGENET,
        source="modeling_swin.py of transformers",
    ),
    Format(
        name="Hugging Face, Swinv2",
        marks=(
            r"embeddings\.patch_embeddings\.projection\.",
            r"encoder\.layers\.\d\.blocks\.\d+\.attention\.self\.(continuous|logit)",
        ),
        leftover=(r"embeddings\.mask_token$",),
        rename=HUGGING_FACE,
        convert=fuse,
        arch=v2_arch,
        options=v2_options,
        normalisation=IMAGENET,
        source="modeling_swinv2.py of transformers",
    ),
)
