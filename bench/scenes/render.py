"""Cast a batch of scenes: RGB, metric depth, what each pixel shows, and each thing as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.scenes.geometry import HITS, INFINITY, square_root
from bench.scenes.layout import Scene
from bench.scenes.shading import Rays, shade
from bench.scenes.stage import FRAME, ORIGIN, PLANES, SIZE, Pairs, Stage, build, take, where


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a camera saw of one scene, as host arrays.

    rgb (H, W, 3) uint8; depth (H, W) float32 metres along the optical axis, 0 where there is only
    sky; thing (H, W) int64 index into scene.things, -1 for planes and sky; semantic (H, W) uint8;
    alone (things, H, W) bool: where each thing would show if nothing else were there.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    thing: NDArray[np.int64]
    semantic: NDArray[np.uint8]
    alone: NDArray[np.bool_]


def pixel_rays(stage: Stage) -> Rays:
    """Return one ray through the centre of every pixel of the batch."""
    size, device = stage.size, stage.rows.device
    along = torch.arange(size, device=device) - (0.5 * size - 0.5)
    slope = stage.focal[:, None, None] * along
    shape = (stage.scenes, size, size)
    scene = torch.arange(stage.scenes, dtype=torch.int32, device=device)
    return Rays(
        scene=scene[:, None, None].expand(shape).reshape(-1),
        x=slope.expand(shape).reshape(-1),
        y=slope.transpose(1, 2).expand(shape).reshape(-1),
    )


def _plane_hits(stage: Stage, rays: Rays) -> torch.Tensor:
    """Return the nearest plane of every ray as a key: the bits of t, then the primitive."""
    key = _keys(torch.full_like(rays.x, INFINITY), torch.zeros_like(rays.scene))
    for slot in range(PLANES):
        table = stage.planes[slot]
        if not bool((table >= 0).any()):
            break
        height, *normal = stage.rows[[2, 9, 10, 11]].index_select(1, table.clamp(min=0))
        height = torch.where(table >= 0, height, -1.0)  # seen from behind: never hit
        slope = sum_of(normal, rays)
        t = -take(height, rays.scene) / torch.where(slope < -1e-6, slope, -1e-6)
        t = torch.where((t > 0.0) & (slope < -1e-6), t, INFINITY)
        key = torch.minimum(key, _keys(t, take(table.clamp(min=0), rays.scene)))
    return key


def sum_of(normal: list[torch.Tensor], rays: Rays) -> torch.Tensor:
    """Return the product of per-scene vectors with the rays' directions."""
    a, b, c = (take(part, rays.scene) for part in normal)
    return a * rays.x + b * rays.y + c


def _keys(t: torch.Tensor, primitive: torch.Tensor) -> torch.Tensor:
    # The bits of positive floats are ordered as the floats are, so the least key is the nearest
    # hit, and of equal ones the first primitive: no order of evaluation can matter.
    return (t.view(torch.int32).to(torch.int64) << 32) | primitive


def pair_hits(stage: Stage, rays: Rays, primitive: torch.Tensor, ray: torch.Tensor, kind: int
              ) -> torch.Tensor:  # fmt: skip
    """Return t of each (primitive, ray) pair of one kind, INFINITY on a miss."""
    x, y = take(rays.x, ray), take(rays.y, ray)
    f = stage.part(FRAME, primitive)
    ox, oy, oz = stage.part(ORIGIN, primitive)
    sx, sy, sz = stage.part(SIZE, primitive)
    dx, dy, dz = (f[k] * x + f[k + 1] * y + f[k + 2] for k in (0, 3, 6))
    return HITS[kind]((ox, oy, oz), (dx, dy, dz), (sx, sy, sz))


def trace(stage: Stage, rays: Rays, pairs: Sequence[Pairs], alone: torch.Tensor | None = None
          ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the nearest t and primitive of every ray; `pixel` of a pair is an index into rays.

    Args:
        alone: (things * pixels a scene) bool, set where a thing is hit at all.
    """
    key = _plane_hits(stage, rays)
    area = stage.size * stage.size
    for p in pairs:
        t = pair_hits(stage, rays, p.primitive, p.pixel, p.kind)
        hit = where(t < INFINITY)
        primitive, pixel = take(p.primitive, hit), take(p.pixel, hit).to(torch.int64)
        key.scatter_reduce_(0, pixel, _keys(take(t, hit), primitive), "amin")
        if alone is not None:
            place = take(stage.thing, primitive).to(torch.int64) * area + pixel % area
            alone.index_fill_(0, place, True)
    return (key >> 32).to(torch.int32).view(torch.float32), key.to(torch.int32)


_OFFSETS = ((-0.375, -0.125), (0.125, -0.375), (-0.125, 0.375), (0.375, 0.125))  # rotated grid


def _smooth(stage: Stage, rays: Rays, rgb: torch.Tensor, primitive: torch.Tensor
            ) -> torch.Tensor:  # fmt: skip
    """Shade again, with four rays a pixel, where neighbours show different primitives."""
    size, count = stage.size, stage.scenes
    grid = primitive.view(count, size, size)
    edge = torch.zeros_like(grid, dtype=torch.bool)
    below, beside = grid[:, 1:] != grid[:, :-1], grid[:, :, 1:] != grid[:, :, :-1]
    edge[:, 1:] |= below
    edge[:, :-1] |= below
    edge[:, :, 1:] |= beside
    edge[:, :, :-1] |= beside
    chosen = where(edge.view(-1))
    place = torch.full((edge.numel(),), -1, dtype=torch.int32, device=rgb.device)
    place[chosen] = torch.arange(len(chosen), dtype=torch.int32, device=rgb.device)
    near = []
    for p in stage.pairs:
        at = take(place, p.pixel)
        kept = where(at >= 0)
        near.append(Pairs(kind=p.kind, primitive=take(p.primitive, kept), pixel=take(at, kept)))
    scene, x, y = (take(part, chosen) for part in (rays.scene, rays.x, rays.y))
    width = take(stage.focal, scene)
    total = torch.zeros(3, len(chosen), device=rgb.device)
    for right, down in _OFFSETS:
        ray = Rays(scene=scene, x=x + right * width, y=y + down * width)
        total = total + shade(stage, ray, *trace(stage, ray, near))
    rgb[:, chosen] = total * 0.25
    return rgb


def render(scenes: Sequence[Scene], size: int = 128, device: str = "cpu", smooth: bool = True) -> list[Picture]:
    """Cast scenes in one batch. The result of a scene does not depend on its companions.

    Args:
        size: width and height in pixels.
        smooth: average four rays at the edges of the RGB image (labels always use one).
    """
    stage = build(scenes, size, torch.device(device))
    alone = torch.zeros(len(stage.members) * size * size, dtype=torch.bool, device=device)
    rays = pixel_rays(stage)
    t, primitive = trace(stage, rays, stage.pairs, alone)
    rgb = shade(stage, rays, t, primitive)
    if smooth:
        rgb = _smooth(stage, rays, rgb, torch.where(t < INFINITY, primitive, -1))
    return _pictures(stage, scenes, rgb, t, primitive, alone)


def _pictures(stage: Stage, scenes: Sequence[Scene], rgb: torch.Tensor, t: torch.Tensor,
              primitive: torch.Tensor, alone: torch.Tensor) -> list[Picture]:  # fmt: skip
    """Bring the batch to the host and split it by scene."""
    size = stage.size
    shape = (stage.scenes, size, size)
    sky = t >= INFINITY
    # Gamma 2 by a square root: a power function need not be exact.
    bytes_ = torch.floor(square_root(rgb.clamp(0.0, 1.0)) * 255.0 + 0.5).to(torch.uint8)
    image = bytes_.view(3, *shape).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    depth = torch.where(sky, 0.0, t).view(shape).cpu().numpy()
    thing = torch.where(sky, -1, take(stage.thing, primitive)).view(shape).cpu().numpy()
    semantic = torch.where(sky, 0, take(stage.semantic, primitive)).to(torch.uint8)
    labels = semantic.view(shape).cpu().numpy()
    masks = alone.view(-1, size, size).cpu().numpy()
    pictures, first = [], 0
    for b, scene in enumerate(scenes):
        count = len(scene.things)
        own = np.where(thing[b] >= 0, thing[b] - first, -1)
        pictures.append(Picture(rgb=image[b], depth=depth[b], thing=own, semantic=labels[b],
                                alone=masks[first : first + count]))  # fmt: skip
        first += count
    return pictures
