"""Small folders of coloured noise, and one job of classification on them, shared by its tests."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from adapters.classification import TASKS
from bench.backbones.backbone import Backbone
from bench.tasks import Job, Outcome, Task

TASK = {task.name: task for task in TASKS}
FOLDER = TASK["classification/folder"]
FOLDERS = [TASK[f"classification/{name}"] for name in ("scenes", "folder", "tiny-imagenet")]
NAMES = ("ant", "bee", "cat")
SHORT = {"img_size": 32, "crop_pct": 1.0, "batch_size": 8}
QUICK = {"lrs": (1.0, 10.0, 100.0), "weight_decays": (0.0, 1e-4), "epochs": 10, **SHORT}
STRONG = {"epochs": 4, "warmup_epochs": 1, "blr": 3e-2, "scale_min": 0.6, **SHORT}
SMALL = {"frozen": QUICK, "frozen-knn": {**SHORT, "neighbours": 5}, "finetune": STRONG}


def coloured_noise(root: Path, train: int = 10, val: int = 6, contrast: int = 150) -> Path:
    """Noise images whose class raises one of red, green and blue by `contrast` of 255."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for channel, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3))
                pixels[..., channel] += contrast
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def evaluate(
    data: Path,
    tmp_path: Path,
    protocol: str,
    *,
    arch: str = "test_vit",
    seed: int = 0,
    work: str = "run",
    task: Task = FOLDER,
    backbone: Backbone | None = None,
    **changes,
) -> Outcome:
    job = Job(
        backbone=backbone or Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **{**SMALL[protocol], **changes}),
        seed=seed,
        data=data,
        train_data=data,
        work_dir=tmp_path / work,
        cache=tmp_path / "features",
        device="cpu",
        num_workers=0,
    )
    return task.evaluate(job)
