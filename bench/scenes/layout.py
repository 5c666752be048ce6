"""Draw scenes: where things stand, the room or ground around them, the light and the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from bench.scenes.rng import Draw
from bench.scenes.solids import Array, Assembly, Solid, Vector, about, add, cross, turn, unit
from bench.scenes.textures import Colour, colour, material
from bench.scenes.things import CATEGORIES, GROUND, SPECIES, WALL, Thing, drawn_subject, drawn_thing, stand


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera: p_camera = rotation (p_world - eye); focal length in image widths."""

    eye: Vector
    rotation: Array
    focal: float


@dataclass(frozen=True, kw_only=True)
class Light:
    """A distant light: unit vector towards it (world), its colour and the ambient colour."""

    towards: Vector
    sun: Colour
    ambient: Colour


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The planes around a scene (ground or room), their semantic values, and the sky's two colours."""

    kind: str  # "room" or "outdoors"
    planes: Solid
    semantic: tuple[int, ...]
    zenith: Colour
    horizon: Colour


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that is rendered in one image; things[subject] is the puppet that the scene is built around."""

    things: tuple[Thing, ...]
    surroundings: Surroundings
    light: Light
    camera: Camera
    subject: int = 0


def look_at(eye: Vector, aim: Vector, roll: float, focal: float) -> Camera:
    """Return a camera at `eye` whose optical axis passes through `aim`; roll in degrees."""
    ahead = unit(add(aim, eye, -1.0))
    right = unit(cross((0.0, 1.0, 0.0), ahead))
    down = cross(right, ahead)
    tilt = about("z", roll)
    rows = [
        add((tilt[i][0] * right[0], tilt[i][0] * right[1], tilt[i][0] * right[2]), down, tilt[i][1]) for i in (0, 1)
    ]
    return Camera(eye=eye, rotation=np.array([*rows, ahead]), focal=focal)


def drawn_light(draw: Draw, room: bool) -> Light:
    """Draw a warm to cold light from above and to the side, and a dimmer ambient light."""
    azimuth = turn(about("y", draw.uniform(-110.0, 110.0)), (0.0, 0.0, -1.0))
    towards = unit((azimuth[0], draw.uniform(0.6 if not room else 0.9, 2.2), azimuth[2]))
    warmth, power = draw.uniform(-0.15, 0.15), draw.uniform(0.9, 1.5)
    fill = draw.uniform(0.26, 0.52)
    return Light(
        towards=towards,
        sun=(power * (1.0 + warmth), power, power * (1.0 - warmth)),
        ambient=(fill * (1.0 - 0.5 * warmth), fill, fill * (1.0 + 0.5 * warmth)),
    )


_FLOOR = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))


def outdoors(draw: Draw) -> Surroundings:
    """Draw open ground under a sky."""
    a = Assembly()
    pattern = draw.choice(("plain", "blotches", "bricks", "checks", "blotches"))
    earthy = colour(draw, 0.05, 0.5)
    a.plane((0.0, 0.0, 0.0), _FLOOR, material(draw, pattern, (0.4, 1.6), earthy))
    blue = draw.uniform(0.5, 0.95)
    return Surroundings(
        kind="outdoors",
        planes=a.solid(),
        semantic=(GROUND,),
        zenith=(0.35 * blue, 0.55 * blue, blue),
        horizon=(draw.uniform(0.6, 0.95), draw.uniform(0.65, 0.9), draw.uniform(0.7, 0.95)),
    )


def room(draw: Draw, depth: float) -> Surroundings:
    """Draw four walls, a floor and a ceiling, the far wall `depth` metres ahead."""
    a = Assembly()
    a.plane((0.0, 0.0, 0.0), _FLOOR, material(draw, None, (0.8, 3.0)))
    top = draw.uniform(2.6, 3.6)
    a.plane((0.0, top, 0.0), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
            material(draw, "plain", tint=(0.7, 0.7, 0.68)))  # fmt: skip
    paper = material(draw, None, (0.8, 3.5))
    left, right = draw.uniform(1.8, 4.5), draw.uniform(1.8, 4.5)
    yaw = about("y", draw.uniform(-30.0, 30.0))
    for normal, distance in (
        ((0.0, 0.0, -1.0), depth), ((1.0, 0.0, 0.0), left),
        ((-1.0, 0.0, 0.0), right), ((0.0, 0.0, 1.0), 3.0),
    ):  # fmt: skip
        n = turn(yaw, normal)
        other = material(draw, None, (0.8, 3.5)) if draw.chance(0.25) else paper
        frame = (cross((0.0, 1.0, 0.0), n), (0.0, 1.0, 0.0), n)
        a.plane((-distance * n[0], 0.0, -distance * n[2]), frame, other)
    return Surroundings(
        kind="room", planes=a.solid(), semantic=(GROUND, WALL, WALL, WALL, WALL, WALL),
        zenith=(0.0, 0.0, 0.0), horizon=(0.0, 0.0, 0.0),
    )  # fmt: skip


def clearance(surroundings: Surroundings, x: float, z: float) -> float:
    """Return the distance in metres from (x, z) to the nearest wall plane; 1e3 outdoors."""
    walls = zip(surroundings.planes.centre[2:], surroundings.planes.frame[2:, 2], strict=True)
    return min((float((x - c[0]) * n[0] + (z - c[2]) * n[2]) for c, n in walls), default=1e3)


def drawn_surroundings(draw: Draw, depth: float, spots: Sequence[tuple[float, float]], reach: float) -> Surroundings:
    """Draw a room or open ground; in a room, every spot (x, z) is farther than `reach` from the walls."""
    if draw.chance(0.55):
        for _ in range(6):
            around = room(draw, depth)
            if all(clearance(around, x, z) > reach for x, z in spots):
                return around
    return outdoors(draw)


def free_wall(draw: Draw, z: float) -> Thing:
    """Draw a wall that stands in the open behind everything else."""
    a = Assembly()
    half = (draw.uniform(1.5, 5.0), draw.uniform(0.5, 1.6), 0.15)
    a.box((0.0, half[1], 0.0), half, material(draw, None, (0.8, 3.0)))
    return stand("wall", a.solid(), draw.uniform(-3.0, 3.0), z, draw.uniform(-25.0, 25.0))


def posters(draw: Draw, surroundings: Surroundings) -> list[Thing]:
    """Draw up to two posters on the far wall: texture that does not belong to an object."""
    things = []
    centre, frame = surroundings.planes.centre[2], surroundings.planes.frame[2]
    for _ in range(draw.integer(3)):
        a = Assembly()
        half = (draw.uniform(0.25, 0.7), draw.uniform(0.2, 0.5), 0.012)
        a.box((0.0, draw.uniform(1.1, 1.7), 0.0), half, material(draw, None, (2.0, 8.0)))
        along = draw.uniform(-2.0, 2.0)
        solid = a.solid().moved(np.array(frame.T), centre + along * frame[0])
        things.append(Thing(category="wall", solid=solid, place=(0.0, 0.0), reach=0.0, height=0.0))
    return things


def drawn_camera(draw: Draw, subject: Thing, focal: float) -> Camera:
    """Draw a camera with the whole subject in view, at most 80 % of the possible distance off the centre."""
    z, height = subject.place[1], subject.height
    slack = max(0.0, 0.5 * z / focal - 0.54 * height)
    wide = max(0.0, 0.5 * z / focal - 0.9 * subject.reach)
    aim = (draw.uniform(-0.8, 0.8) * wide, 0.5 * height + draw.uniform(-0.8, 0.8) * slack, z)
    eye = (0.0, draw.uniform(0.7, 1.1 + 0.35 * z), 0.0)
    return look_at(eye, aim, draw.uniform(-4.0, 4.0), focal)


SLIMMEST = 0.09  # metres, no thing has a smaller reach


def _hides(x: float, z: float, reach: float, subject: Thing) -> bool:
    """Return whether a thing would be nearer than the subject and hide its middle."""
    sx, sz = subject.place
    return z <= sz - 0.3 and reach / z + 0.55 * subject.reach / sz - abs(x / z - sx / sz) > 0.0


def _fits(thing: Thing, others: list[Thing], surroundings: Surroundings) -> bool:
    """Return whether a thing does not touch the others, the walls or the camera, and does not hide the subject."""
    x, z = thing.place
    if z < thing.reach + 0.6 or clearance(surroundings, x, z) < thing.reach + 0.05:
        return False
    if _hides(x, z, thing.reach, others[0]):
        return False
    return all(sqrt((x - o.place[0]) ** 2 + (z - o.place[1]) ** 2) > 0.8 * (thing.reach + o.reach) for o in others)


def drawn_company(draw: Draw, subject: Thing, surroundings: Surroundings, camera: Camera, count: int) -> list[Thing]:
    """Draw up to `count` things around the subject, most of them in view, none hiding it; return all things."""
    things = [subject]
    ahead = camera.rotation[2]
    for k in range(count):
        category = "puppet" if draw.chance(0.3) else draw.choice(CATEGORIES[1:])
        for attempt in range(8):
            # Each attempt has its own stream, so the number of draws in a rejected one affects nothing else.
            inner = Draw(draw.integer(1 << 31), k, attempt)
            z = inner.uniform(1.3, subject.place[1] + 4.5)
            slope = inner.uniform(-0.47, 0.47) / camera.focal
            x = z * (slope + float(ahead[0]) / float(ahead[2]))
            if clearance(surroundings, x, z) < SLIMMEST or _hides(x, z, SLIMMEST, subject):
                continue  # not even the slimmest thing fits there
            thing = drawn_thing(category, inner, x, z)
            if _fits(thing, things, surroundings):
                things.append(thing)
                break
    return things


def drawn_scene(draw: Draw, species: str) -> Scene:
    """Draw a scene about one puppet of a species, with one to five more things."""
    focal = draw.uniform(0.8, 1.15)
    subject = drawn_subject(draw, species, focal)
    depth = subject.place[1] + draw.uniform(1.0, 5.0)
    around = drawn_surroundings(draw, depth, [subject.place], subject.reach + 0.1)
    indoors = around.kind == "room"
    light, camera = drawn_light(draw, indoors), drawn_camera(draw, subject, focal)
    things = drawn_company(draw, subject, around, camera, 1 + draw.integer(5))
    if indoors:
        things += posters(draw, around)
    elif draw.chance(0.5):
        things.append(free_wall(draw, depth + 3.5))
    return Scene(things=tuple(things), surroundings=around, light=light, camera=camera)


SPLITS = {"train": 0, "val": 1}


def scene(seed: int, split: str, index: int) -> Scene:
    """Return scene `index` of a split, a pure function of its arguments; each block of ten has all ten species."""
    block, place = divmod(index, len(SPECIES))
    order = Draw(seed, SPLITS[split], block, 11).shuffled(SPECIES)
    return drawn_scene(Draw(seed, SPLITS[split], index, 12), order[place])


# Cue conflict: one object, whose class has a texture of its own, and swaps of the two.

TEXTURES = dict(zip(CATEGORIES, ("stripes", "bricks", "checks", "zigzag", "dots", "blotches"), strict=True))
# Cells a metre, so that several fit across the narrowest part.
CELLS = {
    "puppet": (9.0, 13.0), "box": (4.0, 8.0), "ball": (5.0, 9.0), "pillar": (8.0, 12.0),
    "table": (8.0, 13.0), "tree": (6.0, 10.0),
}  # fmt: skip


def cue_scene(key: Draw, shape: str, texture: str) -> Scene:
    """Draw one object of class `shape` with the texture of class `texture`; only the object has a pattern."""
    cloth = material(key, TEXTURES[texture], scale=CELLS[shape])
    trial = drawn_thing(shape, Draw(key.integer(1 << 31)), 0.0, 0.0, cloth)
    focal = key.uniform(0.9, 1.1)
    extent = max(trial.height, 2.0 * trial.reach)
    z = extent * focal / key.uniform(0.62, 0.92) + 0.4 * trial.reach
    thing = replace(
        trial, solid=replace(trial.solid, centre=trial.solid.centre + np.array((0.0, 0.0, z))),
        keypoints=None, place=(0.0, z),
    )  # fmt: skip
    around = drawn_surroundings(key, z + key.uniform(1.0, 4.0), [thing.place], thing.reach + 0.1)
    bare = around.planes.material.copy()
    bare[:, 0] = 0.0  # PATTERNS[0]: plain
    around = replace(around, planes=replace(around.planes, material=bare))
    eye = (0.0, key.uniform(0.8, 1.0 + 0.3 * z), 0.0)
    aim = (key.uniform(-0.12, 0.12) * z, 0.5 * trial.height, z)
    camera = look_at(eye, aim, key.uniform(-4.0, 4.0), focal)
    return Scene(things=(thing,), surroundings=around, light=drawn_light(key, around.kind == "room"), camera=camera)
