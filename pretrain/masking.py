"""Masks: which patches are hidden, the same number in every image.

Every kind of mask gives each unit (a square of patches) a priority; the units of highest priority are hidden.
"""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UserError

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


KINDS: dict[str, Callable[[Masking, int, torch.device, Tensor | None], Tensor]] = {
    "random": _random,
    "block": _block,
    "grid": _grid,
    "occluders": _occluders,
}
