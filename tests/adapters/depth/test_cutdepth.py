"""Vertical CutDepth: what the strip shows, where it lies, how often it comes."""

from typing import Any

import numpy as np
import pytest

from adapters.depth import data
from adapters.depth.data import VerticalCutDepth


def results(depth: np.ndarray, units: float = 1000.0) -> dict[str, Any]:
    """A black image of the depth's size."""
    image = np.zeros((*depth.shape, 3), np.uint8)
    return {"img": image, "gt_depth_map": depth, "depth_rescale_factor": 1 / units}


def ramp(width: int) -> np.ndarray:
    """Depth 1.25 m, 2.5 m, … by column."""
    return np.tile(np.arange(1, width + 1, dtype=np.float32) * 1.25, (3, 1))


def draw(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    drawn = iter(values)
    monkeypatch.setattr(data.np.random, "random", lambda: next(drawn))


def test_strip_by_hand_scaled_to_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From column 2 of 8; 0.5 of 3/4 of the 6 columns left is 2.25, so 2 wide."""
    draw(monkeypatch, 0.1, 0.25, 0.5)
    shown = VerticalCutDepth(prob=0.25, max_depth=10.0).transform(results(ramp(8)))["img"]

    expected = [0, 0, round(255 * 3.75 / 10), round(255 * 5 / 10), 0, 0, 0, 0]
    assert (shown == np.array(expected)[None, :, None]).all()


@pytest.mark.parametrize(("units", "expected"), [(1000.0, 3750 % 256), (256.0, 960 % 256)])
def test_strip_wrapped_as_upstream_writes_it(monkeypatch: pytest.MonkeyPatch, units: float, expected: int) -> None:
    draw(monkeypatch, 0.1, 0.25, 0.0)
    cut = VerticalCutDepth(prob=0.25, max_depth=10.0, wrapped=True)
    shown = cut.transform(results(ramp(8), units))["img"]

    assert shown[0, :, 0].tolist() == [0, 0, expected, 0, 0, 0, 0, 0]


def test_depth_beyond_the_range_is_white_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, 0.1, 0.9, 0.0)
    shown = VerticalCutDepth(prob=0.25, max_depth=10.0).transform(results(ramp(10)))["img"]

    assert shown[0, 9].tolist() == [255, 255, 255]


def test_strip_is_one_to_three_quarters_of_what_is_right_of_it() -> None:
    np.random.seed(0)
    cut = VerticalCutDepth(prob=1.0, max_depth=1.0)
    depth = np.ones((2, 40), np.float32)
    widths = []
    for _ in range(300):
        columns = np.flatnonzero(cut.transform(results(depth))["img"][0, :, 0])
        start, width = columns[0], len(columns)
        assert width == columns[-1] - start + 1, "one strip"
        assert 1 <= width <= max(0.75 * (40 - start), 1)
        widths.append(width)
    assert max(widths) > 20


def test_one_image_in_four_is_cut_and_depth_never() -> None:
    np.random.seed(0)
    cut = VerticalCutDepth(prob=0.25, max_depth=20.0)
    given = [results(ramp(8)) for _ in range(400)]
    changed = [cut.transform(dict(r)) for r in given]

    assert 70 < sum(c["img"].any() for c in changed) < 130
    assert not any(r["img"].any() for r in given), "the image given is not written to"
    assert all((c["gt_depth_map"] == ramp(8)).all() for c in changed)
