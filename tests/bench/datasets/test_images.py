import numpy as np
import pytest
from PIL import Image

from bench.datasets.images import as_rgb


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    """Pillow's own conversion makes everything above 255 of 65535 white."""
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    rgb = np.asarray(as_rgb(Image.fromarray(ramp)))
    assert (rgb == np.arange(256).reshape(16, 16, 1)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert as_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_numbers_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown range"):
        as_rgb(Image.new("F", (3, 2)))
