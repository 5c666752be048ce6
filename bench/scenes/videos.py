"""Draw tracking videos: one target that moves and turns, a moving camera, occluders, distractors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.scenes.layout import Light, Scene, Surroundings, drawn_light, drawn_surroundings, free_wall, look_at, posters
from bench.scenes.rng import Draw, cos_sin
from bench.scenes.solids import Assembly
from bench.scenes.textures import material
from bench.scenes.things import CATEGORIES, SPECIES, Thing, drawn_outfit, model, stand, stand_puppet, walking_pose


@dataclass(frozen=True, kw_only=True)
class Sway:
    """A value that swings about a centre: centre + reach * sin(360 (turns * t + phase)) + drift t."""

    centre: float
    reach: float = 0.0
    turns: float = 0.0
    phase: float = 0.0
    drift: float = 0.0

    def at(self, time: float) -> float:
        """Return the value at a time in [0, 1]."""
        swing = cos_sin(360.0 * (self.turns * time + self.phase))[1]
        return self.centre + self.reach * swing + self.drift * time


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A thing that moves and turns; `pose` returns it at (x, z, yaw, time)."""

    pose: Callable[[float, float, float, float], Thing]
    x: Sway
    z: Sway
    yaw: Sway

    def at(self, time: float) -> Thing:
        """Return the thing at a time in [0, 1]."""
        return self.pose(self.x.at(time), self.z.at(time), self.yaw.at(time), time)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video: its target is actors[0]."""

    category: str
    actors: tuple[Actor, ...]
    still: tuple[Thing, ...]
    surroundings: Surroundings
    light: Light
    eye: tuple[Sway, Sway]
    aim: tuple[Sway, Sway, float]
    focal: float

    def scene(self, time: float) -> Scene:
        """Return the scene at a time in [0, 1]; the target is things[0]."""
        things = (*(actor.at(time) for actor in self.actors), *self.still)
        eye = (self.eye[0].at(time), self.eye[1].at(time), 0.0)
        aim = (self.aim[0].at(time), self.aim[1].at(time), self.aim[2])
        camera = look_at(eye, aim, 0.0, self.focal)
        return Scene(things=things, surroundings=self.surroundings, light=self.light, camera=camera)


def _maker(category: str, draw: Draw) -> tuple[Callable[[float, float, float, float], Thing], float]:
    """Return a function that stands one drawn thing anywhere, and the thing's height."""
    if category == "puppet":
        species, outfit, rate = draw.choice(SPECIES), drawn_outfit(draw), draw.uniform(2.0, 5.0)
        return lambda x, z, yaw, time: stand_puppet(
            species, outfit, walking_pose(rate * time), x, z, yaw
        ), outfit.height
    solid = model(category, draw)
    height = stand(category, solid, 0.0, 0.0, 0.0).height
    return lambda x, z, yaw, _time: stand(category, solid, x, z, yaw), height


def _target(draw: Draw, category: str, focal: float) -> tuple[Actor, float, float]:
    """Draw the target; return it with its distance and height."""
    make, height = _maker(category, draw)
    share = draw.uniform(0.3, 0.55)
    z = max(2.6, height * focal / share)
    half_view = 0.5 * z / focal
    sideways = half_view * (draw.uniform(1.15, 1.4) if draw.chance(0.3) else draw.uniform(0.4, 0.7))
    side = 1.0 if draw.chance(0.5) else -1.0
    actor = Actor(
        pose=make,
        x=Sway(centre=0.0, reach=side * sideways, turns=draw.uniform(0.5, 1.0)),
        z=Sway(centre=z, reach=draw.uniform(0.1, 0.5), turns=draw.uniform(0.4, 1.2)),
        yaw=Sway(centre=draw.uniform(-60.0, 60.0), drift=draw.uniform(-240.0, 240.0)),
    )
    return actor, z, height


def _occluder(draw: Draw, target: Actor, z: float) -> Actor:
    """Draw a thing nearer to the camera that will hide the target, but not in the first frame."""
    near = z - draw.uniform(1.1, 1.4)
    shrink, side = near / z, 1.0 if target.x.reach > 0.0 else -1.0
    beyond = 0.55 * shrink * abs(target.x.reach) + 0.35
    if draw.chance(0.5):
        screen = Assembly()
        half = (draw.uniform(0.28, 0.45), draw.uniform(0.6, 0.9), 0.04)
        screen.box((0.0, half[1], 0.0), half, material(draw))
        solid, category = screen.solid(), "wall"
        beyond = max(beyond, half[0] + shrink * target.at(0.0).reach + 0.1)
    else:
        category = draw.choice(("pillar", "box", "tree"))
        solid = model(category, draw)
    return Actor(
        pose=lambda x, z, yaw, _time: stand(category, solid, x, z, yaw),
        x=Sway(centre=side * beyond),
        z=Sway(centre=near),
        yaw=Sway(centre=draw.uniform(-20.0, 20.0)),
    )


def _distractor(draw: Draw, category: str, z: float, focal: float, k: int) -> Actor:
    """Draw a moving thing behind the target, so that it does not hide the target."""
    make, _ = _maker(category, draw)
    far = z + 1.4 + 0.9 * k
    return Actor(
        pose=make,
        x=Sway(centre=draw.uniform(-0.4, 0.4) * far / focal, reach=draw.uniform(0.1, 1.0),
               turns=draw.uniform(0.4, 1.2), phase=draw.uniform()),
        z=Sway(centre=far, reach=0.3, turns=draw.uniform(0.4, 1.0), phase=draw.uniform()),
        yaw=Sway(centre=draw.uniform(0.0, 360.0), drift=draw.uniform(-200.0, 200.0)),
    )  # fmt: skip


SPLITS = {"train": 10, "test": 11}


def clip(seed: int, split: str, index: int) -> Clip:
    """Return video `index` of a split, a pure function of its arguments; the categories alternate."""
    draw, category = Draw(seed, SPLITS[split], index), CATEGORIES[index % len(CATEGORIES)]
    focal = draw.uniform(0.9, 1.1)
    target, z, height = _target(draw, category, focal)
    actors = [target]
    if draw.chance(0.55):
        actors.append(_occluder(draw, target, z))
    count = 1 + draw.integer(3)
    for k in range(count):
        kind = category if k == 0 else draw.choice(CATEGORIES)
        actors.append(_distractor(draw, kind, z, focal, k))
    back = z + 1.4 + 0.9 * count + draw.uniform(1.0, 3.0)
    spots = [(a.x.at(k / 16), a.z.at(k / 16)) for a in actors for k in range(17)]
    around = drawn_surroundings(draw, back, spots, 0.5)
    indoors = around.kind == "room"
    still = posters(draw, around) if indoors else [free_wall(draw, back + 2.0)]
    # The camera's eye and aim start at their centres, so the first frame shows the target.
    return Clip(
        category=category, actors=tuple(actors), still=tuple(still), surroundings=around, focal=focal,
        light=drawn_light(draw, indoors),
        eye=(
            Sway(centre=0.0, reach=draw.uniform(-0.4, 0.4), turns=draw.uniform(0.4, 1.0)),
            Sway(centre=draw.uniform(0.9, 1.7), reach=draw.uniform(-0.15, 0.15), turns=1.0),
        ),
        aim=(
            Sway(centre=0.0, reach=draw.uniform(-0.35, 0.35) * z, turns=draw.uniform(0.4, 1.0)),
            Sway(centre=0.5 * height, reach=draw.uniform(-0.1, 0.1), turns=1.5),
            z,
        ),
    )  # fmt: skip
