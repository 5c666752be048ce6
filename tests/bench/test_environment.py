"""What a record says of the machine it was made on."""

import shutil
import subprocess

import pytest

from bench.environment import environment


def test_the_processor_is_named() -> None:
    assert environment()["processor"]


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="needs util-linux")
def test_the_processor_is_the_one_that_the_system_names() -> None:
    told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    assert environment()["processor"] in told
