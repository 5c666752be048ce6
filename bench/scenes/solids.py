"""Primitives and rigid assemblies of them, on the host, in float64 and metres.

World axes: x right, y up, z away from the viewer. Products of vectors are written out term by term: the
order in which a matrix product is summed depends on the machine, and so would its last bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.scenes.rng import cos_sin

Vector: TypeAlias = tuple[float, float, float]
Rotation: TypeAlias = tuple[Vector, Vector, Vector]  # rows
Array: TypeAlias = NDArray[np.float64]

SPHERE, CAPSULE, BOX, PLANE = range(4)
UPRIGHT: Rotation = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def add(a: Vector, b: Vector, scale: float = 1.0) -> Vector:
    """Return a + scale * b."""
    return (a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2])


def cross(a: Vector, b: Vector) -> Vector:
    """Return the cross product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def unit(a: Vector) -> Vector:
    """Return a scaled to length 1."""
    length = sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])
    return (a[0] / length, a[1] / length, a[2] / length)


def about(axis: str, degrees: float) -> Rotation:
    """Return the rows of a rotation about the x, y or z axis."""
    c, s = cos_sin(degrees)
    if axis == "x":
        return ((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c))
    if axis == "y":
        return ((c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c))
    return ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def turn(rotation: Rotation, a: Vector) -> Vector:
    """Apply a rotation's rows to one vector."""
    x, y, z = (row[0] * a[0] + row[1] * a[1] + row[2] * a[2] for row in rotation)
    return (x, y, z)


def axes(rows: Rotation) -> Rotation:
    """Return the images of the axes under a rotation: its columns."""
    return (turn(rows, UPRIGHT[0]), turn(rows, UPRIGHT[1]), turn(rows, UPRIGHT[2]))


def rotate(rotation: Array, vectors: Array) -> Array:
    """Apply a rotation (3, 3) to vectors (..., 3)."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    rows = [rotation[i, 0] * x + rotation[i, 1] * y + rotation[i, 2] * z for i in range(3)]
    return np.stack(rows, axis=-1)


@dataclass(frozen=True, kw_only=True)
class Solid:
    """n primitives as arrays.

    kind (n,); centre (n, 3); frame (n, 3, 3): rows are the local axes; size (n, 3): radius | radius
    and half-length along local y | half-extents; material (n, 11), see `textures.Material`.
    """

    kind: NDArray[np.int64]
    centre: Array
    frame: Array
    size: Array
    material: Array

    def moved(self, rotation: Array, shift: Array) -> Solid:
        """Rotate about the origin, then shift."""
        return replace(self, centre=rotate(rotation, self.centre) + shift, frame=rotate(rotation, self.frame))

    def reach(self) -> Array:
        """Return the radius (n,) of each primitive's bounding sphere (0 for a plane)."""
        s = self.size
        diagonal = np.sqrt(s[:, 0] * s[:, 0] + s[:, 1] * s[:, 1] + s[:, 2] * s[:, 2])
        return np.choose(self.kind, [s[:, 0], s[:, 0] + s[:, 1], diagonal, 0.0 * diagonal])


def joined(solids: list[Solid]) -> Solid:
    """Return the primitives of all solids as one."""
    return Solid(**{f.name: np.concatenate([getattr(s, f.name) for s in solids]) for f in fields(Solid)})


class Assembly:
    """Collects primitives one at a time; `solid()` turns them into arrays."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: list[tuple[int, Vector, Rotation, Vector, tuple[float, ...]]] = []

    def sphere(self, centre: Vector, radius: float, material: tuple[float, ...]) -> None:
        """Add a sphere."""
        self._rows.append((SPHERE, centre, UPRIGHT, (radius, 0.0, 0.0), material))

    def capsule(self, a: Vector, b: Vector, radius: float, material: tuple[float, ...]) -> None:
        """Add all points within `radius` of the segment from a to b."""
        along = add(b, a, -1.0)
        length = sqrt(along[0] * along[0] + along[1] * along[1] + along[2] * along[2])
        up = unit(along)
        side = unit(cross(up, (0.0, 0.0, 1.0) if abs(up[2]) < 0.9 else (1.0, 0.0, 0.0)))
        frame = (side, up, cross(side, up))
        middle = add(a, along, 0.5)
        self._rows.append((CAPSULE, middle, frame, (radius, 0.5 * length, 0.0), material))

    def box(self, centre: Vector, half: Vector, material: tuple[float, ...], frame: Rotation = UPRIGHT) -> None:
        """Add a box of half-extents `half` along the rows of `frame`."""
        self._rows.append((BOX, centre, frame, half, material))

    def plane(self, point: Vector, frame: Rotation, material: tuple[float, ...]) -> None:
        """Add an infinite plane through a point, seen from the side frame[2] points to."""
        self._rows.append((PLANE, point, frame, (0.0, 0.0, 0.0), material))

    def solid(self) -> Solid:
        """Return everything added so far."""
        kinds, *rest = zip(*self._rows, strict=True)
        centre, frame, size, material = (np.array(values, dtype=np.float64) for values in rest)
        return Solid(kind=np.array(kinds, dtype=np.int64), centre=centre, frame=frame, size=size, material=material)
