"""Rays against spheres, capsules and boxes, and the screen rectangle each primitive can touch.

Every ray is given in the primitive's own frame. Only IEEE-exact elementwise operations are used, so
a distance has the same bits on a CPU and on a GPU.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from bench.scenes.solids import BOX, CAPSULE, SPHERE, Solid, rotate

Triple: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

INFINITY = 1e30
NEAR = 0.05  # metres; nothing is seen nearer than this


def square_root(x: torch.Tensor) -> torch.Tensor:
    """The square root that IEEE 754 says: torch's on a CPU is MKL's, whose last bit depends on the processor."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else torch.sqrt(x)


def hit_sphere(origin: Triple, direction: Triple, size: Triple) -> torch.Tensor:
    """Return the first t with |origin + t direction| = radius, INFINITY on a miss."""
    (ox, oy, oz), (dx, dy, dz), radius = origin, direction, size[0]
    length = dx * dx + dy * dy + dz * dz
    closest = -(ox * dx + oy * dy + oz * dz) / length
    # The perpendicular offset keeps the digits that b*b - a*c would cancel.
    px, py, pz = ox + closest * dx, oy + closest * dy, oz + closest * dz
    inside = radius * radius - (px * px + py * py + pz * pz)
    t = closest - square_root(inside.clamp(min=0.0) / length)
    return torch.where((inside >= 0.0) & (t > 0.0), t, INFINITY)


def hit_capsule(origin: Triple, direction: Triple, size: Triple) -> torch.Tensor:
    """Return the first t on a capsule of (radius, half-length along y), INFINITY on a miss."""
    (ox, oy, oz), (dx, dy, dz), (radius, half, zero) = origin, direction, size
    length = (dx * dx + dz * dz).clamp(min=1e-12)
    closest = -(ox * dx + oz * dz) / length
    px, pz = ox + closest * dx, oz + closest * dz
    inside = radius * radius - (px * px + pz * pz)
    t = closest - square_root(inside.clamp(min=0.0) / length)
    y = oy + t * dy
    cap = torch.where(y > 0.0, half, -half)
    rounded = hit_sphere((ox, oy - cap, oz), direction, (radius, zero, zero))
    t = torch.where(y.abs() <= half, t, rounded)
    return torch.where((inside >= 0.0) & (t > 0.0), t, INFINITY)


def hit_box(origin: Triple, direction: Triple, size: Triple) -> torch.Tensor:
    """Return the t at which the ray enters the box, INFINITY on a miss or from inside."""
    near = torch.full_like(origin[0], -INFINITY)
    far = torch.full_like(origin[0], INFINITY)
    for o, d, half in zip(origin, direction, size, strict=True):
        slope = torch.where(d.abs() < 1e-9, 1e-9, d)
        first, second = (-half - o) / slope, (half - o) / slope
        near = torch.maximum(near, torch.minimum(first, second))
        far = torch.minimum(far, torch.maximum(first, second))
    return torch.where((near <= far) & (near > 0.0), near, INFINITY)


HITS = {SPHERE: hit_sphere, CAPSULE: hit_capsule, BOX: hit_box}


def _sphere_extent(
    across: NDArray[np.float64], ahead: NDArray[np.float64], radius: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the slopes of the two tangents from the origin to circles at (across, ahead)."""
    below = ahead * ahead - radius * radius
    root = np.sqrt(np.maximum(across * across + below, 0.0))
    safe = np.where(below > 0.0, below, 1.0)
    low = (across * ahead - radius * root) / safe
    high = (across * ahead + radius * root) / safe
    seen = (below > 0.0) & (ahead > radius)
    return np.where(seen, low, -1e6), np.where(seen, high, 1e6)


def extents(solid: Solid) -> NDArray[np.float64]:
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


def _box_extents(solid: Solid, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
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


def rectangles(solid: Solid, focal: float, size: int) -> NDArray[np.int64]:
    """Return the pixels each primitive may touch: (n, 4) as x0, y0, width, height; 0 when none."""
    pixels = np.floor(np.clip(extents(solid), -1e5, 1e5) * focal + 0.5 * size)
    low = np.clip(pixels[:, :2], 0, size)
    high = np.clip(pixels[:, 2:], -1, size - 1)
    return np.concatenate([low, np.maximum(high - low + 1, 0)], axis=1).astype(np.int64)


def to_camera(solid: Solid, rotation: NDArray[np.float64], eye: NDArray[np.float64]) -> Solid:
    """Move from the world to a camera's axes: x right, y down, z along the optical axis."""
    shift = -rotate(rotation, eye)
    return solid.moved(rotation, shift)
