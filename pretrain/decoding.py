"""From an image's file to its random crops: decoded no larger than the crops need."""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from bench.images import as_rgb

Box = tuple[int, int, int, int]  # left, upper, right, lower in pixels
RATIO = (3 / 4, 4 / 3)
TRIALS = 10


class Unusable(ValueError):
    """An image that cannot be pretrained on; the message says why."""


def draw_box(
    random: np.random.Generator, scale: tuple[float, float], width: int, height: int
) -> Box:
    """Draw a box of a part of an image's area, in `scale`, and of an aspect ratio of 3/4 to 4/3.

    As torchvision's RandomResizedCrop does: the largest centred box of an allowed ratio where ten
    trials find none. It takes the same numbers from `random` whatever the image's size.
    """
    areas = random.uniform(*scale, size=TRIALS) * width * height
    ratios = np.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1]), size=TRIALS))
    across, down = random.random(), random.random()
    for w, h in np.sqrt(np.stack([areas * ratios, areas / ratios], 1)).round().astype(int).tolist():
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def crops_of(
    content: bytes,
    *,
    draw: Callable[[int, int], list[Box]],
    size: int,
    smallest: int = 1,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[list[Tensor], NDArray[np.bool_] | None]:
    """Decode an image, crop it and resize the crops (bicubic).

    Args:
        draw: gives the crops' boxes for the image's width and height.
        size: the crops' height and width.
        smallest: an image with a shorter side is unusable.
        mask: bool [height, width], cropped and resized as the first crop.

    Returns:
        Crops, uint8 [3, size, size], and the first crop of the mask, bool [size, size].

    Raises:
        Unusable: the bytes are no whole image, or too small a one.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            boxes = draw(*_measured(image, smallest))
            shrunk = _shrink(image, boxes, size)
            rgb = as_rgb(image)
            crops = [_resized(rgb.crop(_divided(box, shrunk, rgb)), size) for box in boxes]
    except UnidentifiedImageError as error:
        raise Unusable(f"its {len(content):,} bytes are no image of a known kind") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(f"{error or type(error).__name__}") from error
    return crops, _cropped_mask(mask, boxes[0], size)


def _measured(image: Image.Image, smallest: int) -> tuple[int, int]:
    if min(image.size) < smallest:
        width, height = image.size
        raise Unusable(f"its {width} x {height} pixels are fewer than a patch of {smallest}")
    return image.size


def _shrink(image: Image.Image, boxes: list[Box], size: int) -> float:
    """Have the decoder halve the image while every crop keeps `size` pixels; return by how much.

    Only JPEG's can. The crops are then resized by less than a factor of 2.
    """
    width, height = image.size
    factor = min(min(right - left, lower - upper) for left, upper, right, lower in boxes) / size
    if factor < 2:
        return 1.0
    drafted = image.draft(None, (math.ceil(width / factor), math.ceil(height / factor)))
    return width / drafted[1][2] if drafted else 1.0


def _divided(box: Box, factor: float, image: Image.Image) -> Box:
    """The box in an image that is so many times smaller, to the nearest pixel."""
    left, upper, right, lower = (round(edge / factor) for edge in box)
    return left, upper, min(right, image.width), min(lower, image.height)


def _resized(crop: Image.Image, size: int) -> Tensor:
    """The crop as uint8 [3, size, size]: torch's own kernel for bytes takes a quarter of PIL's time."""
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]


def _cropped_mask(mask: NDArray[np.bool_] | None, box: Box, size: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR, box=box)) >= 128
