"""The pairs of views: the encoder's input, and what its encoding is compared with."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pretrain.data import Batch
    from pretrain.methods import Method

Draw = Callable[[], tuple[Tensor, Tensor]]  # -> positions of shown and hidden patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Images, or a part of their patches, for the encoder.

    Attributes:
        images: [N, 3, H, W].
        shown, hidden: int64 [N, K] and [N, M], positions of patches; None if all are shown. With a
            `complement_share`, a second view's positions are not all of the image's.
        replaced: a mask token replaces each hidden patch; else hidden patches are left out.
    """

    images: Tensor
    shown: Tensor | None = None
    hidden: Tensor | None = None
    replaced: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """A view that is its own encoding: images [N, 3, H, W], of which the hidden patches are compared."""

    images: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """A view that is the image's class: int64 [N], or the classes' shares, float32 [N, classes]."""

    labels: Tensor


Pair = tuple[View, View | Pixels | Labels]


def _visible_pixels(batch: "Batch", method: "Method", draw: Draw) -> Pair:
    shown, hidden = draw()
    return View(images=batch.images, shown=shown, hidden=hidden), Pixels(images=batch.images)


def _masked_pixels(batch: "Batch", method: "Method", draw: Draw) -> Pair:
    shown, hidden = draw()
    masked = View(images=batch.images, shown=shown, hidden=hidden, replaced=True)
    return masked, Pixels(images=batch.images)


def _mask_complement(batch: "Batch", method: "Method", draw: Draw) -> Pair:
    shown, hidden = draw()
    other = _part(hidden, method.complement_share)
    return (View(images=batch.images, shown=shown, hidden=hidden), View(images=batch.images, shown=other, hidden=shown))


def _part(positions: Tensor, share: float) -> Tensor:
    """Return a random share of each image's positions [N, M], rounded up."""
    if share == 1:
        return positions
    count = math.ceil(positions.shape[1] * share - 1e-9)
    order = torch.rand(positions.shape, device=positions.device).argsort(1)
    return positions.gather(1, order[:, :count])


def _two_crops(batch: "Batch", method: "Method", draw: Draw) -> Pair:
    assert batch.others is not None, "the loader was not asked for two crops"
    return View(images=batch.images), View(images=batch.others)


def _image_label(batch: "Batch", method: "Method", draw: Draw) -> Pair:
    assert batch.labels is not None, "the loader was not asked for labels"
    return View(images=batch.images), Labels(labels=batch.labels)


VIEWS: dict[str, Callable[["Batch", "Method", Draw], Pair]] = {
    "visible-pixels": _visible_pixels,
    "masked-pixels": _masked_pixels,
    "mask-complement": _mask_complement,
    "two-crops": _two_crops,
    "image-label": _image_label,
}


def patchify(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Cut [N, C, H, W] into patches [N, L, C p q], with values in the order of a convolution's weights."""
    (p, q), (n, c, height, width) = patch_size, images.shape
    patches = images.reshape(n, c, height // p, p, width // q, q)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c * p * q)


def unpatchify(patches: Tensor, patch_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Invert `patchify`, for a grid of (rows, columns)."""
    (p, q), (rows, columns), n = patch_size, grid, len(patches)
    pixels = patches.reshape(n, rows, columns, -1, p, q).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(n, -1, rows * p, columns * q)


def take(tokens: Tensor, positions: Tensor) -> Tensor:
    """Gather tokens [N, L, D] at positions int64 [N, K] to [N, K, D]; [1, L, D] applies to all images."""
    tokens = tokens.expand(len(positions), -1, -1)
    return tokens.gather(1, positions[:, :, None].expand(-1, -1, tokens.shape[2]))
