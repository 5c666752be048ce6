"""How long the command line keeps a user waiting, each figure beside what it is measured against.

    make bench

Commands are timed in turn, A B A B ..., as whole processes; medians and ranges are printed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records import Result, Store
from bench.runs import plan
from bench.runs.plan import Request

ROOT = Path(__file__).parents[1]
ENTRIES = ROOT / "tests/bench/toy_entries.py"
CELLS = 1000
ROUNDS = 7


def record(run: plan.Run) -> Result:
    """A done record of a run, as long as a real one."""
    task, protocol = plan.resolve(run)
    return Result(
        status="done",
        error=None,
        backbone={"name": run.backbone.name, "arch": run.backbone.arch, "method": "scratch"},
        load_report={"matched": 0, "missing": [], "unexpected": [], "resampled": []},
        task=task.name,
        task_version=task.version,
        protocol={"name": protocol.name, "frozen": protocol.frozen, "source": protocol.source},
        digest=run.digest,
        data={"name": task.dataset.name, "fingerprint": run.fingerprint, "splits": ["train"]},
        selection={"selected_on": None, "reported_on": "val", "trials": [], "epoch": "last"},
        seed=run.seed,
        metrics={f"iou/{index}": 50.0 for index in range(20)} | {"rmse": 1.0},
        primary="rmse",
        higher_is_better=False,
        cost={"device_hours": 0.1, "device": "CPU, 2 cores", "images_per_second": 1.0},
        environment={},
        git={"commit": None, "dirty": None},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:00+00:00",
    )


def seconds(command: Sequence[str], folder: Path) -> float:
    """Run a command to its end; raises CalledProcessError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def compare(commands: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Print the median and range of each command, taken in turn after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            elapsed = seconds(command, folder)
            if number:
                times[name].append(elapsed)
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:44} {middle:6.3f} s  ({min(taken):.3f} to {max(taken):.3f})")  # noqa: T201


def main() -> None:
    """Fill a store with done records, then time the commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points = folder / "data/line/points.txt"
        points.parent.mkdir(parents=True)
        points.write_text("0 0\n1 1\n2 4\n")
        request = Request(
            backbones=("test_vit",), tasks=("toy/line",), seeds=CELLS, data_root=folder / "data", include=(ENTRIES,)
        )
        os.environ["BENCH_CACHE"] = str(folder / "cache")
        store = Store(folder / "results")
        for run in plan.runs(request):
            store.write(run.key, record(run))
        cli = [sys.executable, "-m", "bench.run"]
        cells = [*cli, "--include", str(ENTRIES), "--data-root", "data"]
        cells += ["--backbone", "test_vit", "--task", "toy/line", "--seeds", str(CELLS)]
        compare(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                "bench.run --help": [*cli, "--help"],
                "bench.run --list backbones": [*cli, "--list", "backbones"],
                "bench.run --list protocols": [*cli, "--list", "protocols"],
                f"bench.run, {CELLS} cells, all done": cells,
            },
            folder,
        )


if __name__ == "__main__":
    main()
