"""The data sets of all tasks, what is stated about each, and the folders and files that each consists of."""

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench import tasks as families
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.errors import UserError, unknown
from bench.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set, and the tasks that use it."""

    dataset: Dataset
    tasks: tuple[Task, ...]

    @property
    def names(self) -> str:
        """The names of the tasks."""
        return ", ".join(task.name for task in self.tasks)

    @property
    def readers(self) -> tuple[Task, ...]:
        """One task of each family; tasks of one family read the same labels."""
        return tuple({task.family: task for task in reversed(self.tasks)}.values())


def entries() -> list[Entry]:
    """Return every data set of every family, by name; a family that cannot be imported is reported on stderr."""
    found: list[Entry] = []
    for task in _tasks():
        same = next((e for e in found if e.dataset == task.dataset), None)
        if same is None:
            found.append(Entry(dataset=task.dataset, tasks=(task,)))
        else:
            found[found.index(same)] = dataclasses.replace(same, tasks=(*same.tasks, task))
    return sorted(found, key=lambda entry: entry.dataset.name)


def _tasks() -> list[Task]:
    found: list[Task] = []
    for family in families.family_names():
        try:
            found += families.tasks_of(family).values()
        except UserError as error:
            sys.stderr.write(f"bench.datasets: {error}\n")
    return found


def find(name: str) -> list[Entry]:
    """Return the data sets of a name (two are a coco), a task or a group; raises UserError with the nearest names."""
    known = entries()
    named = [e for e in known if name == e.dataset.name]
    groups = families.groups()
    tasks = groups[name].tasks if name in groups else (name,)
    named = named or [e for e in known if any(task.name in tasks for task in e.tasks)]
    if not named:
        names = [e.dataset.name for e in known] + [task.name for e in known for task in e.tasks]
        raise unknown("data set", name, [*names, *groups])
    return named


def missing(dataset: Dataset, split: str, data_root: Path | None) -> UserError | None:
    """Return the error of locating a split; None if all of its paths are at the data root."""
    try:
        dataset.only([split]).locate(data_root)
    except UserError as error:
        return error
    return None


def first_sentence(error: UserError) -> str:
    """Return the first sentence of a message: what is missing, without the expected layout."""
    return str(error).split(". ")[0]


COLUMNS = ("data set", "task families", "size", "items", "present", "licence")
NUMBERED = re.compile(r"(.*?)(?:-(\d+))?")
NAMED = 2  # families that are named; of more, the number is shown


def table(found: Sequence[Entry], data_root: Path | None) -> list[tuple[str, ...]]:
    """Return the rows of a table of data sets under `COLUMNS`; those whose names differ in a number share a row."""
    rows: dict[str, list[Entry]] = {}
    for entry in found:
        rows.setdefault(_base(entry.dataset.name), []).append(entry)
    return [_row(alike, data_root) for alike in rows.values()]


def _row(alike: Sequence[Entry], data_root: Path | None) -> tuple[str, ...]:
    datasets = [entry.dataset for entry in alike]
    families_of = sorted({task.family for entry in alike for task in entry.tasks})
    size = datasets[0].facts.gigabytes
    return (
        ", ".join(span([dataset.name for dataset in datasets])),
        ", ".join(families_of) if len(families_of) <= NAMED else f"{len(families_of)} families",
        f"{size:g} GB" if size else "-",
        _counts(datasets),
        _present(datasets, data_root),
        "; ".join(dict.fromkeys(dataset.licence for dataset in datasets)),
    )


def _base(name: str) -> str:
    return str(NUMBERED.fullmatch(name)[1])  # type: ignore[index]


def span(names: Iterable[str]) -> list[str]:
    """Return the names, those that differ only in a number at their ends as one: "dtd", "dtd-2 to 10"."""
    numbers: dict[str, list[int]] = {}
    plain = []
    for name in dict.fromkeys(names):
        base, number = NUMBERED.fullmatch(name).groups()  # type: ignore[union-attr]
        if number:
            numbers.setdefault(base, []).append(int(number))
        else:
            plain.append(name)
    spans = [f"{base}-{min(n)}" + (f" to {max(n)}" if len(n) > 1 else "") for base, n in numbers.items()]
    return plain + spans


def _counts(datasets: Sequence[Dataset]) -> str:
    """Return the official number of items of each split; the largest if the data sets differ."""
    counts: dict[str, list[int]] = {}
    for dataset in datasets:
        for split, count in dataset.facts.counts.items():
            counts.setdefault(split, []).append(count)
    largest = (f"{split} {'up to ' * (len(set(n)) > 1)}{max(n):,}" for split, n in counts.items())
    return ", ".join(largest) or "-"


def _present(datasets: Sequence[Dataset], data_root: Path | None) -> str:
    """Return which splits are at the data root."""
    if all(isinstance(dataset, EmbeddedWorld) for dataset in datasets):
        return "generated"
    if data_root is None:
        return "-"
    present = {split: None for d in datasets for split in d.splits if missing(d, split, data_root) is None}
    return ", ".join(present) or "no"


MARGIN = 60  # column at which remarks begin


def layout(entry: Entry) -> str:
    """Return a data set's folders and files below the data root as a tree, with the splits of each path."""
    dataset = entry.dataset
    head = f"{dataset.name} ({entry.names})\n  from {dataset.source}; licence: {dataset.licence}\n"
    head += _official(dataset)
    if isinstance(dataset, EmbeddedWorld):
        return f"{head}  made on first use; needs no files\n"
    splits: dict[str, list[str]] = {}
    for split, paths in dataset.splits.items():
        for path in paths:
            splits.setdefault(path, []).append(split)
    remarks = {path: ", ".join(names) for path, names in splits.items()}
    remarks |= dict.fromkeys(dataset.optional, "optional")
    remarks |= {path: what for path, what in dataset.facts.files.items() if path not in remarks}
    lines = [f"  DIR{'' if dataset.root == '.' else f'/{dataset.root}'}/"]
    return head + "\n".join(lines + _tree(remarks)) + "\n"


def _official(dataset: Dataset) -> str:
    """Return a line of the official counts and size and their source; "" if neither is known."""
    facts = dataset.facts
    known = [", ".join(f"{split} {n:,}" for split, n in facts.counts.items())] * bool(facts.counts)
    known += [f"{facts.gigabytes:g} GB"] * bool(facts.gigabytes)
    return f"  {'; '.join(known)} (known from: {facts.known_from})\n" if known else ""


def _tree(remarks: Mapping[str, str]) -> list[str]:
    """Return indented lines: every folder once, with the remarks behind their paths."""
    root: dict[str, Any] = {}
    for path in remarks:
        node = root
        for part in PurePosixPath(path).parts:
            node = node.setdefault(part, {})

    def lines(node: Mapping[str, Any], above: PurePosixPath, depth: int) -> list[str]:
        found = []
        for name, below in node.items():
            path = above / name
            remark = remarks.get(str(path), "")
            folder = "/" if below or "." not in name else ""
            line = f"{'    ' * depth}  {name}{folder}"
            found += [f"{line:{MARGIN}}  {remark}".rstrip(), *lines(below, path, depth + 1)]
        return found

    return lines(root, PurePosixPath(), 1)
