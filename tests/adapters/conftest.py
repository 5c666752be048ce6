"""Lets the tests of a family share what they wrote, and all of them one small world."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes of 96 pixels to train on, ten to test on; not to be written to."""
    from bench.scenes.world import World, ensure

    recipe = World(train=10, val=10, videos=4, frames=2, swaps=1, size=96)
    return ensure(recipe, tmp_path_factory.mktemp("world"), workers=1)
