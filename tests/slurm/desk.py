"""A shared folder, the commands, and how a test waits for a cluster."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENTRIES = Path(__file__).with_name("slurm_entries.py")
# Nodes of the private cluster: what happens to these two is no other test's business.
FAILING, CONTENDED = "n3", "n4"
PATIENCE = 3  # waits are stated for two idle cores; a machine three times slower passes too


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60 * PATIENCE).stdout


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE * seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE * seconds} s: {what}"
        time.sleep(0.2)
    return found


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
        task = () if "--task" in words else ("--task", "counting/steps")
        given = ["--include", str(ENTRIES), "--backbone", "test_vit", *task]
        return [sys.executable, "-m", "bench.run", *given, *words]

    def run(self, *words: str, cluster: str = "slurm") -> "subprocess.CompletedProcess[str]":
        return self.call(*self.command("--cluster", cluster, *words))

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300 * PATIENCE
        )

    def module(self, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.call(sys.executable, "-m", name, *words)

    def records(self, results: str = "results") -> list[dict[str, Any]]:
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob(f"{results}/**/*.json"))]

    def starts(self, rank: int = 0) -> list[int]:
        """At which step each start of a run went on."""
        files = sorted(self.folder.glob(f"runs/**/starts-{rank}"))
        return [int(line.split()[1]) for file in files for line in file.read_text().splitlines()]

    def nodes(self) -> set[str]:
        """On which nodes runs were at work."""
        files = self.folder.glob("runs/**/starts-*")
        return {line.split()[2] for file in files for line in file.read_text().splitlines()}

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

    def await_end(self) -> list[dict[str, Any]]:
        """Watch until nothing runs or waits, as a person would; gives the records."""
        ended = self.module("bench.status", "--watch")
        assert ended.returncode in (0, 1), ended.stderr + self.logs()
        return self.records()
