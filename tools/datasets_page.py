"""All real data sets in one table, from their entries, for docs/datasets.md.

python -m tools.datasets_page [--write]

"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.datasets import catalogue
from bench.datasets.catalogue import Entry
from bench.datasets.dataset import EmbeddedWorld
from bench.tasks import UNPUBLISHED, Task

PAGE = Path(__file__).parents[1] / "docs" / "datasets.md"
OWN = "folder"  # the user's own files, of which nothing is known
PLAIN_HEADS = ("classification",)  # of which the backbone's arithmetic is nearly all
WIDTH, DEPTH, PATCH = 768, 12, 16  # ViT-B/16
RATE = 0.4 * 312e12  # operations a second: two fifths of what an A100's tensor cores can do in bf16
GPUS = 8
COLUMNS = ("task", "data set", "images", "metric", "protocol", "hours on 8 GPUs", "published reference")
INTRODUCTION = f"""# Data sets

Made by `python -m tools.datasets_page --write` from the tasks' entries; do not edit.

Nothing is downloaded: put a data set below `--data-root` as `python -m bench.datasets layout NAME` shows it, and
`python -m bench.datasets check NAME` reports whether it is complete, in seconds (`--full`: every file). `sample NAME`
draws a few items with their labels, `prepare NAME --out FAST/NAME` makes tar files of 256-pixel images, `list` shows
all data sets. Classification's tasks, but for `tiny-imagenet` and `folder`, read those tars with `--data-root FAST`,
unless the original lies below it too; the recipe and every tar's hash are in the fingerprint (`check --full` compares
them with the files), which ends in `-prepared`, so no number of theirs shares a digest with one of the original.
Pretraining reads them with `--data FAST/NAME/train`.

- **images**: official counts, train / validation / test as far as there are any; a dash where no source was found.
- **hours on 8 GPUs**: computed, not measured: the arithmetic of ViT-B/16, forward and backward (forward alone on a
  frozen backbone), over all images that are trained on, for each epoch, on A100s at {RATE / 1e12:.0f} TFLOP/s each (two
  fifths of their peak in bf16). Where features are extracted once, it is one forward pass of all images, on the one GPU
  that does it. Loading is not in it, nor the search for hyper-parameters. "Over" where the head is not in it either and
  its share is not small, or where an image has several persons, of which each is a crop. A dash where the number of
  images is not known.
- **published reference**: what the protocol's entry names as the number to expect, and of which backbone.
"""


def page(entries: Sequence[Entry]) -> str:
    """The whole of docs/datasets.md."""
    real = [e for e in entries if not isinstance(e.dataset, EmbeddedWorld) and e.dataset.name != OWN]
    found = sorted((task for entry in real for task in entry.tasks), key=lambda task: task.name)
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    alike: dict[tuple[Any, ...], list[str]] = {}
    for task in found:
        alike.setdefault(tuple(_rows(task)), []).append(task.name)
    for rows, names in alike.items():
        lines.append(_line((_code(names), *rows[0])))
        lines += [_line(("", *row)) for row in rows[1:]]
    return f"{INTRODUCTION}\n" + "\n".join(lines) + "\n"


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in catalogue.span(names))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rows(task: Task) -> Iterator[tuple[str, ...]]:
    """Yield the table rows of a task, without its name.

    Consecutive protocols with equal hours and reference share a row.
    """
    counts = task.dataset.facts.counts
    images = " / ".join(f"{number:,}" for number in counts.values()) or "-"
    source = task.dataset.source.replace("|", "/")
    full = [p for p in task.protocols if _at_full_scale(p)] or task.protocols[:1]
    costs = [(_hours(task, p), _published(p), p.name) for p in full]
    first = True
    for (hours, published), group in itertools.groupby(costs, key=lambda row: row[:2]):
        about = (source, images, task.metrics[0].name) if first else ("",) * 3
        yield (*about, _code([name for *_, name in group]), hours, published)
        first = False


def _at_full_scale(protocol: Any) -> bool:
    """Neither scaled down for a CPU nor trained on something else that is at hand."""
    scaled = protocol.expected.startswith(f"{UNPUBLISHED};")
    return not scaled and not protocol.name.startswith("from-")


def _published(protocol: Any) -> str:
    return "-" if protocol.expected == UNPUBLISHED else str(protocol.expected).replace("|", "/")


def _hours(task: Task, protocol: Any) -> str:
    """See the page's introduction."""
    counts = task.dataset.facts.counts
    known = "train" in counts or hasattr(protocol, "pairs")  # of other data sets as well
    if not known or not hasattr(protocol, "epochs"):
        return "-"
    if task.family in PLAIN_HEADS and "train_dataloader" not in task.upstream(task, protocol):
        operations = sum(counts.values()) * forward(protocol.img_size)
        return f"{_rounded(operations / RATE / 3600)} (1 GPU)"
    passes = protocol.epochs * (1 if protocol.frozen else 3)
    hours = passes * _epoch(task, protocol) / GPUS / RATE / 3600
    return _rounded(hours) if task.family in PLAIN_HEADS else f"over {hours:.2g}"


def _epoch(task: Task, protocol: Any) -> float:
    """Return the backbone's forward operations in one epoch."""
    counts, size = task.dataset.facts.counts, protocol.img_size
    if pairs := getattr(protocol, "pairs", 0):
        return float(pairs * (forward(size) + forward(protocol.template_size)))
    trained_on = counts["train"] + counts.get(getattr(task.dataset, "validation", ""), 0)
    width, window = getattr(protocol, "img_width", size), getattr(protocol, "window_size", 0)
    return trained_on * forward(size, width, window)


def forward(img_size: int, width: int = 0, window: int = 0) -> float:
    """Operations of ViT-B/16 on an image: multiplications and additions of its blocks (arXiv 2010.11929).

    A block's four projections and its MLP are 12 d^2 multiplications a token, attention 2 n d, where n are all
    tokens or, in two of three blocks, those of a window (ViTDet, arXiv 2203.16527).
    """
    tokens = (img_size // PATCH) * ((width or img_size) // PATCH) + 1
    seen = (tokens + 2 * window**2) / 3 if window else tokens
    return 2.0 * DEPTH * tokens * (12 * WIDTH**2 + 2 * seen * WIDTH)


def _rounded(hours: float) -> str:
    return "under 0.1" if hours < 0.1 else f"{hours:.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the page, or write docs/datasets.md."""
    parser = argparse.ArgumentParser(prog="python -m tools.datasets_page", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/datasets.md")
    text = page(catalogue.entries())
    if parser.parse_args(argv).write:
        PAGE.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
