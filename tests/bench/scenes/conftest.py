"""One small world on disk, shared by the tests of the embedded world."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenes_by_hand import SMALL

from bench.scenes.world import make


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(SMALL, tmp_path_factory.mktemp("scenes") / "world", workers=1)
