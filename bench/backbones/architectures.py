"""Find timm's architecture from the names and shapes of its weights.

    python -m tools.supported_models --write    # architectures.json, docs/supported-models.md; minutes

The table is generated, and read without importing torch or timm. It also states which
architectures satisfy the feature contract.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("architectures.json")

# No part of the encoder: classifiers, as timm calls them, with the norms and layers in front of them.
HEAD = re.compile(r"(head|heads|head_dist|heads_dist|aux_head|fc|classif|classifier|last_linear)\.")
# Tensors that grow with the size of the input, by the last part of their names ...
SIZED = re.compile(
    r"(.*\.)?((pos_embed|patch_pos|pixel_pos)\w*|position_embedding_table|attention_biases"
    r"|relative_position_bias_table|rel_pos_[hw]|(height|width)_rel)$"
)
# ... and buffers that models compute, and some files hold.
COMPUTED = re.compile(r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask|k_bias|num_batches_tracked)$")


def signature(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return the hash of an encoder's names and shapes, by timm's names; it is equal for all input sizes.

    The classifier and computed buffers are left out. Of weights that grow with the input, only the name
    counts. A norm after mean pooling (`fc_norm`) counts as a norm before it (`norm`).
    """
    encoder_shapes = {
        re.sub(r"^fc_norm\.", "norm.", key): None if SIZED.match(key) else list(shape)
        for key, shape in shapes.items()
        if not HEAD.match(key) and not COMPUTED.match(key)
    }
    return _digest(encoder_shapes)


def matching(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The architectures of this signature, likeliest first; none: ().

    First come those that position embeddings and bias tables fit as they are; then those that timm
    publishes the most weights of, and then the shortest name. What shapes do not show (the padding
    of TensorFlow's EfficientNets, the activation of CLIP's) may differ between them.
    """
    sized, table = size_signature(shapes), _by_signature()
    names = table.get(signature(shapes), ())
    return tuple(sorted(names, key=lambda name: known()[name]["sized"] != sized))


def architectures() -> frozenset[str]:
    """Every architecture that timm registered when the table was made."""
    return frozenset(known())


def size_signature(shapes: Mapping[str, Sequence[int]]) -> str:
    """The hash of the shapes that `signature` leaves out because they grow with the input."""
    return _digest({key: list(shape) for key, shape in shapes.items() if SIZED.match(key)})


@functools.cache
def known() -> dict[str, dict[str, Any]]:
    """The table: what is known of each architecture, by its name."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text("utf-8"))["architectures"]
    return table


@functools.cache
def _by_signature() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name in sorted(known(), key=lambda name: (-known()[name]["tags"], len(name), name)):
        found.setdefault(known()[name]["signature"], []).append(name)
    return {hashed: tuple(names) for hashed, names in found.items()}


def _digest(shapes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:12]
