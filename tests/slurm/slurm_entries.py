"""Little tasks for a real cluster, given with --include: what is in the data folder decides how a run goes.

`counting/steps` learns nothing that takes a library: ten weights go through noisy steps, each seeded by its
number, and every step's state is on the disk before the next. So the number that a run ends with tells whether
it replayed or left out a step. `counting/images` is the real runner on real images.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets import Dataset
from bench.loading import LoadReport
from bench.progress import ProgressFile
from bench.results import write_atomic
from bench.tasks import Job, Metric, Outcome, Protocol, Selection, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Protocol):
    steps: int = 40
    seconds: float = 0.1


def evaluate(job: Job) -> Outcome:
    state = job.work_dir / "state.json"
    step, weights = 0, np.zeros(10)
    if state.is_file():
        kept = json.loads(state.read_text())
        step, weights = kept["step"], np.array(kept["weights"])
    with (job.work_dir / "starts").open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID')} {step}\n")
    progress = ProgressFile(job.work_dir, "train", total=job.protocol.steps, done=step)
    while step < job.protocol.steps:
        time.sleep(job.protocol.seconds)
        rng = np.random.default_rng((job.seed, step))
        weights = 0.9 * weights + rng.normal(size=10)
        step += 1
        write_atomic(state, json.dumps({"step": step, "weights": list(weights)}))
        progress.update(step)
        _misfortune(job.data, step)
    return Outcome(
        metrics={"norm": float(np.linalg.norm(weights))},
        load_report=LoadReport(),
        selection=Selection(selected_on=None, reported_on="val"),
        train_seconds=job.protocol.steps * job.protocol.seconds,
        eval_seconds=0.0,
        images_per_second=1.0,
    )


def _misfortune(data: Path, step: int) -> None:
    """What the test asked for, once the run is on its way."""
    if step == 3 and (data / "memory").exists():
        hoard = [bytearray(os.urandom(1 << 20)) for _ in range(2000)]
        assert hoard
    if step == 3 and (data / "bug").exists():
        raise ZeroDivisionError("a bug")
    if step == 3 and (data / "exit").exists():
        sys.exit(0)
    if step == 3 and (data / "kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while (data / "wait").exists():
        time.sleep(0.05)


def upstream(task: Task, protocol: Counting) -> dict[str, Any]:
    return {"kind": "counting"}


COUNTING = Counting(name="frozen", frozen=True, source="here", epochs=1, batch_size=1, img_size=1)
TASKS = (
    Task(
        name="counting/steps",
        version=1,
        dataset=Dataset(
            name="steps",
            source="tests",
            licence="Apache-2.0",
            root="steps",
            splits={"train": ("points.txt",)},
        ),
        protocols=(
            COUNTING,
            dataclasses.replace(COUNTING, name="short", steps=4),
            dataclasses.replace(COUNTING, name="long", steps=1200),
        ),
        metrics=(Metric(name="norm"),),
        upstream=upstream,
        evaluate=evaluate,
    ),
)
