"""Labels drawn on a tile."""

import numpy as np
from PIL import Image

from bench.datasets.dataset import Example
from bench.datasets.drawing import tile


def test_labels_are_drawn_where_they_are() -> None:
    """A 300x300 image is drawn at its size."""
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    boxed = tile(Example(image=grey, caption="", boxes=[("cat", (100, 150, 60, 40))]))
    assert boxed.getpixel((50, 50)) == boxed.getpixel((130, 170)) == (128, 128, 128)
    assert boxed.getpixel((100, 180)) == boxed.getpixel((160, 180)) != (128, 128, 128)
    regions = np.zeros((300, 300), int)
    regions[:, 150:] = 3
    masked = tile(Example(image=grey, caption="", regions=regions, names={0: "background", 3: "sky"}))
    assert masked.getpixel((20, 280)) == (128, 128, 128)
    assert masked.getpixel((290, 290)) != (128, 128, 128)
    depth = np.tile(np.linspace(1.0, 10.0, 300), (300, 1))
    depth[:50] = 0
    seen = tile(Example(image=grey, caption="", depth=depth))
    near, far, unknown = (seen.getpixel(at) for at in ((310, 200), (590, 200), (450, 30)))
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert len(set(unknown)) == 1
    pose = np.array([[30, 40, 2], [200, 40, 1], [100, 250, 0]])
    posed = tile(Example(image=grey, caption="", poses=[pose], bones=[(0, 1), (1, 2)]))
    assert posed.getpixel((115, 40)) != (128, 128, 128)
    assert posed.getpixel((100, 250)) == posed.getpixel((150, 145)) == (128, 128, 128)
