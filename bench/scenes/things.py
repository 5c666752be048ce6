"""What can stand in a scene: puppets of ten species and solid objects, and the names of every class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from bench.scenes.rng import Draw, cos_sin
from bench.scenes.solids import BOX, CAPSULE, Array, Assembly, Rotation, Solid, Vector, about, add, axes, rotate, turn
from bench.scenes.textures import Material, material

CATEGORIES = ("puppet", "box", "ball", "pillar", "table", "tree")  # COCO ids 1 to 6
SEMANTIC = ("sky", "ground", "wall", *CATEGORIES)  # pixel values 0 to 8
SKY, GROUND, WALL = range(3)
SPECIES = ("antenna", "beaked", "bear", "booted", "crested", "hare", "hatted", "horned", "mittened", "winged")
KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object in world metres; `category` is a name of CATEGORIES, or "wall" for stuff.

    reach: radius of the upright cylinder around `place` that encloses it; keypoints: a puppet's 17 points in COCO's
    order, (17, 3); flesh: radius of the body around each, (17,).
    """

    category: str
    solid: Solid
    place: tuple[float, float]
    reach: float
    height: float
    species: str | None = None
    keypoints: Array | None = None
    flesh: Array | None = None

    @property
    def semantic(self) -> int:
        """The pixel value of its class."""
        return SEMANTIC.index(self.category)


def model(category: str, draw: Draw, cloth: Material | None = None) -> Solid:
    """Draw a solid object of a category, standing on y = 0 about the origin."""
    a, skin = Assembly(), cloth or material(draw)
    other = cloth or (skin if draw.chance(0.5) else material(draw))
    if category == "box":
        half = (draw.uniform(0.15, 0.5), draw.uniform(0.12, 0.5), draw.uniform(0.15, 0.5))
        a.box((0.0, half[1], 0.0), half, skin)
    elif category == "ball":
        radius = draw.uniform(0.15, 0.45)
        a.sphere((0.0, radius, 0.0), radius, skin)
    elif category == "pillar":
        radius, top = draw.uniform(0.09, 0.2), draw.uniform(0.7, 1.8)
        a.capsule((0.0, radius, 0.0), (0.0, top, 0.0), radius, skin)
    elif category == "table":
        _table(a, draw, skin, other)
    elif category == "tree":
        _tree(a, draw, skin, other)
    return a.solid()


def _table(a: Assembly, draw: Draw, top: Material, legs: Material) -> None:
    width, depth = draw.uniform(0.35, 0.7), draw.uniform(0.3, 0.5)
    height, thick = draw.uniform(0.45, 0.85), draw.uniform(0.025, 0.05)
    a.box((0.0, height, 0.0), (width, thick, depth), top)
    leg = draw.uniform(0.025, 0.045)
    for x, z in product((-1.0, 1.0), repeat=2):
        foot = (x * (width - 2.0 * leg), 0.5 * height, z * (depth - 2.0 * leg))
        a.box(foot, (leg, 0.5 * height, leg), legs)


def _tree(a: Assembly, draw: Draw, crown: Material, trunk: Material) -> None:
    height, radius = draw.uniform(0.7, 1.5), draw.uniform(0.22, 0.4)
    a.capsule((0.0, 0.05, 0.0), (0.0, height, 0.0), draw.uniform(0.05, 0.09), trunk)
    for k in range(4):
        shift = about("y", 120.0 * k + draw.uniform(0.0, 60.0))[0]
        spread = 0.0 if k == 3 else 0.6 * radius
        lift = 0.6 * radius if k == 3 else draw.uniform(-0.2, 0.3) * radius
        centre = (spread * shift[0], height + lift, spread * shift[2])
        a.sphere(centre, radius * draw.uniform(0.7, 1.0), crown)


def stand(category: str, solid: Solid, x: float, z: float, yaw: float) -> Thing:
    """Turn a solid by `yaw` degrees and stand it at (x, z)."""
    rotation = np.array(about("y", yaw))
    reach = solid.reach()
    flat = np.sqrt(solid.centre[:, 0] ** 2 + solid.centre[:, 2] ** 2)
    return Thing(
        category=category,
        solid=solid.moved(rotation, np.array([x, 0.0, z])),
        place=(x, z),
        reach=float((flat + np.minimum(reach, _girth(solid))).max()),
        height=float((solid.centre[:, 1] + reach).max()),
    )


def _girth(solid: Solid) -> Array:
    """Return how far each primitive may reach sideways (an upright capsule: its radius)."""
    lying = np.sqrt(np.maximum(1.0 - solid.frame[:, 1, 1] ** 2, 0.0))
    across = np.sqrt(solid.size[:, 0] ** 2 + solid.size[:, 2] ** 2)
    return np.where(solid.kind == CAPSULE, solid.size[:, 0] + lying * solid.size[:, 1],
                    np.where(solid.kind == BOX, across, solid.size[:, 0]))  # fmt: skip


def drawn_thing(category: str, draw: Draw, x: float, z: float, cloth: Material | None = None) -> Thing:
    """Draw an object of a category and stand it at (x, z) with any yaw."""
    yaw = draw.uniform(0.0, 360.0)
    if category == "puppet":
        species = draw.choice(SPECIES)
        return stand_puppet(species, drawn_outfit(draw, cloth), drawn_pose(draw), x, z, yaw)
    return stand(category, model(category, draw, cloth), x, z, yaw)


# Puppets: articulated, of any pose, size and colours; only one small part depends on the species.


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Angles in degrees; pairs are (left, right)."""

    lean: float
    head_turn: float
    swing: tuple[float, float]
    spread: tuple[float, float]
    elbow: tuple[float, float]
    stride: tuple[float, float]
    knee: tuple[float, float]


def drawn_pose(draw: Draw) -> Pose:
    """Draw a pose: standing, walking, waving or sitting back on its heels."""
    bend = draw.choice((10.0, 25.0, 50.0))
    return Pose(
        lean=draw.uniform(-8.0, 14.0),
        head_turn=draw.uniform(-25.0, 25.0),
        swing=(draw.uniform(-40.0, 70.0), draw.uniform(-40.0, 70.0)),
        spread=(draw.uniform(8.0, 85.0), draw.uniform(8.0, 85.0)),
        elbow=(draw.uniform(0.0, 100.0), draw.uniform(0.0, 100.0)),
        stride=(draw.uniform(-25.0, bend), draw.uniform(-25.0, bend)),
        knee=(draw.uniform(0.0, bend), draw.uniform(0.0, bend)),
    )


def walking_pose(phase: float) -> Pose:
    """Return the pose at a phase of the walking cycle, in turns."""
    c, s = cos_sin(360.0 * phase)
    return Pose(
        lean=4.0, head_turn=6.0 * c, swing=(30.0 * s, -30.0 * s), spread=(14.0, 14.0),
        elbow=(25.0 + 10.0 * s, 25.0 - 10.0 * s), stride=(-28.0 * s, 28.0 * s),
        knee=(16.0 - 14.0 * c, 16.0 + 14.0 * c),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """Materials and proportions (lengths are fractions of the height)."""

    skin: Material
    shirt: Material
    trousers: Material
    shoes: Material
    part: Material
    height: float
    limb: float
    head: float
    backpack: bool
    scarf: bool


def drawn_outfit(draw: Draw, cloth: Material | None = None) -> Outfit:
    """Draw clothes and proportions; with `cloth`, the whole body has that material."""
    skin = cloth or material(draw, "plain")
    return Outfit(
        skin=skin,
        shirt=cloth or material(draw),
        trousers=cloth or material(draw),
        shoes=cloth or material(draw, "plain"),
        part=cloth or (skin if draw.chance(0.4) else material(draw, "plain")),
        height=draw.uniform(0.9, 1.9),
        limb=draw.uniform(0.034, 0.05),
        head=draw.uniform(0.135, 0.165),
        backpack=draw.chance(0.3),
        scarf=draw.chance(0.3),
    )


_EYE = (0.0, 1.0, 0.3, 0.0, 0.0, 0.8, 0.8, 0.8, 0.0, 0.0, 0.0)
_PUPIL = (0.0, 1.0, 0.3, 0.0, 0.0, 0.01, 0.01, 0.01, 0.0, 0.0, 0.0)


class _Body:
    """Builds one puppet of height about 1; `points` are its keypoints, each with the radius of the body there."""

    def __init__(self, species: str, outfit: Outfit, pose: Pose) -> None:
        self.species, self.outfit, self.pose = species, outfit, pose
        self.assembly = Assembly()
        self.points: dict[str, tuple[Vector, float]] = {}
        self.hips: Vector = (0.0, 0.46, 0.0)
        self.trunk = about("x", -pose.lean)
        self.neck = add(self.hips, turn(self.trunk, (0.0, 0.32, 0.0)))
        self._torso()
        # The puppet faces -z, so its left is at +x.
        for k, (side, name) in enumerate(((1.0, "left"), (-1.0, "right"))):
            self._arm(side, name, k)
            self._leg(side, name, k)
        self._head()

    def _torso(self) -> None:
        a, o = self.assembly, self.outfit
        chest = add(self.neck, turn(self.trunk, (0.0, -0.08, 0.0)))
        a.capsule(add(self.hips, turn(self.trunk, (0.0, 0.04, 0.0))), chest, 0.105, o.shirt)
        a.capsule(add(self.hips, (-0.06, 0.0, 0.0)), add(self.hips, (0.06, 0.0, 0.0)), 0.075, o.trousers)
        if o.backpack:
            a.box(add(chest, turn(self.trunk, (0.0, -0.04, 0.14))), (0.1, 0.12, 0.05), o.shoes, axes(self.trunk))
        if o.scarf:
            knot = add(self.neck, turn(self.trunk, (0.0, 0.0, -0.02)))
            a.capsule(add(knot, (-0.05, 0.0, 0.0)), add(knot, (0.05, 0.0, 0.0)), 0.05, o.trousers)
        if self.species == "winged":
            for side in (-1.0, 1.0):
                root = add(self.neck, turn(self.trunk, (side * 0.25, 0.0, 0.13)))
                a.box(root, (0.17, 0.085, 0.016), o.part, axes(about("z", 28.0 * side)))

    def _arm(self, side: float, name: str, k: int) -> None:
        a, o, p = self.assembly, self.outfit, self.pose
        shoulder = add(self.neck, turn(self.trunk, (side * 0.135, -0.05, 0.0)))
        raised = turn(about("z", side * p.spread[k]), (0.0, -0.165, 0.0))
        upper = turn(about("x", p.swing[k]), raised)
        elbow = add(shoulder, upper)
        lower = turn(about("x", p.swing[k] + p.elbow[k]), raised)
        wrist = add(elbow, lower, 0.92)
        hand = add(wrist, lower, 0.2)
        a.capsule(shoulder, elbow, o.limb * 1.05, o.shirt)
        a.capsule(elbow, wrist, o.limb * 0.85, o.skin)
        mitten = self.species == "mittened"
        a.sphere(hand, 0.095 if mitten else 0.042, o.part if mitten else o.skin)
        self.points[name + "_shoulder"] = (shoulder, o.limb * 1.05)
        self.points[name + "_elbow"] = (elbow, o.limb)
        self.points[name + "_wrist"] = (wrist, 0.095 if mitten else o.limb * 0.9)

    def _leg(self, side: float, name: str, k: int) -> None:
        a, o, p = self.assembly, self.outfit, self.pose
        hip = add(self.hips, (side * 0.075, -0.01, 0.0))
        knee = add(hip, turn(about("x", p.stride[k]), (side * 0.015, -0.21, 0.0)))
        shin = turn(about("x", p.stride[k] - p.knee[k]), (side * 0.01, -0.2, 0.0))
        ankle = add(knee, shin)
        a.capsule(hip, knee, o.limb * 1.3, o.trousers)
        a.capsule(knee, ankle, o.limb, o.trousers)
        if self.species == "booted":
            a.box(add(ankle, (0.0, 0.03, -0.03)), (0.072, 0.085, 0.115), o.part)
        else:
            a.capsule(add(ankle, (0.0, -0.015, 0.01)), add(ankle, (0.0, -0.015, -0.07)), 0.036, o.shoes)
        self.points[name + "_hip"] = (hip, 0.1)
        self.points[name + "_knee"] = (knee, o.limb * 1.3)
        self.points[name + "_ankle"] = (ankle, 0.08 if self.species == "booted" else o.limb)

    def _head(self) -> None:
        a, o, r = self.assembly, self.outfit, self.outfit.head
        facing = about("y", self.pose.head_turn)
        self.middle = add(self.neck, turn(self.trunk, (0.0, 0.03 + r, 0.0)))

        def on_head(x: float, y: float, z: float) -> Vector:
            """Return a point given in radii from the middle of the head."""
            return add(self.middle, turn(facing, (x * r, y * r, z * r)))

        a.sphere(self.middle, r, o.skin)
        a.capsule(self.neck, self.middle, 0.045, o.skin)
        for side, name in ((1.0, "left"), (-1.0, "right")):
            a.sphere(on_head(side * 0.38, 0.2, -0.82), 0.28 * r, _EYE)
            a.sphere(on_head(side * 0.36, 0.2, -1.02), 0.15 * r, _PUPIL)
            a.sphere(on_head(side * 0.98, 0.0, 0.05), 0.24 * r, o.skin)
            self.points[name + "_eye"] = (on_head(side * 0.38, 0.2, -0.95), 0.3 * r)
            self.points[name + "_ear"] = (on_head(side * 0.98, 0.0, 0.05), 0.3 * r)
        if self.species != "beaked":
            a.sphere(on_head(0.0, -0.15, -1.0), 0.18 * r, o.skin)
        self.points["nose"] = (on_head(0.0, -0.15, -1.0), 0.35 * r)
        _head_part(a, self.species, o, on_head, facing)


def _head_part(
    a: Assembly, species: str, o: Outfit, on_head: Callable[[float, float, float], Vector], facing: Rotation
) -> None:
    """Add the part that marks a species, if it is on the head; `on_head` takes radii of the head."""
    r, part = o.head, o.part
    if species == "antenna":
        a.capsule(on_head(0.0, 0.9, 0.0), on_head(0.0, 2.0, 0.0), 0.14 * r, part)
        a.sphere(on_head(0.0, 2.1, 0.0), 0.38 * r, part)
    elif species == "beaked":
        a.capsule(on_head(0.0, -0.2, -0.9), on_head(0.0, -0.4, -1.9), 0.27 * r, part)
    elif species == "crested":
        for y, z in ((0.95, -0.5), (1.2, -0.05), (1.05, 0.45), (0.6, 0.85)):
            a.sphere(on_head(0.0, y, z), 0.33 * r, part)
    elif species == "hatted":
        a.box(on_head(0.0, 0.72, 0.0), (1.35 * r, 0.13 * r, 1.35 * r), part, axes(facing))
        a.box(on_head(0.0, 1.2, 0.0), (0.72 * r, 0.45 * r, 0.72 * r), part, axes(facing))
    for side in (-1.0, 1.0):
        if species == "bear":
            a.sphere(on_head(side * 0.72, 0.85, 0.0), 0.46 * r, part)
        elif species == "hare":
            a.capsule(on_head(side * 0.4, 0.8, 0.0), on_head(side * 0.55, 2.1, 0.1), 0.25 * r, part)
        elif species == "horned":
            bend = on_head(side * 1.05, 0.95, 0.0)
            a.capsule(on_head(side * 0.5, 0.75, 0.0), bend, 0.2 * r, part)
            a.capsule(bend, on_head(side * 1.05, 1.55, 0.0), 0.17 * r, part)


def stand_puppet(species: str, outfit: Outfit, pose: Pose, x: float, z: float, yaw: float) -> Thing:
    """Build a puppet on its lower foot, turn it by `yaw` degrees (0: towards the viewer), and stand it at (x, z)."""
    body = _Body(species, outfit, pose)
    solid, scale = body.assembly.solid(), outfit.height
    low = float((solid.centre[:, 1] - _drop(solid)).min())
    high = float((solid.centre[:, 1] + _drop(solid)).max())
    centre = solid.centre.copy()
    centre[:, 1] -= low
    scaled = replace(solid, centre=centre * scale, size=solid.size * scale)
    points = [body.points[name] for name in KEYPOINTS]
    keypoints = np.array([(x * scale, (y - low) * scale, z * scale) for (x, y, z), _ in points])
    rotation, shift = np.array(about("y", yaw)), np.array([x, 0.0, z])
    return Thing(
        category="puppet",
        solid=scaled.moved(rotation, shift),
        place=(x, z),
        reach=0.28 * outfit.height,
        height=(high - low) * scale,
        species=species,
        keypoints=rotate(rotation, keypoints) + shift,
        flesh=np.array([flesh * scale for _, flesh in points]),
    )


def drawn_subject(draw: Draw, species: str, focal: float) -> Thing:
    """Draw a puppet that will be 0.56 to 0.84 of the image high, more or less facing the viewer."""
    outfit, pose = drawn_outfit(draw), drawn_pose(draw)
    yaw, share = draw.uniform(-60.0, 60.0), draw.uniform(0.58, 0.84)
    trial = stand_puppet(species, outfit, pose, 0.0, 0.0, yaw)
    return stand_puppet(species, outfit, pose, 0.0, trial.height * focal / share, yaw)


def _drop(solid: Solid) -> Array:
    """Return how far each primitive reaches below its centre."""
    along, s = abs(solid.frame[:, :, 1]), solid.size
    boxed = along[:, 0] * s[:, 0] + along[:, 1] * s[:, 1] + along[:, 2] * s[:, 2]
    rounded = s[:, 0] + along[:, 1] * s[:, 1]
    return (solid.kind == BOX) * boxed + (solid.kind != BOX) * rounded
