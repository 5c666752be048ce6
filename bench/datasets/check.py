"""Check whether a folder contains the data set it should: counts, lists, labels, and images that open."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.datasets import tar_files
from bench.datasets.catalogue import Entry, first_sentence, missing
from bench.datasets.dataset import Dataset, Example, Items
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from bench.processes import spread
from bench.tasks import Task

LOOKED_AT = 8  # items of a split that are opened unless all are
SHOWN = 5  # problems of a split that are reported one by one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A message about a split or a file, and whether something is wrong with it."""

    what: str
    message: str
    wrong: bool = False


def places(count: int, looked_at: int = LOOKED_AT) -> list[int]:
    """Return the numbers of `looked_at` evenly spaced items out of `count`, with the first and the last."""
    last = max(looked_at - 1, 1)
    return sorted({k * (count - 1) // last for k in range(looked_at)}) if count else []


def check(entry: Entry, data_root: Path | None, *, full: bool) -> Iterator[Finding]:
    """Check some items, or all with `full`, of every split; one may be missing. Raises UserError if all are missing."""
    dataset = entry.dataset
    reasons = {split: missing(dataset, split, data_root) for split in dataset.splits}
    present = [split for split, reason in reasons.items() if reason is None]
    if not present:
        raise next(reason for reason in reasons.values() if reason)
    folder = dataset.only(present).locate(data_root)
    counted: dict[str, int] = {}
    for split, reason in reasons.items():
        if reason is not None:
            yield Finding(what=split, message=f"missing: {first_sentence(reason)}")
            continue
        for task in entry.readers:
            for finding, count in _split(task, folder, split, full):
                counted[split] = count
                what = split if len(entry.readers) == 1 else f"{split} of {task.name}"
                yield dataclasses.replace(finding, what=what)
    if not tar_files.is_copy(dataset, folder):
        complete = all(counted.get(split) == count for split, count in dataset.facts.counts.items())
        yield from _lists(dataset, folder, complete=complete)
    elif full:
        yield from _tars(dataset.only(present), folder)


def _split(task: Task, folder: Path, split: str, full: bool) -> Iterator[tuple[Finding, int]]:
    """Yield the findings about a split, each with the split's number of items."""
    try:
        items = task.items(folder, split) if task.items else None
    except UserError as error:
        yield Finding(what=split, message=str(error), wrong=True), 0
        return
    if items is None:
        yield Finding(what=split, message="there"), 0
        return
    counts, wrong = _count(task.dataset, split, items)
    opened, problems = _open(items, full)
    yield Finding(what=split, message=f"{counts}; {opened}", wrong=wrong), items.count
    problems = [*items.problems, *problems]
    more = [f"and {len(problems) - SHOWN:,} more such problems"] * (len(problems) > SHOWN)
    for problem in problems[:SHOWN] + more:
        yield Finding(what=split, message=problem, wrong=True), items.count


def _count(dataset: Dataset, split: str, items: Items) -> tuple[str, bool]:
    """Return a message on the numbers of items and classes, and whether they are wrong: none, or too many."""
    official, classes = dataset.facts.counts.get(split), dataset.facts.classes
    message = f"{items.count:,} {items.unit}"
    if official is not None and official != items.count:
        subset = "a subset" if items.count < official else "more than there are"
        message = f"{items.count:,} of {official:,} {items.unit}: {subset}"
    if items.classes:
        of = f" of {classes:,}" if classes and classes != len(items.classes) else ""
        plural = "es" if of or len(items.classes) > 1 else ""
        message += f", {len(items.classes):,}{of} class{plural}"
    too_many = bool(official) and items.count > (official or 0)
    return message, too_many or (bool(classes) and len(items.classes) > classes) or not items.count


def _open(items: Items, full: bool) -> tuple[str, list[str]]:
    """Open some items, or all; return a message on their sizes, and the problems."""
    look = functools.partial(_look, items.read)
    found = list(spread(look, range(items.count), "items") if full else map(look, places(items.count)))
    problems = [problem for _, problem in found if problem]
    sizes = {size for size, problem in found if not problem}
    if not sizes:
        return "none could be opened", problems
    widths, heights = zip(*sizes, strict=True)
    opened = "all" if full and not problems else f"{len(found) - len(problems):,}"
    least, most = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    return f"{opened} opened: {least} to {most} pixels", problems


def _look(read: Callable[[int], Example], number: int) -> tuple[tuple[int, int], str]:
    """Return an item's width and height, and the problem with it or ""."""
    try:
        return read(number).size, ""
    except UserError as error:
        return (0, 0), str(error)


def _lists(dataset: Dataset, folder: Path, *, complete: bool) -> Iterator[Finding]:
    """Compare the files whose hash is published; those of a subset need not be equal."""
    for name, published in dataset.facts.md5.items():
        path = folder / name
        if not path.is_file():
            yield Finding(what=name, message="missing", wrong=complete)
            continue
        if published in _md5s(path):
            yield Finding(what=name, message="as published")
            continue
        why = "though the counts are right" if complete else "as a subset's would be"
        yield Finding(what=name, message=f"not as published (MD5 {published}), {why}", wrong=complete)


def _tars(dataset: Dataset, folder: Path) -> Iterator[Finding]:
    """Compare a prepared copy's tar files with the hashes in its manifests, from which its fingerprint is made."""
    for split in dataset.splits:
        what = f"{split}'s tar files"
        damaged = tar_files.changed(folder / split, tar_files.manifest(dataset, folder, split))
        if not damaged:
            yield Finding(what=what, message="as they were written")
        for tar in damaged:
            remedy = f"Delete it and its entry in {MANIFEST}, and prepare again: only that tar is written again"
            yield Finding(what=what, message=f"{tar} is not as it was written. {remedy}", wrong=True)


def _md5s(path: Path) -> set[str]:
    """Return a file's MD5, and that of its lines joined by line feeds, as an original with other line ends has."""
    content = path.read_bytes()
    lines = b"\n".join(line.strip() for line in content.splitlines() if line.strip())
    return {hashlib.md5(c, usedforsecurity=False).hexdigest() for c in (content, lines)}
