"""Small data sets of images and depth, shared by the tests of depth."""

from pathlib import Path

import numpy as np
from PIL import Image

from adapters.depth import Layout


def write_pair(image: Path, depth: Path, seed: int, size: tuple[int, int], scale: float) -> None:
    """Brightness falls with depth, which grows from column to column by a random step; 0 at the top."""
    rng = np.random.default_rng(seed)
    metres = np.broadcast_to(1 + np.cumsum(rng.random(size[1]) * 14 / size[1]), size)
    pixels = np.repeat(255 - 25 * metres[..., None], 3, -1) + rng.integers(-3, 3, (*size, 3))
    stored = np.rint(metres * scale).astype(np.uint16)
    stored[: size[0] // 8] = 0
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(image)
    Image.fromarray(stored).save(depth)


def write(folder: Path, layout: Layout, train: int, test: int, size: tuple[int, int]) -> Path:
    for split, count in ((layout.train, train), (layout.test, test)):
        for i in range(count):
            image = folder / layout.images.format(split=split) / f"{i:06}.png"
            target = folder / layout.depths.format(split=split) / f"{i:06}.png"
            write_pair(image, target, i, size, layout.scale)
    return folder
