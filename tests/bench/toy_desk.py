"""An empty folder with the toy task's data, and the CLI and requests that use it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.runs.plan import Request

ROOT = Path(__file__).parents[2]
ENTRIES = Path(__file__).with_name("toy_entries.py")


class Desk:
    """An empty folder with the toy data in it, the CLI, and requests for the toy task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data" / "line"
        self.data.mkdir(parents=True)
        (self.data / "points.txt").write_text("0 0\n1 1\n2 4\n3 9\n")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "bench.run", "--include", str(ENTRIES), *words]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": f"{self.folder}:{ROOT}",
            "BENCH_DATA": str(self.folder / "data"),
            "BENCH_CACHE": str(self.folder / "cache"),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # What starts the tests may ignore Ctrl-C, as a shell's background jobs do.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def request(self, **changes: Any) -> Request:
        """The request that `run(*TOY)` makes, for tests in this process."""
        places = {
            "data_root": self.folder / "data",
            "results": self.folder / "results",
            "work_dir": self.folder / "runs",
        }
        return Request(
            **{"backbones": ("test_vit",), "tasks": ("toy/line",), "include": (ENTRIES,), **places, **changes}
        )

    def records(self) -> list[dict]:  # type: ignore[type-arg]
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob("results/**/*.json"))]

    def attempts(self) -> int:
        return sum(len(p.read_text()) for p in self.folder.glob("runs/**/started"))

    def await_start(self, attempts: int = 1) -> None:
        self.until(lambda: self.attempts() >= attempts, "the run did not start")

    def until(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, problem
            time.sleep(0.02)


TOY = ("--backbone", "test_vit", "--task", "toy/line")
