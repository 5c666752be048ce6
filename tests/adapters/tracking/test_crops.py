"""Crops against hand-worked mappings, and the pixels they take against the frame's own."""

import numpy as np
import pytest

from adapters.tracking import pairs
from adapters.tracking.pairs import Crop, around

BORDERS = np.array(
    [
        [0, 0, 12, 9],
        [308, 231, 12, 9],  # the lower right corner of 320 x 240
        [-7.5, 100, 30, 5],
        [319.9, 239.9, 40, 40],
        [0, 0, 320, 240],
    ]
)


@pytest.mark.parametrize("factor", [2.0, 4.0])
@pytest.mark.parametrize("box", BORDERS)
def test_mappings_invert_each_other_at_the_borders(box: np.ndarray, factor: float) -> None:
    plain = around(box, factor, 224)
    moved = pairs.jittered(plain, box, 0.25, 3.0, np.random.default_rng(0))
    for crop in (plain, moved):
        np.testing.assert_allclose(crop.to_frame(crop.to_crop(BORDERS)), BORDERS, atol=1e-4)
        np.testing.assert_allclose(crop.to_crop(crop.to_frame(BORDERS)), BORDERS, atol=1e-4)


def test_side_of_the_crop() -> None:
    """By hand: of 30 x 10, p = 20 at factor 2, so sqrt(50 * 30); of a square, factor times its side."""
    oblong, square = np.array([0.0, 0, 30, 10]), np.array([50.0, 60, 20, 20])

    assert 112 / around(oblong, 2.0, 112).scale[0] == pytest.approx(np.sqrt(1500))
    assert 224 / around(square, 4.0, 224).scale[0] == pytest.approx(80)
    assert around(square, 4.0, 224).to_crop(square) == pytest.approx([84, 84, 56, 56])
    assert 224 / around(square, 4.0, 224, smallest=40).scale[1] == pytest.approx(160)


def test_crop_at_scale_one_has_the_frames_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    crop = Crop(centre=(30.0, 20.0), middle=(8.0, 8.0), scale=(1.0, 1.0), size=16)

    assert (crop.take(frame) == frame[12:28, 22:38]).all()


def test_crop_of_a_ramp_is_where_the_mapping_says() -> None:
    """At another scale, over each pixel's centre: a ramp is resampled without error, but for rounding."""
    ramp = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (100, 1))[..., None], 3, -1)
    crop = around(np.array([80.0, 40, 20, 20]), 3.0, 96)
    centres = np.stack((np.arange(96) + 0.5, np.full(96, 48.0), *np.zeros((2, 96))), -1)
    expected = crop.to_frame(centres)[:, 0] - 0.5

    assert np.abs(crop.take(ramp)[48, :, 0] - expected).max() <= 0.6


def test_mean_colour_lies_around_the_frame() -> None:
    frame = np.zeros((50, 50, 3), np.uint8)
    frame[:25] = (200, 100, 50)
    seen = around(np.array([0.0, 0, 20, 20]), 4.0, 80).take(frame)

    assert seen[0, 0].tolist() == [100, 50, 25]
    assert seen[45, 45].tolist() == [200, 100, 50]


def test_jitter_moves_evenly_about_the_middle_and_keeps_some_of_the_box() -> None:
    box, random = np.array([100.0, 80, 30, 20]), np.random.default_rng(0)
    plain = around(box, 4.0, 128)
    moved = [pairs.jittered(plain, box, 0.25, 3.0, random) for _ in range(2000)]
    inside = np.array([crop.to_crop(box) for crop in moved])
    centres = inside[:, :2] + inside[:, 2:] / 2
    stretch = np.log([np.array(crop.scale) / plain.scale for crop in moved])

    assert all(pairs.overlaps(crop.to_crop(box), 128, 128) for crop in moved)
    assert np.abs(centres.mean(0) - 64).max() < 2
    reach = 1.5 * (box[2:].sum() * plain.scale[0]) / 2
    assert 0.8 * reach < np.abs(centres - 64).max()
    assert stretch.std(0) == pytest.approx([0.25, 0.25], rel=0.15)


def test_part_of_a_box_inside_a_picture() -> None:
    assert pairs.clipped(np.array([-5.0, 10, 20, 20]), 100, 25).tolist() == [0, 10, 15, 15]
    assert not pairs.overlaps(np.array([100.0, 0, 5, 5]), 100, 25)
