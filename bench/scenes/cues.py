"""Cue conflict: one object, whose class has a texture of its own, and swaps of the two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.scenes.draws import Draw
from bench.scenes.layout import Scene, drawn_light, drawn_surroundings, look_at
from bench.scenes.textures import material
from bench.scenes.things import CATEGORIES, drawn_thing

TEXTURES = dict(
    zip(CATEGORIES, ("stripes", "bricks", "checks", "zigzag", "dots", "blotches"), strict=True)
)
# Cells a metre, so that several fit across the narrowest part.
CELLS = {
    "puppet": (9.0, 13.0), "box": (4.0, 8.0), "ball": (5.0, 9.0), "pillar": (8.0, 12.0),
    "table": (8.0, 13.0), "tree": (6.0, 10.0),
}  # fmt: skip


def cue_scene(key: Draw, shape: str, texture: str) -> Scene:
    """Draw one object of class `shape`, covered in the texture of class `texture`.

    The surroundings are plain, so that only the object carries a pattern.
    """
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
    return Scene(
        things=(thing,),
        surroundings=around,
        light=drawn_light(key, around.kind == "room"),
        camera=camera,
    )
