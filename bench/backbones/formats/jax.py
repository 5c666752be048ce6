"""ViTs of JAX: numpy archives of vision_transformer (the original ViTs, AugReg) and of big_vision."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.backbones.formats import INCEPTION, Format, fuse
from bench.backbones.formats.vit import NAME

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbones.formats import State

TOP = r"(?:opt/target/|params/)?"
RENAME = (
    (f"^{TOP}", ""),
    (r"^embedding/", "patch_embed.proj."),
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"LayerNorm_0/", "norm1."),
    (r"LayerNorm_[12]/", "norm2."),  # vision_transformer counts all modules, big_vision its norms
    (r"MultiHeadDotProductAttention_\d/([qkv])\w+/", r"attn.\1."),
    (r"MultiHeadDotProductAttention_\d/out/", "attn.proj."),
    (r"MlpBlock_\d/Dense_0/", "mlp.fc1."),
    (r"MlpBlock_\d/Dense_1/", "mlp.fc2."),
    (r"^head/", "head."),
    (r"\.(kernel|scale)$", ".weight"),
)


def transposed(state: "State") -> "State":
    """Kernels with outputs first: H W I O -> O I H W, I O -> O I; heads, an axis of their own, side by side."""
    return fuse({key: _outputs_first(key, value) for key, value in state.items()})


def _outputs_first(key: str, value: "Tensor") -> "Tensor":
    if re.search(r"\.attn\.[qkv]\.", key):  # [D, heads, d] and [heads, d]
        return value.flatten(-2).T if value.ndim == 3 else value.flatten()
    if key.endswith(".attn.proj.weight") and value.ndim == 3:  # [heads, d, D]
        return value.flatten(0, 1).T
    if key == "patch_embed.proj.weight" and value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    return value.T if key.endswith(".weight") and value.ndim == 2 else value


def options(state: "State") -> Mapping[str, Any]:
    """flax's GELU, an approximation by tanh; the number of heads, which unconverted kernels alone show."""
    query = next((v for k, v in state.items() if k.endswith(".attn.q.weight") and v.ndim == 3), None)
    heads = {} if query is None else {"num_heads": query.shape[1]}
    return {"act_layer": "gelu_tanh", **heads}


FORMATS = (
    Format(
        name="ViT of JAX",
        method="supervised",
        marks=(
            rf"{TOP}embedding/(kernel|bias)$",
            rf"{TOP}Transformer/encoderblock_\d+/MultiHeadDotProductAttention_\d/",
        ),
        unlike=(rf"{TOP}(conv_root|MAPHead_0)/",),
        leftover=(rf"{TOP}pre_logits/",),
        rename=RENAME,
        convert=transposed,
        arch=NAME,
        options=options,
        normalisation=INCEPTION,
        source="vit_jax/models_vit.py and vit_jax/preprocess.py of vision_transformer; big_vision/models/vit.py",
    ),
)
