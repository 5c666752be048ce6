"""What a check of a data set of ImageNet's size costs: seconds and memory of the command.

    python benchmarks/dataset_check.py [--images 1281167]

The layout is ImageNet's, the files are empty but for those that the check opens. The command runs in a
process of its own, twice: the second time the folders are in the page cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from bench.datasets.check import places

CLASSES, VAL = 1000, 50_000
HERE = Path(__file__).parents[1]


def fill(split: Path, images: int) -> None:
    """Make class folders of empty files, in whose order images lie where the check looks."""
    opened = set(places(images))
    picture = Image.new("RGB", (500, 375), (90, 120, 60))
    number = 0
    for label in range(CLASSES):
        folder = split / f"n{label:08d}"
        folder.mkdir(parents=True)
        for k in range(images // CLASSES + (label < images % CLASSES)):
            path = folder / f"n{label:08d}_{k:05d}.JPEG"
            if number in opened:
                picture.save(path)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            number += 1


def check(root: Path) -> tuple[float, float, float]:
    """Seconds, those of the processor, and gigabytes of the command."""
    command = [sys.executable, "-m", "bench.datasets", "check", "imagenet", "--data-root"]
    start = time.perf_counter()
    with subprocess.Popen([*command, str(root)], cwd=HERE) as run:
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0, run.returncode
    busy = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, busy, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_281_167, help="of train; val has 50,000")
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        fill(root / "imagenet" / "train", images)
        fill(root / "imagenet" / "val", VAL)
        sys.stdout.write(f"{images + VAL:,} files made in {time.perf_counter() - start:.0f} s\n")
        for attempt in ("first", "again"):
            seconds, busy, memory = check(root)
            sys.stdout.write(f"{attempt}: {seconds:.1f} s ({busy:.1f} s of a core), {memory:.2f} GB\n")


if __name__ == "__main__":
    main()
