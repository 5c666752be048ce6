"""The table of methods, and what makes no method."""

import dataclasses
from typing import Any

import pytest

from bench.errors import UserError
from pretrain.methods import COMBINATIONS, METHODS, Method, method

PAIRS = [(views, name) for views, names in COMBINATIONS.items() for name in names]


def test_the_table_has_the_framework() -> None:
    assert [m.name for m in METHODS] == [
        "mae", "r-mae", "c-mae", "simmim", "moco", "simsiam-mask", "supervised",
    ]  # fmt: skip
    assert {(m.views, m.similarity) for m in METHODS} <= set(PAIRS)
    assert all(m.source for m in METHODS)


@pytest.mark.parametrize("base", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize(("views", "similarity"), PAIRS)
def test_every_pair_is_two_changes_away_from_every_method(base: Method, views: str, similarity: str) -> None:
    made = method(base.name, views=views, similarity=similarity)
    assert (made.views, made.similarity, made.name) == (views, similarity, base.name)


def test_changes_change_nothing_else() -> None:
    assert method("mae", mask_ratio=None) == next(m for m in METHODS if m.name == "mae")
    mae = method("mae")
    assert method("mae", mask_ratio=0.9) == dataclasses.replace(mae, mask_ratio=0.9)
    assert method("c-mae", similarity="cosine").stop_gradient
    assert not method("c-mae", similarity="cosine", stop_gradient=False).stop_gradient


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mea", {}, "Unknown method 'mea'. Did you mean"),
        ("mae", {"views": "two-crop"}, "Unknown pair of views 'two-crop'. Did you mean two-crops"),
        ("mae", {"similarity": "info-nce"}, "Did you mean infonce"),
        ("mae", {"similarity": "infonce"}, "similarity infonce.*combinations are"),
        ("moco", {"views": "mask-complement", "similarity": "cross-entropy"}, "cannot be combined"),
        ("mae", {"mask_ratio": 0.0}, "mask ratio 0.0 is not between 0 and 1"),
        ("mae", {"mask_ratio": 1.0}, "mask ratio 1.0"),
        ("mae", {"mask_ratio": float("nan")}, "mask ratio nan"),
        ("mae", {"masking": "blocks"}, "Unknown masking 'blocks'. Did you mean block"),
        ("moco", {"mask_ratio": 0.5}, "mask_ratio would change nothing in two-crops with infonce: only visible"),
        ("mae", {"temperature": 0.1}, "temperature would change nothing in visible-pixels .* only infonce"),
        ("simsiam-mask", {"momentum": 0.9}, "momentum would change nothing .* only ema read"),
        ("moco", {"level": "tokens"}, "The level of two-crops must be pooled, and tokens was given"),
        ("r-mae", {"target": "ema"}, "The target of relaxed-l2 must be shared"),
        ("mae", {"decoder_dim": 100}, "does not divide into 16 heads"),
        ("c-mae", {"temperature": 0.0}, "The temperature of a method must be 0.001 to 100"),
        ("moco", {"momentum": 1.5}, "The momentum of a method must be 0 to 1, and 1.5"),
        ("simmim", {"norm_window": 48}, "an odd side"),
        ("mae", {"mask_ration": 0.5}, "Unknown field of a method 'mask_ration'. Did you mean mask_ratio"),
    ],
)  # fmt: skip
def test_what_makes_no_method_is_said(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(name, **changes)
