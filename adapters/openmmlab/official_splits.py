"""The splits of a task's data: its official ones (`adapters.image_sets`), or the folders train and val."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.image_sets.checked import Listed, Paths
from adapters.image_sets.listed import LabelledImages
from adapters.openmmlab.images import Split, check_same, splits
from bench.datasets import Dataset
from bench.errors import UserError
from bench.tars import Packed


def splits_of(
    dataset: Dataset | None, folder: Path, *, limit: int | None = None
) -> tuple[Split, Split]:
    """What a data set trains on, its official validation split included, and what it reports on.

    `limit` keeps the first images of every class. Raises UserError for lists or folders that are not
    as they should be, or where the splits' classes differ.
    """
    if not isinstance(dataset, LabelledImages):
        return splits(folder, limit=limit)
    names = ["train", *filter(None, [dataset.validation])]
    parts = [dataset.listed(folder, name) for name in names]
    unseen = dataset.listed(folder, dataset.reported_on)
    for name, part in zip([*names[1:], dataset.reported_on], [*parts[1:], unseen], strict=True):
        check_same(dataset.name, set(parts[0].classes), set(part.classes), name)
    images = _joined(parts)
    _check_apart(dataset, images, unseen.images)
    train = Split(
        paths=images,
        labels=np.concatenate([part.labels for part in parts]),
        classes=parts[0].classes,
        held_out=np.arange(len(parts)).repeat([len(part.images) for part in parts]) > 0
        if dataset.validation
        else None,
    )
    test = Split(paths=unseen.images, labels=unseen.labels, classes=unseen.classes)
    return _first(train, limit), _first(test, limit)


def _check_apart(
    dataset: LabelledImages,
    seen: Paths | Packed | NDArray[np.uint8],
    unseen: Paths | Packed | NDArray[np.uint8],
) -> None:
    """No image may be trained on and reported on; pixels have no names to tell, and `prepare` saw to its tars."""
    if not isinstance(seen, Paths) or not isinstance(unseen, Paths):
        return
    if len(both := np.intersect1d(seen.names, unseen.names)):
        raise UserError(
            f"{dataset.name} lists {len(both)} image(s) both to train on and for {dataset.reported_on}: "
            f"{both[0].decode()}. Its numbers would mean nothing; restore its lists from {dataset.source}."
        )


def _joined(parts: Sequence[Listed]) -> Paths | Packed | NDArray[np.uint8]:
    first = parts[0].images
    if isinstance(first, Packed):
        rest = [part.images for part in parts[1:] if isinstance(part.images, Packed)]
        return functools.reduce(Packed.__add__, rest, first)
    if len(parts) == 1 or isinstance(first, np.ndarray):
        assert len(parts) == 1, "pixels with an official validation split"
        return first
    names = [part.images.names for part in parts if isinstance(part.images, Paths)]
    return Paths(first.folder, np.concatenate(names))


def _first(split: Split, limit: int | None) -> Split:
    """Every class's first image, then every class's second, ... until there are `limit`, in their order.

    An image of several classes counts as one of the first that it has. A class has as many of train
    as of its validation split.
    """
    if limit is None or limit >= len(split.labels):
        return split
    labels = np.asarray(split.labels)
    group = labels if labels.ndim == 1 else labels.argmax(1)
    held_out = np.zeros(len(group), bool) if split.held_out is None else split.held_out
    group = 2 * group + held_out
    by_group = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    rank = np.empty(len(group), int)
    rank[by_group] = np.arange(len(group)) - (counts.cumsum() - counts).repeat(counts)
    kept = np.sort(np.lexsort((group, rank))[:limit])
    return dataclasses.replace(
        split,
        paths=split.paths[kept],  # type: ignore[call-overload]
        labels=labels[kept],
        held_out=None if split.held_out is None else held_out[kept],
    )


def reported_on(dataset: Dataset | None) -> str:
    """The name of the split that a data set's numbers are of."""
    return dataset.reported_on if isinstance(dataset, LabelledImages) else "val"
