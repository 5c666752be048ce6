"""What a leaderboard of 100,000 records costs: seconds and memory of the command, from files to the overview.

    python benchmarks/leaderboard_scale.py [--records 100000]

Records are of the size of ours of classification, over 40 tasks and protocols, three seeds each. The command runs in a
process of its own, twice: the second time the files are in the page cache.
"""

import argparse
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.records import Store

SEEDS, SECTIONS = 3, 40
HERE = Path(__file__).parents[1]


def fill(root: Path, records: int) -> None:
    """Write records that differ in backbone, task, digest, seed and number."""
    store = Store(HERE / "leaderboards" / "results")
    model = store.read(store.paths("classification/scenes")[0])
    draw = random.Random(0)
    for number in range(records):
        cell, seed = divmod(number, SEEDS)
        backbone, section = divmod(cell, SECTIONS)
        name, digest = f"vit_{backbone}", f"{section:064x}"
        task = f"family{section % 8}/data{section // 8}"
        made = dataclasses.replace(
            model,
            backbone={**model.backbone, "name": name},
            task=task,
            digest=digest,
            seed=seed,
            metrics={key: draw.gauss(50 + backbone / 100, 1) for key in model.metrics},
        )
        path = root / made.key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.to_json())  # without the fsync of Store.write


def render(root: Path, out: Path) -> tuple[float, float, float]:
    """Seconds, those of the processor, and gigabytes of the command."""
    command = [sys.executable, "-m", "leaderboards.render"]
    start = time.perf_counter()
    with subprocess.Popen([*command, "--results", str(root), "--out", str(out)], cwd=HERE) as run:
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = status
    assert status == 0, status
    busy = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, busy, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=100_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "results"
        fill(root, records)
        os.sync()  # or the first run waits for the disk
        for attempt in ("first", "again"):
            seconds, busy, memory = render(root, Path(folder) / "out")
            sys.stdout.write(
                f"{records} records, {attempt}: {seconds:.1f} s ({busy:.1f} s of a core), {memory:.2f} GB\n"
            )
        pages = list((Path(folder) / "out").glob("*.md"))
        sys.stdout.write(f"{len(pages)} pages\n")


if __name__ == "__main__":
    main()
