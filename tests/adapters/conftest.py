"""What the tests of all families share: the modules of this folder, and one small world."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes of 96 pixels to train on and ten to test on; read-only."""
    from bench.scenes.world import World, ensure

    recipe = World(train=10, val=10, videos=4, frames=2, swaps=1, size=96)
    return ensure(recipe, tmp_path_factory.mktemp("world"), workers=1)


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    """The small world as a data set's folder, next to which a test's runs may write."""
    (tmp_path / "scenes").symlink_to(world)
    return tmp_path / "scenes"
