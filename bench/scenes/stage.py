"""Lay out a batch of scenes as tensors in each camera's axes, with the pixels that each primitive may touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.scenes.layout import Scene
from bench.scenes.solids import BOX, CAPSULE, SPHERE, Array, Solid, Vector, cross, joined, rotate, unit

Integers: TypeAlias = NDArray[np.int64]

PLANES = 6  # of a scene, at most
NEAR = 0.05  # metres; nothing is seen nearer than this
ORIGIN, FRAME, SIZE, MATERIAL = slice(0, 3), slice(3, 12), slice(12, 15), slice(15, 26)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index] in one dimension; on a CPU, an int32 index is sixteen times faster."""
    return values.index_select(0, index)


def where(flags: Tensor) -> Tensor:
    """Return the indices (int32) of the flags that are set."""
    return torch.nonzero(flags).squeeze(1).to(torch.int32)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Primitives of one kind, each with a pixel of the batch where it may be visible (int32, equal lengths)."""

    kind: int
    primitive: Tensor
    pixel: Tensor


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The tensors of B scenes with n primitives and T things in total.

    rows (26, n) float32: the eye in the primitive's frame, the frame's rows, size, material.
    kind, thing, semantic (n,) int32: `thing` counts over the batch, -1 for planes.
    planes (6, B): the primitive of each plane, -1 when a scene has fewer.
    focal (B,): 1 / focal length in pixels.
    light (18, B): a frame whose first row points to the light, up, the sun's and ambient colours.
    sky (6, B): zenith and horizon.
    discs (4, n) and thing_discs (4, T): bounding spheres in the light's frame; slots (O, B): the
    things of each scene, -1 when it has fewer; first, members (T,): the primitives of each thing.
    """

    size: int
    scenes: int
    rows: Tensor
    kind: Tensor
    thing: Tensor
    semantic: Tensor
    planes: Tensor
    focal: Tensor
    light: Tensor
    sky: Tensor
    discs: Tensor
    thing_discs: Tensor
    slots: Tensor
    first: Tensor
    members: Tensor
    pairs: tuple[Pairs, ...]

    def part(self, columns: slice, primitive: Tensor) -> list[Tensor]:
        """Gather some rows for many primitives."""
        return [take(row, primitive) for row in self.rows[columns]]


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """One scene in its camera's axes; primitives of planes first, then of each thing in turn."""

    solid: Solid
    rectangle: Integers
    members: list[int]
    semantic: list[int]
    light: Array
    sky: list[float]
    discs: Array
    thing_discs: Array


def light_frame(towards: Vector) -> tuple[Vector, Vector, Vector]:
    """Return an orthonormal frame whose first axis points to the light."""
    across = unit(cross(towards, (0.0, 0.0, 1.0) if abs(towards[2]) < 0.9 else (1.0, 0.0, 0.0)))
    return towards, across, cross(towards, across)


def _disc(solid: Solid, frame: Array) -> Array:
    """Return the bounding sphere of a whole thing, (4,): its centre in the light's frame, and its radius."""
    reach = solid.reach()
    low = (solid.centre - reach[:, None]).min(axis=0)
    high = (solid.centre + reach[:, None]).max(axis=0)
    middle = 0.5 * (low + high)
    x, y, z = (solid.centre - middle).T
    far = (np.sqrt(x * x + y * y + z * z) + reach).max()
    return np.append(rotate(frame, middle), far)


def _placed(scene: Scene, size: int) -> _Placed:
    camera, lamp, around = scene.camera, scene.light, scene.surroundings
    eye = np.array(camera.eye)
    parts = [to_camera(s, camera.rotation, eye) for s in (around.planes, *(t.solid for t in scene.things))]
    solid = joined(parts)
    frame = rotate(camera.rotation, np.array(light_frame(lamp.towards)))
    up = rotate(camera.rotation, np.array((0.0, 1.0, 0.0)))
    members = [len(part.kind) for part in parts[1:]]
    semantic = list(around.semantic)
    for thing, count in zip(scene.things, members, strict=True):
        semantic += [thing.semantic] * count
    return _Placed(
        solid=solid,
        rectangle=rectangles(solid, camera.focal * size, size),
        members=members,
        semantic=semantic,
        light=np.concatenate([frame.ravel(), up, lamp.sun, lamp.ambient]),
        sky=[*around.zenith, *around.horizon],
        discs=np.concatenate([rotate(frame, solid.centre), solid.reach()[:, None]], axis=1),
        thing_discs=np.stack([_disc(part, frame) for part in parts[1:]]),
    )


def _within(counts: Any) -> Integers:
    """Return 0..c-1 for each count c, one after the other."""
    counts = np.asarray(counts)
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _pairs(kind: int, kinds: Integers, scene: Integers, boxes: Integers, size: int, device: torch.device) -> Pairs:
    """Enumerate the pixels of the rectangle of every primitive of a kind."""
    chosen = np.flatnonzero(kinds == kind)
    x, y, width, height = boxes[chosen].T
    height = np.where(width > 0, height, 0)
    row = _within(height)
    owner = np.repeat(np.arange(len(chosen)), height)
    start = (scene[chosen][owner] * size + y[owner] + row) * size + x[owner]
    pixel = np.repeat(start, width[owner]) + _within(width[owner])
    primitive = np.repeat(chosen[owner], width[owner])
    first, second = (torch.from_numpy(values.astype(np.int32)).to(device) for values in (primitive, pixel))
    return Pairs(kind=kind, primitive=first, pixel=second)


def build(scenes: Sequence[Scene], size: int, device: torch.device) -> Stage:
    """Lay out a batch of scenes for square images of `size` pixels."""
    placed = [_placed(scene, size) for scene in scenes]
    solid = joined([p.solid for p in placed])
    counts, things = [len(p.solid.kind) for p in placed], [len(p.members) for p in placed]
    number = np.repeat(np.arange(len(placed)), counts)
    planes = [len(p.solid.kind) - sum(p.members) for p in placed]
    thing, members = _thing_numbers(placed)
    boxes = np.concatenate([p.rectangle for p in placed])

    def floats(values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(values).T, np.float32)).to(device)

    def integers(values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int32)).to(device)

    eye = -np.stack([
        f[:, 0] * solid.centre[:, 0] + f[:, 1] * solid.centre[:, 1] + f[:, 2] * solid.centre[:, 2]
        for f in solid.frame.transpose(1, 0, 2)
    ], axis=1)  # fmt: skip
    return Stage(
        size=size,
        scenes=len(placed),
        rows=floats(np.hstack([eye, solid.frame.reshape(-1, 9), solid.size, solid.material])),
        kind=integers(solid.kind),
        thing=integers(thing),
        semantic=integers([value for p in placed for value in p.semantic]),
        planes=integers(_table(PLANES, np.cumsum(counts) - counts, planes)),
        focal=floats([1.0 / (s.camera.focal * size) for s in scenes]),
        light=floats([p.light for p in placed]),
        sky=floats([p.sky for p in placed]),
        discs=floats(np.concatenate([p.discs for p in placed])),
        thing_discs=floats(np.concatenate([p.thing_discs for p in placed])),
        slots=integers(_table(max(things), np.cumsum(things) - things, things)),
        first=integers(np.flatnonzero(np.diff(thing, prepend=-1) * (thing >= 0))),
        members=integers(members),
        pairs=tuple(_pairs(kind, solid.kind, number, boxes, size, device) for kind in (SPHERE, CAPSULE, BOX)),
    )


def _thing_numbers(placed: list[_Placed]) -> tuple[Integers, list[int]]:
    """Return the thing of every primitive, counted over the batch, and each thing's size."""
    thing: list[int] = []
    members: list[int] = []
    for p in placed:
        thing += [-1] * (len(p.solid.kind) - sum(p.members))
        for count in p.members:
            thing += [len(members)] * count
            members.append(count)
    return np.array(thing, dtype=np.int64), members


def _table(rows: int, firsts: Any, counts: Any) -> Integers:
    """Return (rows, B): in each column, as many consecutive numbers as counted, from the first on, and then -1."""
    row = np.arange(rows)[:, None]
    return np.where(row < np.asarray(counts), firsts + row, -1)


# The rectangle of pixels that each primitive can touch.


def to_camera(solid: Solid, rotation: Array, eye: Array) -> Solid:
    """Move from the world to a camera's axes: x right, y down, z along the optical axis."""
    return solid.moved(rotation, -rotate(rotation, eye))


def rectangles(solid: Solid, focal: float, size: int) -> Integers:
    """Return the pixels each primitive may touch: (n, 4) as x0, y0, width, height; 0 when none."""
    pixels = np.floor(np.clip(extents(solid), -1e5, 1e5) * focal + 0.5 * size)
    low = np.clip(pixels[:, :2], 0, size)
    high = np.clip(pixels[:, 2:], -1, size - 1)
    return np.concatenate([low, np.maximum(high - low + 1, 0)], axis=1).astype(np.int64)


def extents(solid: Solid) -> Array:
    """Return the slopes x/z and y/z that bound each primitive: (n, 4) as x0, y0, x1, y1.

    Exact for spheres, capsules (the hull of two spheres) and boxes (the hull of eight corners). A
    primitive that reaches behind the eye is unbounded: slopes of -1e6 and 1e6.
    """
    n = len(solid.kind)
    bounds = np.tile(np.array([1e6, 1e6, -1e6, -1e6]), (n, 1))
    half = np.where(solid.kind == CAPSULE, solid.size[:, 1], 0.0)
    for sign in (-1.0, 1.0):
        end = solid.centre + (sign * half)[:, None] * solid.frame[:, 1]
        for axis in (0, 1):
            low, high = _sphere_extent(end[:, axis], end[:, 2], solid.size[:, 0])
            bounds[:, axis] = np.minimum(bounds[:, axis], low)
            bounds[:, axis + 2] = np.maximum(bounds[:, axis + 2], high)
    boxes = np.flatnonzero(solid.kind == BOX)
    if len(boxes):
        bounds[boxes] = _box_extents(solid, boxes)
    return bounds


def _sphere_extent(across: Array, ahead: Array, radius: Array) -> tuple[Array, Array]:
    """Return the slopes of the two tangents from the origin to circles at (across, ahead)."""
    below = ahead * ahead - radius * radius
    root = np.sqrt(np.maximum(across * across + below, 0.0))
    safe = np.where(below > 0.0, below, 1.0)
    low = (across * ahead - radius * root) / safe
    high = (across * ahead + radius * root) / safe
    seen = (below > 0.0) & (ahead > radius)
    return np.where(seen, low, -1e6), np.where(seen, high, 1e6)


def _box_extents(solid: Solid, boxes: NDArray[np.intp]) -> Array:
    """Return the extents of the boxes alone, from their corners."""
    bounds = np.tile(np.array([1e6, 1e6, -1e6, -1e6]), (len(boxes), 1))
    centre, frame, half = solid.centre[boxes], solid.frame[boxes], solid.size[boxes]
    behind = np.zeros(len(boxes), dtype=bool)
    for corner in range(8):
        point = centre
        for axis in range(3):
            sign = 1.0 if corner >> axis & 1 else -1.0
            point = point + sign * half[:, axis : axis + 1] * frame[:, axis]
        behind |= point[:, 2] < NEAR
        slopes = point[:, :2] / np.maximum(point[:, 2:], NEAR)
        bounds[:, :2] = np.minimum(bounds[:, :2], slopes)
        bounds[:, 2:] = np.maximum(bounds[:, 2:], slopes)
    bounds[behind] = [-1e6, -1e6, 1e6, 1e6]
    return bounds
