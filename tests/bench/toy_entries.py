"""A family of one real little task, given to the CLI with --include: fit a line by least squares.

What is in the data folder decides how a run goes, so tests drive it from outside the process.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.backbones.backbone import Backbone, LoadReport
from bench.datasets.dataset import Dataset
from bench.errors import UserError
from bench.tasks import Job, Metric, Outcome, Protocol, Selection, Task


@dataclass(frozen=True, kw_only=True)
class LineProtocol(Protocol):
    degree: int = 1


def upstream(task: Task, protocol: LineProtocol) -> Mapping[str, object]:
    return {"solver": "lstsq", "degree": protocol.degree}


def evaluate(job: Job) -> Outcome:
    started = job.work_dir / "started"
    started.write_text(started.read_text() + "x" if started.is_file() else "x")
    if (job.data / "mistake").exists():
        raise UserError(f"The file {job.data / 'mistake'} should not be there. Delete it.")
    if (job.data / "bug").exists():
        raise ZeroDivisionError("a bug")
    if (job.data / "install").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "a-package"], check=True)
    while (job.data / "wait").exists():
        time.sleep(0.05)
    x, y = np.loadtxt(job.data / "points.txt").T
    degree = 0 if job.backbone.method == "baseline" else job.protocol.degree
    fit = np.polynomial.Polynomial.fit(x, y, degree)
    error = float(np.sqrt(np.mean((fit(x) - y) ** 2)))
    return Outcome(
        metrics={"rmse": error + job.seed},
        load_report=LoadReport(),
        selection=Selection(selected_on=None, reported_on="val"),
        train_seconds=1.0,
        eval_seconds=0.5,
        images_per_second=2.0,
    )


TASKS = (
    Task(
        name="toy/line",
        version=1,
        dataset=Dataset(
            name="line", source="tests", licence="Apache-2.0", root="line", splits={"train": ("points.txt",)}
        ),
        protocols=(
            LineProtocol(name="frozen", frozen=True, source="here", epochs=1, batch_size=1, img_size=1),
            LineProtocol(name="parabola", frozen=False, source="here", epochs=1, batch_size=1, img_size=1, degree=2),
        ),
        metrics=(Metric(name="rmse", higher_is_better=False),),
        upstream=upstream,
        evaluate=evaluate,
        baselines=("mean",),
    ),
)
BACKBONES = (Backbone(name="mine", arch="test_vit", mean=(0.5, 0.5, 0.5)),)
