"""BEiT, BEiT v2, and SimMIM's ViT, which is built alike: relative position bias, LayerScale, no bias of the key."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import IMAGENET, INCEPTION, Format
from bench.backbones.formats.vit import depth, has, width

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbones.formats import State

SIZES = {(768, 12): "base", (1024, 24): "large"}
BEIT = (r"blocks\.\d+\.attn\.(q_bias|v_bias)$", r"blocks\.\d+\.attn\.qkv\.weight$")
PRETRAINING = (r"mask_token$", r"lm_head\.", r"cls_pt_")


def options(state: "State") -> Mapping[str, Any]:
    """One table of relative positions for all blocks, as in pretraining, or one for each."""
    shared = has(state, r"rel_pos_bias\.")
    return {
        "use_shared_rel_pos_bias": shared,
        "use_rel_pos_bias": not shared,
        "use_abs_pos_emb": "pos_embed" in state,
        "init_values": 0.1 if has(state, r"blocks\.\d+\.gamma_[12]$") else None,
        "global_pool": "avg" if has(state, r"fc_norm\.") else "token",
    }


def pretraining(state: "State") -> Mapping[str, Any]:
    """What every pretraining has; a key absent from the file is then reported as missing."""
    always = {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False, "init_values": 0.1}
    return {**options(state), **always, "global_pool": "token"}


def named(family: str) -> Callable[["State"], str | None]:
    """The guess at timm's name: a table has (2 n - 1)^2 + 3 rows for n x n patches."""

    def name(state: "State") -> str | None:
        import timm

        weight, table = state.get("patch_embed.proj.weight"), _table(state)
        size = SIZES.get((width(state), depth(state)))
        if table is None or weight is None or weight.ndim != 4 or size is None:
            return None
        patches = (math.isqrt(max(table.shape[0] - 3, 0)) + 1) // 2
        images = (patches * weight.shape[-1], 224)
        names = [f"{family}_{size}_patch{weight.shape[-1]}_{image}" for image in images]
        return next((name for name in names if timm.is_model(name)), None)

    return name


def _table(state: "State") -> "Tensor | None":
    found = (v for k, v in state.items() if k.endswith("relative_position_bias_table"))
    return next((table for table in found if table.ndim == 2), None)


FORMATS = (
    Format(
        name="BEiT v2, pretraining",
        method="beitv2",
        marks=(*BEIT, r"lm_head\.", r"cls_pt_layers\."),
        leftover=PRETRAINING,
        arch=named("beitv2"),
        options=pretraining,
        normalisation=IMAGENET,
        source="modeling_pretrain.py and PRETRAINING.md of BEiT v2",
    ),
    Format(
        name="BEiT, pretraining",
        method="beit",
        marks=(*BEIT, r"(lm_head\.|mask_token$)"),
        around=(r"(.*\.)?lm_head\.",),
        leftover=PRETRAINING,
        arch=named("beit"),
        options=pretraining,
        normalisation=INCEPTION,
        source="modeling_pretrain.py and datasets.py of BEiT",
    ),
    Format(
        name="SimMIM, ViT pretraining",
        method="simmim",
        marks=BEIT,
        around=(r"(module\.)?decoder\.0\.", r"(module\.)?encoder\.mask_token$"),
        leftover=PRETRAINING,
        arch=named("beit"),
        options=pretraining,
        normalisation=IMAGENET,
        source="models/simmim.py and models/vision_transformer.py of SimMIM",
    ),
    Format(
        # Fine-tuned by BEiT or SimMIM, or timm's own: the files do not differ.
        name="BEiT or SimMIM, fine-tuned ViT",
        marks=(*BEIT, r".*relative_position_bias_table$"),
        leftover=PRETRAINING,
        arch=named("beit"),
        options=options,
        source="modeling_finetune.py of BEiT, models/vision_transformer.py of SimMIM, beit.py of timm",
    ),
)
