"""One run by two processes over gloo: the numbers of one process, every example counted once."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.classification import TASKS
from bench.backbones.backbone import Backbone
from bench.errors import UserError
from bench.runs import ranks
from bench.tasks import Job, Outcome

FOLDER = next(task for task in TASKS if task.name == "classification/folder")
IMAGES = 11  # of each class: neither the batches nor the ranks divide 22 or 44 into equal parts
SHORT = {"epochs": 3, "batch_size": 4, "img_size": 160, "warmup_epochs": 1, "blr": 0.05}
STILL = {"drop_path": 0.0, "mixup": 0.0, "cutmix": 0.0, "reprob": 0.0}  # drawn by rank in the model


def write_images(folder: Path) -> Path:
    """Two classes that differ in brightness, not by much."""
    rng = np.random.default_rng(0)
    for split, label, index in np.ndindex(2, 2, IMAGES):
        pixels = rng.integers(0, 150, (24, 24, 3)) + 8 * label
        file = folder / ("train", "val")[split] / str(label) / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def evaluate(folder: Path, world_size: int, batch_size: int, rank: int) -> Outcome:
    import torch

    torch.set_num_threads(1)
    changes = {**SHORT, **STILL, "batch_size": batch_size}
    return FOLDER.evaluate(
        Job(
            backbone=Backbone(name="test_vit", arch="test_vit"),
            task=FOLDER,
            protocol=dataclasses.replace(FOLDER.protocol("finetune"), **changes),
            seed=0,
            data=folder / "data",
            train_data=folder / "data",
            work_dir=folder / f"work{world_size}",
            cache=folder / "cache",
            device="cpu",
            world_size=world_size,
            num_workers=0,
        )
    )


@pytest.mark.long
def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    alone = evaluate(tmp_path, 1, 4, 0)
    shared = ranks.call(functools.partial(evaluate, tmp_path, 2, 4), 2)
    assert shared.metrics == pytest.approx(alone.metrics, abs=1e-4)
    assert 0 < alone.metrics["top1"] < 100
    assert round(alone.metrics["top1"] * 2 * IMAGES / 100, 6).is_integer()
    assert not list(tmp_path.rglob("*.pth"))
    assert 0 <= shared.data_wait < 1


@pytest.mark.long
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    with pytest.raises(UserError, match="A batch of 5 cannot be shared equally among 2 GPUs"):
        ranks.call(functools.partial(evaluate, tmp_path, 2, 5), 2)
