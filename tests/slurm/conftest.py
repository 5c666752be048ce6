"""A real Slurm for the tests of this folder: `make test-slurm`.

One that is there is used (a shared folder is then named by BENCH_TEST_SHARED, if the temporary one is none).
Else a private one of four nodes on this machine is started by the script $BENCH_SLURM_UP or
../shared/slurm/slurm_up.sh. Where that cannot be, `make test-slurm` fails; `make test` says what it left out.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENTRIES = Path(__file__).with_name("slurm_entries.py")
BASE = Path("/tmp/slurm-bench-tests")
SITE = {"mem": "1500M", "time": 60}
REASON = "they need a Slurm and minutes: make test-slurm"
# Nodes of the private cluster: what happens to the last two is no other test's business.
FAILING, CONTENDED = "n3", "n4"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "BENCH_TEST_SLURM" not in os.environ:
            item.add_marker(pytest.mark.skip(reason=REASON))


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Puts a running Slurm into the environment; gives "private" or "site"."""
    if shutil.which("sinfo") and "SLURM_CONF" in os.environ:
        yield "site"
        return
    up = Path(os.environ.get("BENCH_SLURM_UP", ROOT.parent / "shared/slurm/slurm_up.sh"))
    if not up.is_file():
        pytest.fail(f"no Slurm here, and no {up} that starts one (set BENCH_SLURM_UP)", pytrace=False)
    environment = {**os.environ, "BASE": str(BASE), "NODES": "4", "ACCT": "none"}
    # Several workers of pytest ask at once: the first starts it, and the last leaves it on.
    lock = f"{BASE}.lock"
    started = subprocess.run(
        ["flock", lock, "bash", str(up)], env=environment, capture_output=True, text=True, timeout=300
    )
    if started.returncode:
        pytest.fail(f"{up} could not start a Slurm: {started.stderr}", pytrace=False)
    os.environ["SLURM_CONF"] = str(BASE / "etc/slurm.conf")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    yield "private"


@pytest.fixture
def private(cluster: str) -> None:
    """For tests that take an administrator."""
    if cluster != "private":
        pytest.skip("takes the cluster's administrator: runs on a private Slurm only")


class Desk:
    """A shared folder with the little task's data, and the commands at hand."""

    def __init__(self, folder: Path, site: dict[str, Any]) -> None:
        self.folder = folder
        self.data = folder / "data" / "steps"
        self.data.mkdir(parents=True)
        (self.data / "points.txt").write_text("0\n")
        (folder / "site.json").write_text(json.dumps(site))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BENCH_DATA": str(folder / "data"),
            "BENCH_CACHE": str(folder / "cache"),
            "BENCH_SLURM": str(folder / "site.json"),
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *words: str) -> list[str]:
        given = ["--include", str(ENTRIES), "--backbone", "test_vit", "--task", "counting/steps"]
        return [sys.executable, "-m", "bench.run", *given, *words]

    def run(self, *words: str, cluster: str = "slurm") -> "subprocess.CompletedProcess[str]":
        return self.call(*self.command("--cluster", cluster, *words))

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def module(self, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.call(sys.executable, "-m", name, *words)

    def records(self, results: str = "results") -> list[dict[str, Any]]:
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob(f"{results}/**/*.json"))]

    def starts(self) -> list[str]:
        return [
            line
            for path in sorted(self.folder.glob("runs/**/starts"))
            for line in path.read_text().splitlines()
        ]

    def step(self) -> int:
        """How far the furthest run is."""
        states = self.folder.glob("runs/**/state.json")
        return max((json.loads(path.read_text())["step"] for path in states), default=0)

    def jobs(self) -> list[str]:
        """The ids of all that was submitted."""
        told = [json.loads(p.read_text()) for p in self.folder.glob("runs/slurm/*.json")]
        return [run["job"] for t in sorted(told, key=lambda t: t["when"]) for run in t["runs"]]

    def logs(self) -> str:
        """For a test that fails."""
        files = sorted(self.folder.glob("runs/slurm/*/*_log.*"))
        return "\n".join(f"== {f.name}\n{f.read_text()[-3000:]}" for f in files)

    def await_step(self, step: int, seconds: float = 90) -> None:
        until(lambda: self.step() >= step, seconds, f"step {step}\n{self.logs()}")

    def await_end(self, seconds: float = 150) -> list[dict[str, Any]]:
        """Watch until nothing runs or waits, as a person would; gives the records."""
        ended = self.module("bench.status", "--watch")
        assert ended.returncode in (0, 1), ended.stderr + self.logs()
        return self.records()


@pytest.fixture
def desk(cluster: str, tmp_path: Path) -> Desk:
    shared = os.environ.get("BENCH_TEST_SHARED")
    folder = Path(shared) / f"{tmp_path.parent.name}-{tmp_path.name}" if shared else tmp_path
    return Desk(folder, {**SITE, "exclude": f"{FAILING},{CONTENDED}"} if cluster == "private" else SITE)
