"""Images of any kind as 8-bit RGB, alike in evaluation and pretraining."""

import os

import numpy as np
from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES  # noqa: PTH122


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode as 8-bit RGB; transparency is left out, as in evaluation, and 16 bits become 8.

    Raises:
        ValueError: the image has floating-point pixels, of which no one knows the range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")
