"""Ten thousand runs: how long the plan takes, and the status; all as a user calls them.

    PYTHONPATH=. python benchmarks/cluster_scale.py [--runs 10000]

Half of the runs are in the store. Of the rest a tenth runs and the others wait, as submissions and a queue
on file: no Slurm is needed, and a command in its place answers as fast as a file is read.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import run
from bench.backbones.architectures import architectures
from bench.records import Result, Store
from bench.runs import plan

TASKS = ("classification", "segmentation", "detection", "pose", "depth")
SEEDS = 20
ARRAY = 1000


def main() -> None:
    """Print seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    backbones = sorted(architectures())[: parser.parse_args().runs // (len(TASKS) * SEEDS)]
    words = ["--backbone", *backbones, "--task", *TASKS, "--seeds", str(SEEDS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = _environment(folder)
        empty = _seconds(folder, environment, "bench.run", *words, "--dry-run")
        runs = _runs(folder, words)
        _fill(folder, runs)
        half = _seconds(folder, environment, "bench.run", *words, "--dry-run")
        status = _seconds(folder, environment, "bench.status")
    sys.stdout.write(
        f"{len(runs)} runs: planned in {empty}, with half of them in the store in {half}; status in {status}\n"
    )


def _environment(folder: Path) -> dict[str, str]:
    """The caller's, with a squeue of our own first on the path."""
    squeue = folder / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\ncat {folder / 'squeue.txt'}\n")
    squeue.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{squeue.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path.cwd()),
        "BENCH_CACHE": str(folder / "cache"),
    }


def _seconds(folder: Path, environment: dict[str, str], module: str, *words: str) -> str:
    """Of the clock, and of this command's own work, which others on the machine do not stretch."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", module, *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    passed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{passed:.1f} s ({work:.1f} s of CPU)"


def _runs(folder: Path, words: list[str]) -> list[plan.Run]:
    """The runs of the command, as it plans them."""
    places = ["--results", f"{folder}/results", "--work-dir", f"{folder}/runs"]
    arguments = run._parser().parse_args([*words, *places])
    return plan.runs(run._request(arguments))


def _fill(folder: Path, runs: list[plan.Run]) -> None:
    """A record for every second run, and a job for each of the others."""
    store, jobs, queue = Store(folder / "results"), [], []
    for made in runs[::2]:
        store.write(made.key, _record(made))
    for start in range(0, len(runs) // 2, ARRAY):
        array = 1000 + start
        for index, queued in enumerate(runs[1::2][start : start + ARRAY]):
            job = f"{array}_{index}"
            jobs.append({"job": job, "key": queued.key.path.as_posix(), "title": str(queued)})
            queue.append(f"{job}|{'PENDING|Resources' if index % 10 else 'RUNNING|None'}")
        told = {"when": time.time(), "resources": "", "runs": jobs, "cancelled": []}
        path = folder / "runs" / "slurm" / f"{array}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
        jobs = []
    (folder / "squeue.txt").write_text("\n".join(queue) + "\n")


def _record(made: plan.Run) -> Result:
    """As long as one of detection's: curves of a short training."""
    return Result(
        status="done",
        error=None,
        backbone={**dataclasses.asdict(made.backbone), "weights": None, "weights_sha256": None},
        load_report={"matched": 150},
        task=made.task,
        task_version=1,
        protocol={"name": made.protocol},
        digest=made.digest,
        data={"name": "scenes", "fingerprint": made.fingerprint, "splits": ["val"]},
        selection={"selected_on": None, "reported_on": "val", "trials": [], "epoch": "last"},
        seed=made.seed,
        metrics={"score": 50.0},
        curves={"loss": [1.0] * 200},
        primary="score",
        higher_is_better=True,
        cost={"device_hours": 0.1},
        environment={"python": "3.11"},
        git={"commit": None, "dirty": None},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    )


if __name__ == "__main__":
    main()
