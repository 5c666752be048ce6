"""The folders and files that a data set is expected in, as a tree."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from bench.datasets import Dataset, EmbeddedWorld
from bench.datasets.catalogue import Entry, counts

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
