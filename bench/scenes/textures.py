"""Surface colour: 1/f noise on a hashed lattice, patterns, and the materials that name them."""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import TYPE_CHECKING, TypeAlias

from bench.scenes.rng import Draw, hashed_table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Colour: TypeAlias = tuple[float, float, float]
Material: TypeAlias = tuple[float, ...]  # pattern, scale, roughness, offsets u v, two colours: 11

PATTERNS = ("plain", "stripes", "checks", "dots", "bricks", "blotches", "diagonals", "zigzag")
SIDE = 256  # the noise lattice repeats after SIDE cells
OCTAVES = 4


def colour(draw: Draw, low: float = 0.04, high: float = 0.85) -> Colour:
    """Draw a linear RGB colour that is often saturated."""
    grey = draw.uniform(low, high)
    mix = draw.uniform(0.2, 1.0)
    r, g, b = (grey + mix * (draw.uniform(low, high) - grey) for _ in range(3))
    return (r, g, b)


def material(
    draw: Draw, pattern: str | None = None, scale: tuple[float, float] = (3.0, 9.0), tint: Colour | None = None
) -> Material:
    """Draw a material; its pattern (plain in four of ten cases) and its first colour, `tint`, are drawn when None.

    scale: range of the pattern's cells a metre.
    """
    kind = pattern or ("plain" if draw.chance(0.4) else draw.choice(PATTERNS[1:]))
    first, second = tint or colour(draw), colour(draw)
    for _ in range(0 if kind == "plain" else 12):  # up to 12 tries, until the pattern is visible
        r, g, b = (abs(sqrt(x) - sqrt(y)) for x, y in zip(first, second, strict=True))
        # The square roots are the displayed values. Not sum(): from Python 3.12 on, it rounds differently.
        if r + g + b > 0.75:
            break
        second = colour(draw)
    cells, roughness = draw.uniform(*scale), draw.uniform(0.15, 0.7)
    offsets = (float(draw.integer(SIDE)), float(draw.integer(SIDE)))
    return (float(PATTERNS.index(kind)), cells, roughness, *offsets, *first, *second)


@cache
def lattice(device: torch.device) -> Tensor:
    """Return the noise lattice, (SIDE * SIDE,), values in [0, 1)."""
    import torch

    return torch.from_numpy(hashed_table(SIDE * SIDE)).to(device)


def value_noise(u: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Interpolate the lattice smoothly at (u, v), in lattice cells."""
    import torch

    iu, iv = torch.floor(u), torch.floor(v)
    fu, fv = u - iu, v - iv
    su, sv = fu * fu * (3.0 - 2.0 * fu), fv * fv * (3.0 - 2.0 * fv)  # smoothstep
    column, row = iu.to(torch.int32), iv.to(torch.int32)
    left, right = column & (SIDE - 1), (column + 1) & (SIDE - 1)
    top, bottom = (row & (SIDE - 1)) * SIDE, ((row + 1) & (SIDE - 1)) * SIDE
    corners = (top + left, top + right, bottom + left, bottom + right)
    a, b, c, d = (table.index_select(0, corner) for corner in corners)
    upper, lower = a + (b - a) * su, c + (d - c) * su
    return upper + (lower - upper) * sv


def fractal_noise(u: Tensor, v: Tensor, footprint: Tensor, table: Tensor) -> Tensor:
    """Sum octaves whose amplitude falls as 1/f, to about [-1, 1]; an octave finer than a pixel fades out.

    u, v and the `footprint`, a pixel's width, are in cells of the lowest octave.
    """
    total = value_noise(u, v, table) - 0.5
    for octave in range(1, OCTAVES):
        frequency = float(2**octave)
        fade = (2.0 - 2.0 * frequency * footprint).clamp(0.0, 1.0) * (1.0 / frequency)
        shift = 17.0 * octave  # so that octaves do not share lattice points
        fine = value_noise(u * frequency + shift, v * frequency + shift, table) - 0.5
        total = total + fine * fade
    return total


def pattern_mask(kind: Tensor, u: Tensor, v: Tensor, noise: Tensor) -> Tensor:
    """Return which of two colours each point has; `kind` indexes PATTERNS, (u, v) is in cells, `noise`: blotches."""
    import torch

    iu, iv = torch.floor(u), torch.floor(v)
    fu, fv = u - iu, v - iv
    cu, cv = fu - 0.5, fv - 0.5
    odd = (iu.to(torch.int32) + iv.to(torch.int32)) & 1
    course = v * 2.0
    row = torch.floor(course)
    shifted = u + 0.5 * (row.to(torch.int32) & 1)
    joint = (course - row < 0.16) | (shifted - torch.floor(shifted) < 0.08)
    slant = u + v
    zig = v + cu.abs()
    mask = (kind == 1.0) & (fu < 0.5)
    mask |= (kind == 2.0) & (odd == 1)
    mask |= (kind == 3.0) & (cu * cu + cv * cv < 0.11)
    mask |= (kind == 4.0) & joint
    mask |= (kind == 5.0) & (noise > 0.06)
    mask |= (kind == 6.0) & (slant - torch.floor(slant) < 0.4)
    mask |= (kind == 7.0) & (zig - torch.floor(zig) < 0.5)
    return mask


def albedo(rows: list[Tensor], u: Tensor, v: Tensor, footprint: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return linear red, green and blue in [0, 1] of n surface points.

    rows: their materials, 11 of (n,); u and v: position on the surface, footprint: a pixel's width there, in metres.
    """
    kind, scale, roughness = rows[0], rows[1], rows[2]
    pu, pv, width = u * scale, v * scale, footprint * scale
    noise = fractal_noise(pu * 0.7 + rows[3], pv * 0.7 + rows[4], width, table)
    mask = pattern_mask(kind, pu, pv, noise).to(u.dtype)
    # A cell smaller than a pixel would alias: blend to a mixture of the two colours.
    blur = (2.0 * width - 0.6).clamp(0.0, 1.0)
    mask = mask + (0.4 - mask) * blur * (kind > 0.0)
    shade = 1.0 + roughness * noise
    channels = [((rows[5 + c] + (rows[8 + c] - rows[5 + c]) * mask) * shade).clamp(0.0, 1.0) for c in range(3)]
    return channels[0], channels[1], channels[2]
