"""The solid objects of a scene, and the names of every class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.scenes.puppets import SPECIES, Outfit, Pose, drawn_outfit, drawn_pose, puppet
from bench.scenes.rng import Draw
from bench.scenes.solids import Array, Assembly, Solid, about, rotate
from bench.scenes.textures import Material, material

CATEGORIES = ("puppet", "box", "ball", "pillar", "table", "tree")  # COCO ids 1 to 6
SEMANTIC = ("sky", "ground", "wall", *CATEGORIES)  # pixel values 0 to 8
SKY, GROUND, WALL = range(3)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object in world metres; `category` is a name of CATEGORIES, or "wall" for stuff.

    reach: radius of the upright cylinder about `place` that holds it.
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
    for x in (-1.0, 1.0):
        for z in (-1.0, 1.0):
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
    return np.where(solid.kind == 1, solid.size[:, 0] + lying * solid.size[:, 1],
                    np.where(solid.kind == 2, across, solid.size[:, 0]))  # fmt: skip


def stand_puppet(species: str, outfit: Outfit, pose: Pose, x: float, z: float, yaw: float) -> Thing:
    """Pose a puppet, turn it by `yaw` degrees (0: towards the viewer) and stand it at (x, z)."""
    made = puppet(species, outfit, pose)
    rotation, shift = np.array(about("y", yaw)), np.array([x, 0.0, z])
    return Thing(
        category="puppet",
        solid=made.solid.moved(rotation, shift),
        place=(x, z),
        reach=0.28 * outfit.height,
        height=made.height,
        species=species,
        keypoints=rotate(rotation, np.array(made.keypoints)) + shift,
        flesh=np.array(made.flesh),
    )


def drawn_thing(category: str, draw: Draw, x: float, z: float, cloth: Material | None = None) -> Thing:
    """Draw an object of a category and stand it at (x, z), turned any way."""
    yaw = draw.uniform(0.0, 360.0)
    if category == "puppet":
        species = draw.choice(SPECIES)
        return stand_puppet(species, drawn_outfit(draw, cloth), drawn_pose(draw), x, z, yaw)
    return stand(category, model(category, draw, cloth), x, z, yaw)
