"""Light, shadow, texture, haze and sky of the points that rays hit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.scenes.geometry import HITS, INFINITY, Triple
from bench.scenes.solids import BOX, CAPSULE, PLANE, SPHERE
from bench.scenes.stage import FRAME, MATERIAL, ORIGIN, SIZE, Stage, take, where
from bench.scenes.textures import albedo, fractal_noise, lattice

_TOUCHING = 1e-3  # metres; a nearer obstacle is the surface itself


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Rays from the eyes: scene (n,) int32, direction (x, y, 1), each (n,) float32."""

    scene: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor


def _local(stage: Stage, primitive: torch.Tensor, point: Triple) -> Triple:
    """Return points in their primitives' own frames."""
    o, f, (x, y, z) = stage.part(ORIGIN, primitive), stage.part(FRAME, primitive), point
    a, b, c = (o[k] + f[3 * k] * x + f[3 * k + 1] * y + f[3 * k + 2] * z for k in range(3))
    return a, b, c


def _local_normal(kind: torch.Tensor, q: Triple, size: list[torch.Tensor]) -> Triple:
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
    return out[0], out[1], out[2]


def _surface_position(q: Triple, normal: Triple) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two coordinates on the surface: the two that the normal points along least."""
    nx, ny, nz = (a.abs() for a in normal)
    along_x = (nx > ny) & (nx > nz)
    along_y = ~along_x & (ny > nz)
    u = torch.where(along_x, q[2], q[0])
    v = torch.where(along_y, q[2], q[1])
    return u, v


def shadowed(stage: Stage, scene: torch.Tensor, primitive: torch.Tensor, point: Triple) -> torch.Tensor:
    """Return which points are cut off from the light by another primitive than their own."""
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
    kept = where(near & (caster != take(primitive, ray)))
    ray, caster = take(ray, kept), take(caster, kept)
    kinds = take(stage.kind, caster)
    for kind in (SPHERE, CAPSULE, BOX):
        chosen = where(kinds == kind)
        at, by = take(ray, chosen), take(caster, chosen)
        t = _towards_light(stage, kind, by, take(scene, at), (take(x, at), take(y, at), take(z, at)))
        dark[take(at, where((t > _TOUCHING) & (t < INFINITY)))] = True
    return dark


def _towards_light(stage: Stage, kind: int, by: torch.Tensor, scene: torch.Tensor, point: Triple) -> torch.Tensor:
    """Return t of the rays from points to the light against one primitive each."""
    a, b, c = (take(row, scene) for row in stage.light[:3])
    f = stage.part(FRAME, by)
    dx, dy, dz = (f[k] * a + f[k + 1] * b + f[k + 2] * c for k in (0, 3, 6))
    sx, sy, sz = stage.part(SIZE, by)
    return HITS[kind](_local(stage, by, point), (dx, dy, dz), (sx, sy, sz))


def _reaches(discs: torch.Tensor, which: torch.Tensor, height: torch.Tensor, u: torch.Tensor,
             v: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Say whether a bounding sphere stands between a point and the light."""
    h, du, dv, radius = (take(row, which) for row in discs)
    du, dv = du - u, dv - v
    return (du * du + dv * dv < radius * radius) & (h + radius > height)


def _sky(stage: Stage, rays: Rays, table: torch.Tensor) -> torch.Tensor:
    """Return the sky's colour along rays, (3, n): a gradient with clouds."""
    up = [take(row, rays.scene) for row in stage.light[9:12]]
    rise = (up[0] * rays.x + up[1] * rays.y + up[2]).clamp(min=0.0)
    cloud = fractal_noise(rays.x * 3.0 / (rise + 0.25), 1.0 / (rise + 0.12), torch.zeros_like(rise), table)
    veil = (cloud * 1.6 + 0.1).clamp(0.0, 0.8)
    high = (rise * 2.2).clamp(max=1.0)
    sky = [take(row, rays.scene) for row in stage.sky]
    blend = [sky[3 + c] + (sky[c] - sky[3 + c]) * high for c in range(3)]
    return torch.stack([colour + (0.9 - colour) * veil for colour in blend])


def _hazy(stage: Stage, scene: torch.Tensor, depth: torch.Tensor, channel: int, colour: torch.Tensor
          ) -> torch.Tensor:  # fmt: skip
    """Blend a colour into the horizon's with the distance, outdoors."""
    strength = torch.where(stage.sky[0] > 0.0, 1.0, 0.0)
    amount = take(strength, scene) * (depth * depth)
    return colour + (take(stage.sky[3 + channel], scene) - colour) * (amount / (amount + 1600.0))


def shade(stage: Stage, rays: Rays, t: torch.Tensor, primitive: torch.Tensor) -> torch.Tensor:
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
