"""Cityscapes as its authors lay it out, trained and tested on through mmsegmentation."""

import functools
import math
from pathlib import Path

import family_jobs
import numpy as np
import pytest
from family_jobs import BY_NAME
from PIL import Image

from adapters.segmentation import CITYSCAPES, CITYSCAPES_LAYOUT, data

pytestmark = pytest.mark.usefixtures("one_thread")
CITIES = {"train": ("aachen", "bochum"), "val": ("munster",)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images a city: road (0) below, sky (10) above, and what is ignored (255) between."""
    root = tmp_path / "cityscapes"
    for split, cities in CITIES.items():
        for city in cities:
            for k in range(2):
                name = f"{split}/{city}/{city}_00000{k}_000019"
                pixels = np.full((64, 128, 3), 60 + k, np.uint8)
                pixels[:30] = (90, 140, 230)
                labels = np.zeros((64, 128), np.uint8)
                labels[:30], labels[30:34] = 10, 255
                for part, kind, image in (
                    ("leftImg8bit", "leftImg8bit", pixels),
                    ("gtFine", "gtFine_labelTrainIds", labels),
                ):
                    path = root / part / f"{name}_{kind}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
    return root


def test_every_city_is_read(folder: Path) -> None:
    assert CITYSCAPES.locate(folder.parent) == folder
    found = data.pairs(folder, CITYSCAPES_LAYOUT, "train")
    assert [image.parent.name for image, _ in found] == ["aachen", "aachen", "bochum", "bochum"]
    assert {mask.name.partition("_gtFine")[2] for _, mask in found} == {"_labelTrainIds.png"}


@pytest.mark.parametrize("protocol", ["finetune", "frozen"])
def test_trains_and_tests(folder: Path, protocol: str) -> None:
    job = functools.partial(family_jobs.job, "segmentation", name="cityscapes")
    work = job(folder, "test_vit", protocol, epochs=20, lr=3e-3, channels=16 * (protocol == "finetune"),
               stride=43, ratio_range=(1.0, 1.0))  # fmt: skip
    metrics = work.task.evaluate(work).metrics
    assert metrics["aAcc"] > 70
    assert metrics["iou/road"] > 50
    assert metrics["iou/sky"] > 50
    assert math.isnan(metrics["iou/car"]) or metrics["iou/car"] == 0
    assert sum(name.startswith("iou/") for name in metrics) == 19


@pytest.mark.parametrize(
    ("task", "protocol", "iterations", "images"),
    [
        ("segmentation/cityscapes", "finetune", 40_000, 2_975),
        ("segmentation/voc", "finetune-full", 40_000, 1_464),
        ("segmentation/ade20k", "finetune", 160_000, 20_210),
    ],
)
def test_epochs_stand_for_the_iterations_that_the_source_names(
    task: str, protocol: str, iterations: int, images: int
) -> None:
    """To a hundredth; the last, incomplete batch of an epoch is dropped."""
    found = BY_NAME[task].protocol(protocol)
    batches = images // found.batch_size
    assert found.epochs * batches == pytest.approx(iterations, rel=0.01)
    assert found.warmup_epochs * batches == pytest.approx(1500, rel=0.01)
    assert BY_NAME[task].dataset.facts.counts["train"] == images
    assert found.command.endswith("--gpus 8") == (protocol == "finetune")
    assert f"--task {task} " in found.command
