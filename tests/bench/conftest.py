"""Lets the tests of the feature contract share its families, for which other tests need not wait."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a family once for each."""
    if "family_name" in metafunc.fixturenames:
        from contract_families import FAMILIES

        metafunc.parametrize("family_name", FAMILIES)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder with the toy task's data and the CLI (toy_desk.Desk); this process uses its cache too."""
    from toy_desk import Desk

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return Desk(tmp_path)


@pytest.fixture
def datasets(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit status of a command of `python -m bench.datasets`, and what it printed."""
    from bench.datasets.__main__ import main

    def one(*words: object) -> tuple[int, str]:
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return one


@pytest.fixture
def family(family_name: str) -> Any:
    from contract_families import FAMILIES

    return FAMILIES[family_name]
