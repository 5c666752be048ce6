"""Lets the tests of the feature contract share its families."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from contract_families import FAMILIES, Family


@pytest.fixture(params=FAMILIES)
def family_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(family_name: str) -> Family:
    return FAMILIES[family_name]
