"""Scenes built by hand, whose labels are known."""

import numpy as np

from bench.scenes.layout import Light, Scene, Surroundings, look_at
from bench.scenes.solids import Assembly
from bench.scenes.things import GROUND, Thing
from bench.scenes.world import World

PLAIN = (0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0)
SMALL = World(train=20, val=10, videos=8, frames=6, swaps=1)
TINY = World(train=10, val=10, videos=4, frames=2, swaps=1, size=64)


def thing(category: str, assembly: Assembly) -> Thing:
    return Thing(category=category, solid=assembly.solid(), place=(0.0, 0.0), reach=0.0, height=0.0)


def scene_of(*things: Thing, ground: float = 0.0) -> Scene:
    """A scene seen from (0, 1, 0) straight ahead, focal length one image width."""
    a = Assembly()
    a.plane((0.0, ground, 0.0), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)), PLAIN)
    surroundings = Surroundings(
        kind="outdoors", planes=a.solid(), semantic=(GROUND,), zenith=(0.2, 0.4, 0.8), horizon=(0.8, 0.8, 0.9)
    )
    light = Light(towards=(0.0, 1.0, 0.0), sun=(1.0, 1.0, 1.0), ambient=(0.3, 0.3, 0.3))
    camera = look_at((0.0, 1.0, 0.0), (0.0, 1.0, 5.0), 0.0, 1.0)
    return Scene(things=things, surroundings=surroundings, light=light, camera=camera)


def rays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The slopes x and y (down) of every pixel's centre, for a focal length of `size`."""
    y, x = np.mgrid[:size, :size]
    return (x + 0.5 - size / 2) / size, (y + 0.5 - size / 2) / size
