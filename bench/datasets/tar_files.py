"""Tar files of images: their index, their manifest, and the copies that `prepare` makes."""

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.dataset import Dataset
from bench.datasets.images import Member, is_image
from bench.errors import UserError
from bench.files import cache_dir, digest


class Packed(Sequence[Member]):
    """Images within tar files, in the memory of their places alone."""

    def __init__(self, tars: Sequence[Path], places: NDArray[np.int64]) -> None:
        """Keep the places, [n, 3]: which tar, and where in it an image begins and how long it is."""
        self.tars, self.places = tuple(tars), places

    def __len__(self) -> int:
        """How many there are."""
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Give one image; of an array of indices or a slice, the images."""
        places = self.places[index]
        if places.ndim > 1:
            return Packed(self.tars, places)
        tar, begin, size = places.tolist()
        return Member(tar=self.tars[tar], begin=begin, size=size)

    def __add__(self, other: "Packed") -> "Packed":
        """These images, then the others."""
        moved = other.places + np.array([len(self.tars), 0, 0])
        return Packed((*self.tars, *other.tars), np.concatenate([self.places, moved]))


def index(folder: Path, tars: Sequence[str]) -> tuple[Packed, NDArray[np.str_]]:
    """Every image of some tars of a folder, and its path (class/name) within its tar.

    Raises UserError for a tar that is damaged or compressed.
    """
    stats = [(name, s.st_size, s.st_mtime_ns) for name in tars for s in [(folder / name).stat()]]
    memory = cache_dir() / "tars" / f"{digest([str(folder.resolve()), stats])}.npz"
    if not memory.is_file():
        rows = [(k, begin, size, path) for k, name in enumerate(tars) for path, begin, size in images_of(folder / name)]
        places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        _save(memory, places, np.array([row[3] for row in rows], str))
    with np.load(memory) as content:
        return Packed([folder / name for name in tars], content["places"]), content["paths"]


def _save(path: Path, places: NDArray[np.int64], paths: NDArray[np.str_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, places=places, paths=paths)
    partial.rename(path)


def images_of(path: Path) -> list[tuple[str, int, int]]:
    """(class/name, first byte, length) of every image of a tar; raises UserError for a damaged one.

    The class is a folder within the tar, or what the `.cls` beside an image says (WebDataset).
    """
    images, labels = [], {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".cls"):
                    labels[_key(member.name)] = _text(tar, member)
                elif member.isfile() and is_image(member.name):
                    images.append((member.name.removeprefix("./"), member.offset_data, member.size))
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The tar file {path} ({path.stat().st_size:,} bytes) cannot be read: {error}. It is truncated, damaged or "
            f"compressed (images are so already); make or fetch it anew."
        ) from None
    return [
        (f"{labels[_key(name)]}/{name}" if _key(name) in labels else name, begin, size) for name, begin, size in images
    ]


def _key(name: str) -> str:
    """What WebDataset's members of one sample share: the path up to the base name's first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    # Classes are sorted as text: numbers of equal length keep their order.
    return file.read().decode().strip().zfill(8)


MANIFEST = "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """The folder's manifest, {} where there is none; raises UserError for a damaged one."""
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Delete {folder} and make its tar files anew.") from None


def check_whole(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise UserError where a tar is missing or of another size than told, or not all were written yet."""
    prepared = "recipe" in manifest
    command = f"python -m {'bench.datasets prepare' if prepared else 'pretrain.shards'}"
    gone = "its entry there: that tar alone" if prepared else f"{folder}: all of it"
    for name, told in manifest["tars"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != told["bytes"]:
            raise UserError(
                f"{path} {'is missing' if size is None else f'has {size:,} bytes'}, and {MANIFEST} beside it says "
                f"{told['bytes']:,}. Fetch it anew, or delete {gone} is made anew by {command}."
            )
    there = sum(told["images"] for told in manifest["tars"].values())
    if there != manifest["images"]:
        raise UserError(
            f"{folder} holds {there:,} of {manifest['images']:,} images: {command} was stopped. Run the same command "
            f"again; it goes on where it was."
        )


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
        check_whole(folder / split, manifest(dataset, folder, split))
    return folder


def manifest(dataset: Dataset, folder: Path, split: str) -> dict[str, Any]:
    """What was written of a split; raises UserError where that is nothing, or something else."""
    found = read(folder / split)
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
