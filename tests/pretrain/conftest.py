"""Lets the tests of pretraining share what they wrote."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random pictures in two classes; not to be written to."""
    from small_runs import pictures

    return pictures(tmp_path_factory.mktemp("images"))
