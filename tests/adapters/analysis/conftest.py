"""Lets the tests of the analyses share their jobs."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "bench")]


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    (tmp_path / "scenes").symlink_to(world)
    return tmp_path / "scenes"
