"""Render a batch of scenes: RGB, metric depth, the thing and class at each pixel, and each thing as if alone.

Rays are tested against spheres, capsules, boxes and planes, each in its own frame. Only IEEE-exact elementwise
operations are used, so a picture has the same bytes on a CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.scenes.layout import Scene
from bench.scenes.solids import BOX, CAPSULE, PLANE, SPHERE
from bench.scenes.stage import FRAME, MATERIAL, ORIGIN, PLANES, SIZE, Pairs, Stage, build, take, where
from bench.scenes.textures import albedo, fractal_noise, lattice

Triple: TypeAlias = Sequence[Tensor]  # x, y and z

INFINITY = 1e30
_TOUCHING = 1e-3  # metres; a nearer obstacle is the surface itself, by rounding
_OFFSETS = ((-0.375, -0.125), (0.125, -0.375), (-0.125, 0.375), (0.375, 0.125))  # rotated grid


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The image and labels of one scene, as host arrays.

    rgb (H, W, 3) uint8; depth (H, W) float32 metres along the optical axis, 0 where there is only
    sky; thing (H, W) int64 index into scene.things, -1 for planes and sky; semantic (H, W) uint8;
    alone (things, H, W) bool: where each thing would show if nothing else were there.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    thing: NDArray[np.int64]
    semantic: NDArray[np.uint8]
    alone: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Rays from the eyes: scene (n,) int32, direction (x, y, 1), each (n,) float32."""

    scene: Tensor
    x: Tensor
    y: Tensor


def render(scenes: Sequence[Scene], size: int = 128, device: str = "cpu", smooth: bool = True) -> list[Picture]:
    """Render scenes, `size` pixels wide and high, in one batch; a scene's picture does not depend on the others.

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


def _pictures(stage: Stage, scenes: Sequence[Scene], rgb: Tensor, t: Tensor,
              primitive: Tensor, alone: Tensor) -> list[Picture]:  # fmt: skip
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


def _smooth(stage: Stage, rays: Rays, rgb: Tensor, primitive: Tensor) -> Tensor:
    """Shade pixels whose neighbours show another primitive again, with four rays each."""
    size, count = stage.size, stage.scenes
    grid = primitive.view(count, size, size)
    edge = torch.zeros_like(grid, dtype=torch.bool)
    below, right_of = grid[:, 1:] != grid[:, :-1], grid[:, :, 1:] != grid[:, :, :-1]
    edge[:, 1:] |= below
    edge[:, :-1] |= below
    edge[:, :, 1:] |= right_of
    edge[:, :, :-1] |= right_of
    chosen = where(edge.view(-1))
    place = torch.full((edge.numel(),), -1, dtype=torch.int32, device=rgb.device)
    place[chosen] = torch.arange(len(chosen), dtype=torch.int32, device=rgb.device)
    near = []
    for p in stage.pairs:
        at = take(place, p.pixel)
        found = where(at >= 0)
        near.append(Pairs(kind=p.kind, primitive=take(p.primitive, found), pixel=take(at, found)))
    scene, x, y = (take(part, chosen) for part in (rays.scene, rays.x, rays.y))
    width = take(stage.focal, scene)
    total = torch.zeros(3, len(chosen), device=rgb.device)
    for right, down in _OFFSETS:
        ray = Rays(scene=scene, x=x + right * width, y=y + down * width)
        total = total + shade(stage, ray, *trace(stage, ray, near))
    rgb[:, chosen] = total * 0.25
    return rgb


# Which surface a ray hits first, and how far away.


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


def trace(stage: Stage, rays: Rays, pairs: Sequence[Pairs], alone: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return t and the primitive of the nearest hit of every ray; a pair's `pixel` is an index into rays.

    alone: (things * pixels of a scene) bool; set to True where a thing is hit, nearest or not.
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


def _plane_hits(stage: Stage, rays: Rays) -> Tensor:
    """Return the nearest plane of every ray as a key: the bits of t, then the primitive."""
    key = _keys(torch.full_like(rays.x, INFINITY), torch.zeros_like(rays.scene))
    for slot in range(PLANES):
        table = stage.planes[slot]
        if not bool((table >= 0).any()):
            break
        height, *normal = stage.rows[[2, 9, 10, 11]].index_select(1, table.clamp(min=0))
        height = torch.where(table >= 0, height, -1.0)  # seen from behind: never hit
        a, b, c = (take(part, rays.scene) for part in normal)
        slope = a * rays.x + b * rays.y + c
        t = -take(height, rays.scene) / torch.where(slope < -1e-6, slope, -1e-6)
        t = torch.where((t > 0.0) & (slope < -1e-6), t, INFINITY)
        key = torch.minimum(key, _keys(t, take(table.clamp(min=0), rays.scene)))
    return key


def pair_hits(stage: Stage, rays: Rays, primitive: Tensor, ray: Tensor, kind: int) -> Tensor:
    """Return t of each (primitive, ray) pair of one kind, INFINITY on a miss."""
    x, y = take(rays.x, ray), take(rays.y, ray)
    f = stage.part(FRAME, primitive)
    direction = [f[k] * x + f[k + 1] * y + f[k + 2] for k in (0, 3, 6)]
    return HITS[kind](stage.part(ORIGIN, primitive), direction, stage.part(SIZE, primitive))


def _keys(t: Tensor, primitive: Tensor) -> Tensor:
    # The bits of positive floats are ordered as the floats are, so the least key is the nearest
    # hit, and of equal ones the first primitive: no order of evaluation can matter.
    return (t.view(torch.int32).to(torch.int64) << 32) | primitive


def hit_sphere(origin: Triple, direction: Triple, size: Triple) -> Tensor:
    """Return the first t with |origin + t direction| = radius, INFINITY on a miss."""
    (ox, oy, oz), (dx, dy, dz), radius = origin, direction, size[0]
    length = dx * dx + dy * dy + dz * dz
    closest = -(ox * dx + oy * dy + oz * dz) / length
    # The perpendicular offset keeps the digits that b*b - a*c would cancel.
    px, py, pz = ox + closest * dx, oy + closest * dy, oz + closest * dz
    inside = radius * radius - (px * px + py * py + pz * pz)
    t = closest - square_root(inside.clamp(min=0.0) / length)
    return torch.where((inside >= 0.0) & (t > 0.0), t, INFINITY)


def hit_capsule(origin: Triple, direction: Triple, size: Triple) -> Tensor:
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


def hit_box(origin: Triple, direction: Triple, size: Triple) -> Tensor:
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


def square_root(x: Tensor) -> Tensor:
    """Return the correctly rounded square root of IEEE 754."""
    # On a CPU, torch calls MKL, whose last bit depends on the processor; numpy's is exact.
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else torch.sqrt(x)


# Light, shadow, texture, haze and sky of the points that rays hit.


def shade(stage: Stage, rays: Rays, t: Tensor, primitive: Tensor) -> Tensor:
    """Return linear RGB, (3, n), of what each ray hit first."""
    table = lattice(t.device)
    depth = torch.where(t < INFINITY, t, 1.0)
    point = (depth * rays.x, depth * rays.y, depth)
    q = _local(stage, primitive, point)
    normal = _local_normal(take(stage.kind, primitive), q, stage.part(SIZE, primitive))
    u, v = _surface_position(q, normal)
    light = [take(row, rays.scene) for row in stage.light]
    f = stage.part(FRAME, primitive)
    nx, ny, nz = (f[k] * normal[0] + f[3 + k] * normal[1] + f[6 + k] * normal[2] for k in range(3))
    facing = (nx * light[0] + ny * light[1] + nz * light[2]).clamp(min=0.0)
    exposed = where((facing > 0.0) & (t < INFINITY))
    x, y, z = (take(part, exposed) for part in point)
    dark = shadowed(stage, take(rays.scene, exposed), take(primitive, exposed), (x, y, z))
    facing[take(exposed, where(dark))] = 0.0
    # Light from above fills more than light from below; grazing surfaces are seen coarser.
    fill = 0.75 + 0.25 * (nx * light[9] + ny * light[10] + nz * light[11])
    slant = (nx * rays.x + ny * rays.y + nz).abs().clamp(min=0.1)
    footprint = depth * take(stage.focal, rays.scene) / slant
    base = albedo(stage.part(MATERIAL, primitive), u, v, footprint, table)
    lit = [base[c] * (light[15 + c] * fill + light[12 + c] * facing) for c in range(3)]
    rgb = torch.stack([_hazy(stage, rays.scene, depth, c, lit[c]) for c in range(3)])
    above = where(t >= INFINITY)
    seen = Rays(scene=take(rays.scene, above), x=take(rays.x, above), y=take(rays.y, above))
    rgb[:, above] = _sky(stage, seen, table)
    return rgb


def _local(stage: Stage, primitive: Tensor, point: Triple) -> Triple:
    """Return points in their primitives' own frames."""
    o, f, (x, y, z) = stage.part(ORIGIN, primitive), stage.part(FRAME, primitive), point
    return [o[k] + f[3 * k] * x + f[3 * k + 1] * y + f[3 * k + 2] * z for k in range(3)]


def _local_normal(kind: Tensor, q: Triple, size: list[Tensor]) -> Triple:
    """Return the outward normal at a surface point, in the primitive's own frame."""
    x, y, z = q
    middle = torch.where(kind == CAPSULE, torch.minimum(torch.maximum(y, -size[1]), size[1]), 0.0)
    scale = 1.0 / size[0].clamp(min=1e-6)
    rounded = (x * scale, (y - middle) * scale, z * scale)
    boxed = kind == BOX
    gx, gy, gz = (a.abs() / s.clamp(min=1e-6) for a, s in zip(q, size, strict=True))
    on_x = (gx >= gy) & (gx >= gz)
    on_y = ~on_x & (gy >= gz)
    flags = (on_x, on_y, ~on_x & ~on_y)
    flat = kind == PLANE
    out = []
    for axis in range(3):
        side = torch.where(q[axis] > 0.0, 1.0, -1.0) * flags[axis]
        value = torch.where(boxed, side, rounded[axis])
        out.append(torch.where(flat, 1.0 if axis == 2 else 0.0, value))
    return out


def _surface_position(q: Triple, normal: Triple) -> tuple[Tensor, Tensor]:
    """Return two coordinates on the surface: the two that the normal points along least."""
    nx, ny, nz = (a.abs() for a in normal)
    along_x = (nx > ny) & (nx > nz)
    along_y = ~along_x & (ny > nz)
    return torch.where(along_x, q[2], q[0]), torch.where(along_y, q[2], q[1])


def shadowed(stage: Stage, scene: Tensor, primitive: Tensor, point: Triple) -> Tensor:
    """Return which points are in the shadow of another primitive than their own."""
    dark = torch.zeros_like(scene, dtype=torch.bool)
    axes = [take(row, scene) for row in stage.light[:9]]
    x, y, z = point
    height, u, v = (axes[k] * x + axes[k + 1] * y + axes[k + 2] * z for k in (0, 3, 6))
    index, things = [], []
    for slot in stage.slots:
        thing = take(slot, scene)
        near = _reaches(stage.thing_discs, thing.clamp(min=0), height, u, v) & (thing >= 0)
        found = where(near)
        index.append(found)
        things.append(take(thing, found))
    ray, thing = torch.cat(index), torch.cat(things)
    count = take(stage.members, thing)
    owner = torch.repeat_interleave(count).to(torch.int32)
    start = take(stage.first, thing) - (count.cumsum(0) - count).to(torch.int32)
    caster = take(start, owner) + torch.arange(len(owner), dtype=torch.int32, device=ray.device)
    ray = take(ray, owner)
    near = _reaches(stage.discs, caster, take(height, ray), take(u, ray), take(v, ray))
    found = where(near & (caster != take(primitive, ray)))
    ray, caster = take(ray, found), take(caster, found)
    kinds = take(stage.kind, caster)
    for kind in (SPHERE, CAPSULE, BOX):
        chosen = where(kinds == kind)
        at, by = take(ray, chosen), take(caster, chosen)
        t = _towards_light(stage, kind, by, take(scene, at), (take(x, at), take(y, at), take(z, at)))
        dark[take(at, where((t > _TOUCHING) & (t < INFINITY)))] = True
    return dark


def _towards_light(stage: Stage, kind: int, by: Tensor, scene: Tensor, point: Triple) -> Tensor:
    """Return t of the rays from points to the light against one primitive each."""
    a, b, c = (take(row, scene) for row in stage.light[:3])
    f = stage.part(FRAME, by)
    direction = [f[k] * a + f[k + 1] * b + f[k + 2] * c for k in (0, 3, 6)]
    return HITS[kind](_local(stage, by, point), direction, stage.part(SIZE, by))


def _reaches(discs: Tensor, which: Tensor, height: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return whether a bounding sphere may be between a point and the light."""
    h, du, dv, radius = (take(row, which) for row in discs)
    du, dv = du - u, dv - v
    return (du * du + dv * dv < radius * radius) & (h + radius > height)


def _sky(stage: Stage, rays: Rays, table: Tensor) -> Tensor:
    """Return the sky's colour along rays, (3, n): a gradient with clouds."""
    up = [take(row, rays.scene) for row in stage.light[9:12]]
    rise = (up[0] * rays.x + up[1] * rays.y + up[2]).clamp(min=0.0)
    cloud = fractal_noise(rays.x * 3.0 / (rise + 0.25), 1.0 / (rise + 0.12), torch.zeros_like(rise), table)
    veil = (cloud * 1.6 + 0.1).clamp(0.0, 0.8)
    high = (rise * 2.2).clamp(max=1.0)
    sky = [take(row, rays.scene) for row in stage.sky]
    blend = [sky[3 + c] + (sky[c] - sky[3 + c]) * high for c in range(3)]
    return torch.stack([colour + (0.9 - colour) * veil for colour in blend])


def _hazy(stage: Stage, scene: Tensor, depth: Tensor, channel: int, colour: Tensor) -> Tensor:
    """Blend one channel of a colour into the horizon's with the distance, outdoors only."""
    strength = torch.where(stage.sky[0] > 0.0, 1.0, 0.0)
    amount = take(strength, scene) * (depth * depth)
    return colour + (take(stage.sky[3 + channel], scene) - colour) * (amount / (amount + 1600.0))
