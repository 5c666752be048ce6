"""A data set of labelled images, image by image, for `python -m bench.datasets`."""

from pathlib import Path

import numpy as np

from adapters.image_sets.listed import LabelledImages
from adapters.openmmlab.images import Split, read, split_of
from bench.datasets import Dataset, EmbeddedWorld
from bench.datasets.items import Example, Items
from bench.tars import Packed


def items(folder: Path, split: str, dataset: Dataset) -> Items:
    """Every image of a split with its class or classes; raises UserError for lists that cannot be used."""
    found = _split(folder, split, dataset)
    labels = np.asarray(found.labels)

    def example(index: int) -> Example:
        where = found.paths[index]
        said = ", ".join(found.classes[k] for k in np.flatnonzero(labels[index] == 1)) or "no class"
        said = said if labels.ndim > 1 else str(found.classes[labels[index]])
        return Example(image=read(where), caption=said)

    files = () if isinstance(found.paths, (np.ndarray, Packed)) or labels.ndim > 1 else found.paths
    return Items(
        count=len(found.paths),
        read=example,
        classes=found.classes,
        files=files,
        labels=labels.tolist() if len(files) else (),
    )


def _split(folder: Path, split: str, dataset: Dataset) -> Split:
    if isinstance(dataset, LabelledImages):
        found = dataset.listed(folder, split)
        return Split(paths=found.images, labels=found.labels, classes=found.classes)
    return split_of(folder / "species" if isinstance(dataset, EmbeddedWorld) else folder, split)
