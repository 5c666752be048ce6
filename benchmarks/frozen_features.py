"""The second frozen protocol on the same data beside the first: what keeping features saves.

    make bench

ResNet-50 (random weights) on 160 photograph-sized JPEGs at 224 pixels, each protocol whole as a run has
it: build the model, read the images, extract or open the features, learn, test. In both orders, each
time from an empty cache; both must report the numbers that they report alone.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from adapters.openmmlab import runner  # noqa: F401  # readies the process  # isort: skip

from adapters.classification import TASKS
from bench.backbones.backbone import Backbone
from bench.tasks import Job

ROUNDS, ARCH = 3, "resnet50"
ORDERS = (("frozen", "frozen-knn"), ("frozen-knn", "frozen"))
(TASK,) = (task for task in TASKS if task.name == "classification/folder")


def photographs(root: Path) -> Path:
    """Ten classes of smooth noise about a colour: 12 images each to train on and 4 to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            colour = rng.integers(0, 200, 3)
            for i in range(count):
                pixels = (colour + rng.integers(0, 56, (15, 20, 3))).astype(np.uint8)
                Image.fromarray(pixels).resize((500, 375)).save(folder / f"{i}.jpg")
    return root


def seconds(protocol: str, data: Path, folder: Path) -> tuple[float, dict[str, float]]:
    """Time and metrics of one protocol."""
    job = Job(
        backbone=Backbone(name=ARCH, arch=ARCH),
        task=TASK,
        protocol=TASK.protocol(protocol),
        seed=0,
        data=data,
        train_data=data,
        work_dir=folder,
        cache=folder,
        device="cpu",
        num_workers=0,
    )
    start = time.perf_counter()
    metrics = TASK.evaluate(job).metrics
    return time.perf_counter() - start, dict(metrics)


def main() -> None:
    """Print the medians of both orders and of their ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = photographs(folder / "data")
        taken: dict[tuple[str, str], list[tuple[float, float]]] = {order: [] for order in ORDERS}
        found: dict[str, dict[str, float]] = {}
        for number in range(ROUNDS):
            for order in ORDERS:
                os.environ["BENCH_CACHE"] = str(folder / f"{order[0]}-first-{number}")
                times = []
                for protocol in order:
                    spent, metrics = seconds(protocol, data, folder)
                    assert metrics == found.setdefault(protocol, metrics), (protocol, metrics)
                    times.append(spent)
                taken[order].append((times[0], times[1]))
    sys.stdout.write(f"two frozen protocols on the same 160 images, {ARCH}, s\n")
    for (first, second), pairs in taken.items():
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [a / b for a, b in pairs]
        sys.stdout.write(
            f"  {first:10} {one:6.2f}, then {second:10} {two:6.2f}: "
            f"{statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})\n"
        )


if __name__ == "__main__":
    main()
