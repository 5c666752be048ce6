"""Little tasks for a real cluster, given with --include: what is in the data folder decides how a run goes.

`counting/steps` takes ten numbers through noisy steps, each drawn by its position; every state is on the disk
before the next. `norm` says in closed form whether a step was left out or made twice. `counting/images` is
the real runner on real images.
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

from adapters import classification
from adapters.classification import config as classification_config
from bench.backbones.backbone import LoadReport
from bench.datasets.dataset import Dataset
from bench.files import write_atomic
from bench.runs.progress import ProgressFile
from bench.tasks import Job, Metric, Outcome, Protocol, Selection, Task

SIZE = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Protocol):
    steps: int
    seconds: float


def norm(seed: int, steps: int) -> float:
    """What an undisturbed run ends with."""
    noise = [np.random.default_rng((seed, step)).normal(size=SIZE) for step in range(steps)]
    return float(np.linalg.norm(sum(0.9 ** (steps - 1 - i) * n for i, n in enumerate(noise))))


def evaluate(job: Job) -> Outcome:
    import torch

    rank = torch.distributed.get_rank() if job.world_size > 1 else 0
    state = job.work_dir / "state.json"
    step, weights = 0, np.zeros(SIZE)
    if state.is_file():
        kept = json.loads(state.read_text())
        step, weights = kept["step"], np.array(kept["weights"])
    with (job.work_dir / f"starts-{rank}").open("a") as file:
        file.write(f"{os.environ.get('SLURM_RESTART_COUNT', 0)} {step} {os.uname().nodename}\n")
    if job.world_size > 1:
        torch.distributed.barrier()  # all have read the state
    progress = ProgressFile(job.work_dir, "train", total=job.protocol.steps, done=step)
    while step < job.protocol.steps:
        time.sleep(job.protocol.seconds)
        weights = 0.9 * weights + _noise((job.seed, step), rank, job.world_size)
        step += 1
        if rank == 0:
            write_atomic(state, json.dumps({"step": step, "weights": list(weights)}))
            progress.update(step)
        if rank == job.world_size - 1:
            _misfortune(job.data, step)
    return Outcome(
        metrics={"norm": float(np.linalg.norm(weights))},
        load_report=LoadReport(),
        selection=Selection(selected_on=None, reported_on="val"),
        train_seconds=job.protocol.steps * job.protocol.seconds,
        eval_seconds=0.0,
        images_per_second=1.0,
    )


def _noise(position: tuple[int, int], rank: int, world_size: int) -> Any:
    """Each rank draws its share; together it is what one process draws."""
    import torch

    noise = np.random.default_rng(position).normal(size=SIZE)
    if world_size == 1:
        return noise
    mine = torch.zeros(SIZE, dtype=torch.float64)
    mine[rank::world_size] = torch.from_numpy(noise)[rank::world_size]
    torch.distributed.all_reduce(mine)
    return mine.numpy()


def _misfortune(data: Path, step: int) -> None:
    """What the test asked for, once the run is on its way."""
    if step == 3 and (data / "memory").exists():
        hoard = [os.urandom(1 << 20) for _ in range(2500)]
        time.sleep(10)
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


SHORT = Counting(name="short", frozen=True, source="here", epochs=1, batch_size=1, img_size=1, steps=8, seconds=0.05)
FINETUNE = dataclasses.replace(
    classification.FULL_FINETUNE,
    **{"epochs": 3, "batch_size": 4, "img_size": 160, "warmup_epochs": 1, "blr": 0.05},
    **{"drop_path": 0.0, "mixup": 0.0, "cutmix": 0.0, "reprob": 0.0},  # drawn by rank in the model
)


def evaluate_images(job: Job) -> Outcome:
    """The family's own, with a checkpoint after every epoch, and time for a test to disturb it."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from adapters.classification import data as images
    from adapters.classification import train as classifier
    from adapters.openmmlab import runner

    assert classifier, "it registers what the config names"

    class WaitHook(Hook):  # type: ignore[misc]  # mmengine is untyped
        def before_train_epoch(self, runner: Any) -> None:
            with (job.work_dir / f"epochs-{runner.rank}").open("a") as file:
                file.write(f"{runner.epoch}\n")
            while runner.epoch == 1 and (job.data / "wait").exists():
                time.sleep(0.1)

    HOOKS.register_module(module=WaitHook, force=True)
    config = classification_config.upstream(job.task, job.protocol) | {"custom_hooks": [{"type": "WaitHook"}]}
    train, _ = images.splits(job.data)
    config["model"]["num_classes"] = len(train.classes)
    for split in ("train", "test"):
        config[f"{split}_dataloader"]["dataset"]["root"] = str(job.data)
    return runner.run(config, job, checkpoint_seconds=0)


TASKS = (
    Task(
        name="counting/steps",
        version=1,
        dataset=Dataset(
            name="steps", source="tests", licence="Apache-2.0", root="steps", splits={"train": ("points.txt",)}
        ),
        protocols=(
            SHORT,
            dataclasses.replace(SHORT, name="long", steps=100, seconds=0.1),
            dataclasses.replace(SHORT, name="longest", steps=400, seconds=0.1),
        ),
        metrics=(Metric(name="norm"),),
        upstream=upstream,
        evaluate=evaluate,
    ),
    dataclasses.replace(
        next(task for task in classification.TASKS if task.dataset is classification.FOLDER),
        name="counting/images",
        protocols=(FINETUNE,),
        evaluate=evaluate_images,
    ),
)
