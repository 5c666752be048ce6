"""Which data sets there are: the tasks know, and are asked family by family."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench import tasks as families
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.errors import UserError, unknown
from bench.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set, and the tasks that read it alike."""

    dataset: Dataset
    tasks: tuple[Task, ...]

    @property
    def names(self) -> str:
        """The tasks, for a person."""
        return ", ".join(task.name for task in self.tasks)

    @property
    def readers(self) -> tuple[Task, ...]:
        """A task of each family: those of one family see the same items, those of others see other labels."""
        return tuple({task.family: task for task in reversed(self.tasks)}.values())


def entries() -> list[Entry]:
    """Every data set of every family, by name; a family that cannot be imported is said on stderr."""
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
    """The data sets of a name (coco is laid out once for detection, once for pose), a task's, or a group's.

    Raises UserError with the nearest name.
    """
    known = entries()
    named = [e for e in known if name == e.dataset.name]
    groups = families.groups()
    meant = groups[name].tasks if name in groups else (name,)
    named = named or [e for e in known if any(task.name in meant for task in e.tasks)]
    if not named:
        names = [e.dataset.name for e in known] + [task.name for e in known for task in e.tasks]
        raise unknown("data set", name, [*names, *groups])
    return named


def is_there(dataset: Dataset, data_root: Path | None) -> str:
    """Which splits are at the data root, for a person."""
    if isinstance(dataset, EmbeddedWorld):
        return "made on first use"
    if data_root is None:
        return "no data root given"
    there = [split for split in dataset.splits if missing(dataset, split, data_root) is None]
    return ", ".join(there) or "no"


def missing(dataset: Dataset, split: str, data_root: Path | None) -> UserError | None:
    """What is missing of a split; None where all of its paths are there."""
    try:
        dataset.only([split]).locate(data_root)
    except UserError as error:
        return error
    return None


def first_sentence(error: UserError) -> str:
    """What is missing, without what else is expected."""
    return str(error).split(". ")[0]


def table(found: Sequence[Entry], data_root: Path | None) -> list[tuple[str, ...]]:
    """A row a data set: name, tasks, licence, size, images, whether it is there, where it comes from."""
    return [
        (
            entry.dataset.name,
            entry.names,
            entry.dataset.licence,
            f"{entry.dataset.facts.gigabytes:g} GB" if entry.dataset.facts.gigabytes else "-",
            counts(entry.dataset),
            is_there(entry.dataset, data_root),
            entry.dataset.source,
        )
        for entry in found
    ]


def counts(dataset: Dataset) -> str:
    """The official number of items of each split."""
    return ", ".join(f"{k} {n:,}" for k, n in dataset.facts.counts.items()) or "-"


# The folders and files that a data set is expected in, as a tree.

MARGIN = 60  # where remarks begin


def layout(entry: Entry) -> str:
    """A data set's layout below the data root, with the split that each path belongs to."""
    dataset = entry.dataset
    head = f"{dataset.name} ({entry.names})\n  from {dataset.source}; licence: {dataset.licence}\n"
    head += _official(dataset)
    if isinstance(dataset, EmbeddedWorld):
        return f"{head}  made on first use; nothing to lay out\n"
    remarks: dict[str, list[str]] = {}
    for split, paths in dataset.splits.items():
        for path in paths:
            remarks.setdefault(path, []).append(split)
    said = {path: ", ".join(splits) for path, splits in remarks.items()}
    said |= dict.fromkeys(dataset.optional, "if it is there")
    said |= {path: what for path, what in dataset.facts.files.items() if path not in said}
    lines = [f"  DIR{'' if dataset.root == '.' else f'/{dataset.root}'}/"]
    return head + "\n".join(lines + _tree(said)) + "\n"


def _official(dataset: Dataset) -> str:
    """What its authors say that it holds, and where that was read; nothing where nothing was."""
    facts = dataset.facts
    told = [counts(dataset)] * bool(facts.counts)
    told += [f"{facts.gigabytes:g} GB"] * bool(facts.gigabytes)
    return f"  {'; '.join(told)} (known from: {facts.known_from})\n" if told else ""


def _tree(remarks: Mapping[str, str]) -> list[str]:
    """Indented lines: every folder once, remarks behind the paths that have them."""
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
