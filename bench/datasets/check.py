"""Is a folder the data set that its name says? Counts, lists, labels, and images that open."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.datasets import tar_files
from bench.datasets.catalogue import Entry, first_sentence, missing
from bench.datasets.dataset import Dataset
from bench.datasets.items import Example, Items
from bench.datasets.tar_files import MANIFEST
from bench.errors import UserError
from bench.files import file_sha256
from bench.processes import spread
from bench.tasks import Task

LOOKED_AT = 8
SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found out about a split or a file: `said` for a person; wrong or as it should be."""

    what: str
    said: str
    wrong: bool = False


def places(count: int, looked_at: int = LOOKED_AT) -> list[int]:
    """The first and the last of `count` items, and some between, evenly."""
    last = max(looked_at - 1, 1)
    return sorted({k * (count - 1) // last for k in range(looked_at)}) if count else []


def check(entry: Entry, data_root: Path | None, *, full: bool) -> Iterator[Finding]:
    """Look at every split that is there, at some of its items or at all.

    A split that is missing is said, and is not wrong. Raises UserError where there is none.
    """
    dataset = entry.dataset
    gone = {split: missing(dataset, split, data_root) for split in dataset.splits}
    reasons = [reason for reason in gone.values() if reason]
    if len(reasons) == len(gone):
        raise reasons[0]
    there = [split for split in gone if gone[split] is None]
    folder = dataset.only(there).locate(data_root)
    counted: dict[str, int] = {}
    for split, reason in gone.items():
        if reason is not None:
            yield Finding(what=split, said=f"missing: {first_sentence(reason)}")
            continue
        for task in entry.readers:
            for finding, count in _split(task, folder, split, full):
                counted[split] = count
                what = split if len(entry.readers) == 1 else f"{split} of {task.name}"
                yield dataclasses.replace(finding, what=what)
    if not tar_files.is_copy(dataset, folder):
        yield from _lists(dataset, folder, whole=_is_whole(dataset, counted))
    elif full:
        yield from _tars(dataset.only(there), folder)


def _is_whole(dataset: Dataset, counted: dict[str, int]) -> bool:
    counts = dataset.facts.counts
    return all(counted.get(split) == number for split, number in counts.items())


def _split(task: Task, folder: Path, split: str, full: bool) -> Iterator[tuple[Finding, int]]:
    """What is found out about a split, each time with how many items it has."""
    try:
        items = task.items(folder, split) if task.items else None
    except UserError as error:
        yield Finding(what=split, said=str(error), wrong=True), 0
        return
    if items is None:
        yield Finding(what=split, said="there"), 0
        return
    said, wrong = _count(task.dataset, split, items)
    looked, problems = _looked_at(items, full)
    yield Finding(what=split, said=f"{said}; {looked}", wrong=wrong), items.count
    problems = [*items.problems, *problems]
    for problem in problems[:SHOWN]:
        yield Finding(what=split, said=problem, wrong=True), items.count
    if len(problems) > SHOWN:
        more = f"and {len(problems) - SHOWN:,} more such problems"
        yield Finding(what=split, said=more, wrong=True), items.count


def _count(dataset: Dataset, split: str, items: Items) -> tuple[str, bool]:
    """How many items and classes there are, of how many; more than there should be is wrong."""
    official, classes = dataset.facts.counts.get(split), dataset.facts.classes
    said = f"{items.count:,} {items.unit}"
    if official is not None and official != items.count:
        subset = "a subset" if items.count < official else "more than there are"
        said = f"{items.count:,} of {official:,} {items.unit}: {subset}"
    if items.classes:
        of = f" of {classes:,}" if classes and classes != len(items.classes) else ""
        plural = "es" if of or len(items.classes) > 1 else ""
        said += f", {len(items.classes):,}{of} class{plural}"
    too_many = bool(official) and items.count > (official or 0)
    return said, too_many or (bool(classes) and len(items.classes) > classes) or not items.count


def _looked_at(items: Items, full: bool) -> tuple[str, list[str]]:
    """The sizes of what was opened, and what is wrong with it."""
    look = functools.partial(_look, items.read)
    numbers = range(items.count) if full else places(items.count)
    found = list(spread(look, range(items.count), "items") if full else map(look, numbers))
    problems = [problem for _, problem in found if problem]
    sizes = {size for size, problem in found if not problem}
    if not sizes:
        return "none could be opened", problems
    widths, heights = zip(*sizes, strict=True)
    opened = len(found) - len(problems)
    said = "all" if full and not problems else f"{opened:,}"
    least, most = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    return f"{said} opened: {least} to {most} pixels", problems


def _look(read: Callable[[int], Example], number: int) -> tuple[tuple[int, int], str]:
    """An item's size, and what is wrong with it."""
    try:
        return read(number).size, ""
    except UserError as error:
        return (0, 0), str(error)


def _lists(dataset: Dataset, folder: Path, *, whole: bool) -> Iterator[Finding]:
    """Compare the files whose hash is published; those of a subset may well differ."""
    for name, published in dataset.facts.md5.items():
        path = folder / name
        if not path.is_file():
            yield Finding(what=name, said="missing", wrong=whole)
            continue
        if published in _md5s(path):
            yield Finding(what=name, said="as published")
            continue
        why = "though the counts are right" if whole else "as a subset's would be"
        yield Finding(what=name, said=f"not as published (MD5 {published}), {why}", wrong=whole)


def _tars(dataset: Dataset, folder: Path) -> Iterator[Finding]:
    """Compare a prepared copy's tar files with the hashes in its manifests, of which its fingerprint is made."""
    for split in dataset.splits:
        told = tar_files.manifest(dataset, folder, split)["tars"]
        tars = [folder / split / name for name in sorted(told)]
        hashes = spread(functools.partial(_sha256, tars), range(len(tars)), f"{split}'s tar files")
        pairs = zip(tars, hashes, strict=True)
        damaged = [tar for tar, value in pairs if value != told[tar.name]["sha256"]]
        if not damaged:
            yield Finding(what=f"{split}'s tar files", said="as they were written")
        for tar in damaged:
            yield Finding(
                what=f"{split}'s tar files",
                said=f"{tar} is not as it was written. Delete it and its entry in {MANIFEST}, and prepare "
                "again: that tar alone is made anew",
                wrong=True,
            )


def _sha256(files: Sequence[Path], number: int) -> str:
    return file_sha256(files[number])


def _md5s(path: Path) -> set[str]:
    """A file's hash, and that of its lines however they end."""
    content = path.read_bytes()
    lines = b"\n".join(line.strip() for line in content.splitlines() if line.strip())
    return {hashlib.md5(c, usedforsecurity=False).hexdigest() for c in (content, lines)}
