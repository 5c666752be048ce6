"""Small folders of images for the tests of pretraining's data."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: int = 24) -> Image.Image:
    """A little noise of its own about a brightness of its own: `number` + 20, up to 220."""
    noise = np.random.default_rng(number).integers(-1, 2, (size, size, 3))
    return Image.fromarray((number + 20 + noise).astype(np.uint8))


def folder(root: Path, count: int, classes: int = 0) -> Path:
    """`count` images 000.png, ...; in turn below so many class folders, if any."""
    for k in range(count):
        home = root / f"class{k % classes}" if classes else root
        home.mkdir(parents=True, exist_ok=True)
        picture(k).save(home / f"{k:03d}.png")
    return root
