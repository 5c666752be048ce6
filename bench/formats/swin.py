"""Swin and SwinV2: the official files, those of SimMIM and Hugging Face.

timm merges patches at the start of a stage, the official models at the end of the one before. SwinV2's bias
is a function of coordinates that are divided by the window of the pretraining; a file's own table of
coordinates tells it.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.formats import IMAGENET, Format
from bench.formats.fusing import fuse

if TYPE_CHECKING:
    from torch import Tensor

    from bench.formats import State

SIZES = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}
SMALL = ("tiny", "small")
STAGES = 4
V1_NAMES = {7: "window7_224", 12: "window12_384"}
V2_NAMES = {  # (window of the pretraining, window) of the first stage
    (8, 8): "window8_256",
    (16, 16): "window16_256",
    (12, 12): "window12_192",
    (12, 16): "window12to16_192to256",
    (12, 24): "window12to24_192to384",
}


def v1_arch(state: "State") -> str | None:
    """Name the size by width and depths, the image by the window, which is the same in every stage."""
    tables = _tables(state, "relative_position_bias_table")
    windows = {(math.isqrt(len(table)) + 1) // 2 for table in tables if table.ndim == 2}
    name = V1_NAMES.get(windows.pop()) if len(windows) == 1 else None
    return f"swin_{size}_patch4_{name}" if (size := _size(state)) and name else None


def v2_arch(state: "State") -> str | None:
    """Name the size by width and depths, the image by the windows, where the file has coordinates."""
    trained, size = v2_options(state).get("pretrained_window_sizes"), _size(state)
    if not trained or not size:
        return None
    window = (_tables(state, "relative_coords_table")[0].shape[1] + 1) // 2
    name = V2_NAMES.get((trained[0], window))
    return None if name is None or ("12" in name and size in SMALL) else f"swinv2_{size}_{name}"


def v2_options(state: "State") -> Mapping[str, Any]:
    """The windows of the pretraining, from the tables of coordinates that were made with them."""
    tables = _tables(state, "relative_coords_table")
    if len(tables) < STAGES or any(table.ndim != 4 for table in tables):
        return {}
    return {"pretrained_window_sizes": tuple(map(_trained_window, tables))}


def _tables(state: "State", name: str) -> list["Tensor"]:
    """A tensor of the attention of every stage's first block, where it is."""
    keys = (f"layers.{stage}.blocks.0.attn.{name}" for stage in range(STAGES))
    return [state[key] for key in keys if key in state]


def _size(state: "State") -> str | None:
    blocks = {m.groups() for m in map(re.compile(r"layers\.(\d)\.blocks\.(\d+)").match, state) if m}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(STAGES))
    norm = state.get("patch_embed.norm.weight")
    return None if norm is None else SIZES.get((norm.numel(), depths))


def _trained_window(table: "Tensor") -> int:
    """Solve the largest coordinate, log2(1 + 8 (w - 1) / (p - 1)) / 3, for p.

    After equation 4 of SwinV2 (arXiv 2111.09883) and its code. 0 for a window of one token, whose only
    coordinate says nothing.
    """
    window, largest = (table.shape[1] + 1) // 2, float(table.float().nan_to_num().max())
    return round(1 + 8 * (window - 1) / (2 ** (3 * largest) - 1)) if largest > 0 else 0


# Each mark holds where any one key is absent: the load report then names that key.
V1 = (r"layers\.\d\.blocks\.\d+\.attn\.relative_position_bias_table$",)
V2 = (r"layers\.\d\.blocks\.\d+\.attn\.(cpb_mlp|logit_scale)",)
OFFICIAL = (
    r"layers\.0\.downsample\.(reduction|norm)\.",
    r"layers\.\d\.blocks\.\d+\.attn\.qkv\.weight$",
)
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
        arch=v1_arch,
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
        arch=v1_arch,
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
        arch=v1_arch,
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
