"""What tests of several folders share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def python() -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Run code in a process of its own, in the project's folder."""

    def run(code: str) -> "subprocess.CompletedProcess[str]":
        # By standard input: this process may refuse "pip install" among the words of a command.
        return subprocess.run(
            [sys.executable, "-"],
            input=code,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads change the order of sums, and a forked process may not start any."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
