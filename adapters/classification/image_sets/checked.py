"""Reads a split of labelled images, checks it, and sorts it by path."""

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.classification.image_sets.labelled import LabelledImages, Lists
from bench.datasets import dataset, tar_files
from bench.datasets.dataset import nearest
from bench.datasets.tar_files import Packed
from bench.errors import UserError

MALFORMED = (  # what the readers raise for malformed files
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    pickle.UnpicklingError,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Listed:
    """A checked split: as `Lists`, sorted by path."""

    images: "Paths | Packed | NDArray[np.uint8]"
    labels: NDArray[np.int64]
    classes: Sequence[str]


def read_split(entry: LabelledImages, folder: Path, split: str) -> Listed:
    """Read a split in the order of its paths, from the original or from the tar files that `prepare` wrote.

    Raises UserError that names the file and what is wrong with it.
    """
    return _from_tars(entry, folder, split) if tar_files.is_copy(entry, folder) else _from_lists(entry, folder, split)


def _from_lists(entry: LabelledImages, folder: Path, split: str) -> Listed:
    try:
        found = entry.read(folder, split)
        labels = np.asarray(found.labels).astype(np.int64)
    except UserError:
        raise
    except MALFORMED as error:
        raise _malformed(entry, folder, split, error) from error
    _check_labels(entry, split, found, labels)
    if isinstance(found.images, np.ndarray):
        return Listed(images=found.images, labels=labels, classes=found.classes)
    names = np.array(
        [name.encode() for name in found.images]
    )  # an array, not objects, so that forked processes share its memory
    order = np.argsort(names, kind="stable")
    _check_images(entry, folder, names[order])
    return Listed(images=Paths(folder, names[order]), labels=labels[order], classes=found.classes)


def _from_tars(entry: LabelledImages, folder: Path, split: str) -> Listed:
    manifest = tar_files.manifest(entry, folder, split)
    images, paths = tar_files.index(folder / split, sorted(manifest["tars"]))
    names = paths.tolist()  # <number of the class>-<its name>/<number of the image>.jpg
    labels = np.array([name.partition("-")[0] for name in names]).astype(np.int64)
    if len(labels) != manifest["images"]:
        raise UserError(
            f"The tar files of {folder / split} hold {len(labels):,} images, and their manifest lists "
            f"{manifest['images']:,}. Delete that folder, and prepare {entry.name} again."
        )
    found = Lists(images=names, labels=labels.tolist(), classes=manifest["classes"])
    _check_labels(entry, split, found, labels)
    return Listed(images=images, labels=labels, classes=manifest["classes"])


def _malformed(entry: LabelledImages, folder: Path, split: str, error: Exception) -> UserError:
    files = [p for p in entry.splits[split] if not (folder / p).is_dir()] or [*entry.splits[split]]
    named = ", ".join(str(folder / path) for path in files[:4]) + ", ..." * (len(files) > 4)
    message = str(error).splitlines()[0] if str(error) else "no message"
    return UserError(
        f"The {split} split of {entry.name} cannot be read from {named} ({type(error).__name__}: {message}). "
        f"One of them differs from the published file: restore it from {entry.source}."
    )


def _check_labels(entry: LabelledImages, split: str, found: Lists, labels: NDArray[np.int64]) -> None:
    count, known = len(found.classes), entry.facts.classes
    if known and count > known:
        extra = f"; the last are {', '.join(map(str, found.classes[-3:]))}"
        raise UserError(
            f"{entry.name} has {known} classes, and {count} are listed here{extra}. Remove those that "
            f"do not belong to it, or restore its lists from {entry.source}."
        )
    if len(labels) == 0 or len(labels) != len(found.images):
        raise UserError(
            f"The {split} split of {entry.name} lists {len(found.images)} images and {len(labels)} labels. "
            f"Every image needs one; restore its lists from {entry.source}."
        )
    if labels.ndim == 1 and (wrong := np.flatnonzero((labels < 0) | (labels >= count))).size:
        image = found.images[wrong[0]] if isinstance(found.images, list) else f"image {wrong[0]}"
        raise UserError(
            f"The {split} split of {entry.name} gives {image} the label {labels[wrong[0]] + 1}, and there are "
            f"{count} classes (labels 1 to {count}); {len(wrong)} image(s) have such a label. Restore its "
            f"lists from {entry.source}."
        )


def _check_images(entry: LabelledImages, folder: Path, paths: NDArray[Any]) -> None:
    """Raise UserError for missing images; of more than MANY, only the first and the last are checked."""
    looked_at = paths if len(paths) <= dataset.MANY else paths[[0, -1]]
    for path in (folder / name.decode() for name in looked_at):
        if not path.is_file():
            near = nearest(path)
            seen = f"; nearest there: {near}" if near else ""
            raise UserError(
                f"The lists of {entry.name} name the image {path}, which is not there{seen}. Restore "
                f"it, or all images, from {entry.source}."
            )


class Paths(Sequence[Path]):
    """Paths below a folder, stored as an array of names, which takes the least memory."""

    def __init__(self, folder: Path, names: NDArray[np.bytes_]) -> None:
        """Store the names, UTF-8, [n]."""
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        """Return one path; for an array of indices or a slice, `Paths`."""
        names = self.names[index]
        return self.folder / names.decode() if isinstance(names, bytes) else Paths(self.folder, names)
