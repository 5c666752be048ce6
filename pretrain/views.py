"""The pairs of views: the encoder's input, and what its encoding is compared with; and masks, which hide patches.

The same number of patches is hidden in every image. Every kind of mask gives each unit (a square of patches) a
priority; the units of highest priority are hidden.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UserError

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


def _pixels(batch: "Batch", method: "Method", draw: Draw, *, replaced: bool = False) -> Pair:
    shown, hidden = draw()
    return View(images=batch.images, shown=shown, hidden=hidden, replaced=replaced), Pixels(images=batch.images)


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
    "visible-pixels": _pixels,
    "masked-pixels": functools.partial(_pixels, replaced=True),
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


Grid = tuple[int, int]

# BEiT (arXiv 2106.08254, algorithm 1): patches of the smallest block; aspect ratios from this to its inverse.
LEAST_BLOCK, ASPECT = 16, 0.3
BLOCKS = 64  # drawn for each image; units outside all of them are hidden last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """Draws masks on a grid of patches.

    Attributes:
        kind: "random" (MAE), "block" (BEiT), "grid" (evenly spread: one of four is shown at 0.75), or
            "occluders" (things that hide part of another thing).
        ratio: the share of units that is hidden, rounded up: MAE shows `int(L * (1 - ratio))` and SimMIM hides
            `ceil(L * ratio)`, which is the same up to floating point.
        grid: rows and columns of patches.
        unit: side of a masked unit, in patches.
    """

    kind: str
    ratio: float
    grid: Grid
    unit: int = 1

    def __post_init__(self) -> None:
        """Raise UserError if no such mask exists."""
        if self.grid[0] % self.unit or self.grid[1] % self.unit:
            raise UserError(
                f"A grid of {self.grid[0]} x {self.grid[1]} patches does not divide into masked units of "
                f"{self.unit} x {self.unit} patches. Give an image size that is a multiple of the unit, or "
                f"another mask unit."
            )
        if not 0 < self.num_hidden < math.prod(self.grid):
            raise UserError(
                f"A mask ratio of {self.ratio} hides {self.num_hidden} of {math.prod(self.grid)} patches, but at least "
                f"one must be hidden and one shown. Give another ratio, larger images or smaller units."
            )

    @property
    def units(self) -> Grid:
        """Return the rows and columns of units."""
        return self.grid[0] // self.unit, self.grid[1] // self.unit

    @property
    def num_hidden(self) -> int:
        """Return how many patches are hidden in each image."""
        share = Fraction(str(self.ratio))  # exact: in floating point, 0.55 of 100 rounds up to 56
        return math.ceil(math.prod(self.units) * share) * self.unit**2

    def __call__(self, number: int, device: torch.device, occluders: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw masks from the device's generator; `occluders` is bool [number, H, W].

        Returns the ascending row-major positions of the shown and of the hidden patches: int64 [number, K] and
        [number, M].
        """
        priority = KINDS[self.kind](self, number, device, occluders)
        order = priority.flatten(1).argsort(dim=1, descending=True)
        count = self.num_hidden // self.unit**2
        mask = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :count], True)
        mask = mask.view(number, *self.units)
        mask = mask.repeat_interleave(self.unit, 1).repeat_interleave(self.unit, 2).flatten(1)
        positions = mask.to(torch.uint8).argsort(dim=1, stable=True)
        shown = positions.shape[1] - self.num_hidden
        return positions[:, :shown], positions[:, shown:]


def _random(masking: Masking, number: int, device: torch.device, _: Tensor | None) -> Tensor:
    """Return uniform noise."""
    return torch.rand(number, *masking.units, device=device)


def _block(masking: Masking, number: int, device: torch.device, _: Tensor | None) -> Tensor:
    """Place rectangles one after the other; a random part of the last one makes the count exact."""
    rows, columns = masking.units
    most = masking.num_hidden // masking.unit**2
    least = min(LEAST_BLOCK, most)
    draws = torch.rand(4, number, BLOCKS, 1, 1, device=device)
    area = least + draws[0] * (most - least)
    aspect = ASPECT ** (1 - 2 * draws[1])
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = (draws[2] * (rows - height + 1)).floor()
    left = (draws[3] * (columns - width + 1)).floor()
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None]
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    first = torch.where(inside.any(1), inside.to(torch.uint8).argmax(1), BLOCKS)
    return torch.rand(number, rows, columns, device=device) - first


def _grid(masking: Masking, number: int, device: torch.device, _: Tensor | None) -> Tensor:
    """Return the order of Bayer's matrix, shifted at random for each image: any share of it is evenly spread."""
    size = 1 << (max(masking.units) - 1).bit_length()
    order = torch.zeros(1, 1, device=device)
    while len(order) < size:
        rows = [torch.cat([4 * order, 4 * order + 2], 1), torch.cat([4 * order + 3, 4 * order + 1], 1)]
        order = torch.cat(rows)
    shift = torch.randint(size, (2, number, 1, 1), device=device)
    row = (torch.arange(masking.units[0], device=device)[:, None] + shift[0]) % size
    column = (torch.arange(masking.units[1], device=device)[None] + shift[1]) % size
    return order[row, column]


def _occluders(masking: Masking, number: int, device: torch.device, occluders: Tensor | None) -> Tensor:
    """Return the share of each unit covered by occluders, with ties broken at random."""
    if occluders is None:
        raise UserError(
            "The masking 'occluders' needs images with annotated occluders, which only scenes and species have. Use "
            "--data scenes, or the masking random, block or grid."
        )
    covered = F.adaptive_avg_pool2d(occluders[:, None].float(), masking.units)[:, 0]
    return covered + 1e-4 * torch.rand(number, *masking.units, device=device)


KINDS = {"random": _random, "block": _block, "grid": _grid, "occluders": _occluders}
