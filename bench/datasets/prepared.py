"""A data set's tar files, made by `prepare`, which tasks read in place of the original.

    python -m bench.datasets prepare imagenet --data-root DIR --out FAST/imagenet
    python -m bench.run --task classification/imagenet --data-root FAST ...

They lie below a data root in a folder of the data set's name, `<split>/manifest.json` and the tars. Where the
original lies below the same data root too, it is the one that is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.datasets import Dataset, manifests
from bench.datasets.manifests import MANIFEST
from bench.errors import UserError
from bench.results import digest

PREPARED = "-prepared"  # ends the fingerprint, so that a record says of which copy it is


def is_copy(dataset: Dataset, folder: Path) -> bool:
    """Whether the folder that a data set was located in holds tar files."""
    return any((folder / split / MANIFEST).is_file() for split in dataset.splits)


def find(dataset: Dataset, data_root: Path) -> Path | None:
    """The folder of the tar files, all of them whole; None where there are none, or the original is there.

    Raises UserError for a split that is missing, half-done, or of another data set.
    """
    folder, original = data_root / dataset.name, data_root / dataset.root
    if not folder.is_dir() or not any(folder.glob(f"*/{MANIFEST}")):
        return None
    if folder != original and all((original / path).exists() for path in dataset.paths):
        return None
    for split in dataset.splits:
        manifests.check_whole(folder / split, manifest(dataset, folder, split))
    return folder


def manifest(dataset: Dataset, folder: Path, split: str) -> dict[str, Any]:
    """What was written of a split; raises UserError where that is nothing, or something else."""
    found = manifests.read(folder / split)
    if not found:
        there = ", ".join(path.parent.name for path in sorted(folder.glob(f"*/{MANIFEST}")))
        raise UserError(
            f"{dataset.name} was prepared in {folder} without its split {split}: expected {folder / split / MANIFEST}, "
            f"and there are {there}. Prepare it too, from a data root that has it: python -m bench.datasets prepare "
            f"{dataset.name} --data-root DIR --out {folder}."
        )
    of = found.get("dataset", "something that python -m bench.datasets prepare did not write")
    if of != f"{dataset.name} {split}":
        raise UserError(
            f"{folder / split} holds {of}, where {dataset.name} {split} is expected. Give the data root of the other "
            f"one with --data-root, or prepare {dataset.name} into another --out."
        )
    return found


def fingerprint(dataset: Dataset, folder: Path) -> str:
    """The hash of every split's recipe and tars, and of how the original is read; no original has the same."""
    splits = {split: of_split(manifest(dataset, folder, split)) for split in dataset.splits}
    return digest([PREPARED, dataset.read_as, splits]) + PREPARED


def of_split(told: Mapping[str, Any]) -> str:
    """The hash of the recipe and of every tar's bytes, as the manifest has them."""
    hashes = [tar["sha256"] for _, tar in sorted(told["tars"].items())]
    return digest([told["recipe"], told["classes"], hashes])
