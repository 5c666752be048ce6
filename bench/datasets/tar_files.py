"""Tar files of images: reading any image by its position, writing with a manifest, and the copies that `prepare` makes.

A folder of tar files may have a manifest.json: {..., "images": how many in all, "tars": {"000000.tar": {"bytes",
"images", "sha256", ...}}}. It lists the tars that are complete.
"""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.dataset import Dataset
from bench.datasets.images import Member, is_image
from bench.errors import UserError
from bench.files import cache_dir, digest, file_sha256, replacing, write_atomic
from bench.processes import spread

MANIFEST = "manifest.json"


class Packed(Sequence[Member]):
    """Images within tar files; only their positions are in memory."""

    def __init__(self, tars: Sequence[Path], places: NDArray[np.int64]) -> None:
        """Take the positions, [n, 3]: the tar's number, and the image's first byte and length in it."""
        self.tars, self.places = tuple(tars), places

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Return one image; for an array of indices or a slice, a `Packed` of those."""
        places = self.places[index]
        if places.ndim > 1:
            return Packed(self.tars, places)
        tar, begin, size = places.tolist()
        return Member(tar=self.tars[tar], begin=begin, size=size)

    def __add__(self, other: "Packed") -> "Packed":
        """Return these images, then the others."""
        moved = other.places + np.array([len(self.tars), 0, 0])
        return Packed((*self.tars, *other.tars), np.concatenate([self.places, moved]))


def index(folder: Path, tars: Sequence[str]) -> tuple[Packed, NDArray[np.str_]]:
    """Return every image of some tars and its path (class/name); raises UserError for a damaged or compressed tar.

    The answer is cached under the tars' names, sizes and modification times.
    """
    stats = [(name, s.st_size, s.st_mtime_ns) for name in tars for s in [(folder / name).stat()]]
    cached = cache_dir() / "tars" / f"{digest([str(folder.resolve()), stats])}.npz"
    if not cached.is_file():
        rows = [(k, begin, size, path) for k, name in enumerate(tars) for path, begin, size in images_of(folder / name)]
        places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached, sync=False) as temporary, temporary.open("wb") as file:
            np.savez(file, places=places, paths=np.array([row[3] for row in rows], str))
    with np.load(cached) as content:
        return Packed([folder / name for name in tars], content["places"]), content["paths"]


def images_of(path: Path) -> list[tuple[str, int, int]]:
    """Return (class/name, first byte, length) of every image of a tar; raises UserError for a damaged one.

    The class is a folder within the tar, or the content of the `.cls` file next to an image (WebDataset).
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
            f"compressed (give uncompressed tars: images are compressed already). Write or download it again."
        ) from None
    return [
        (f"{labels[_key(name)]}/{name}" if _key(name) in labels else name, begin, size) for name, begin, size in images
    ]


def _key(name: str) -> str:
    """Return what the members of one WebDataset sample share: the path up to the base name's first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    # Classes are sorted as text; numbers of equal length sort like numbers.
    return file.read().decode().strip().zfill(8)


def read(folder: Path) -> dict[str, Any]:
    """Return the folder's manifest, {} if there is none; raises UserError for a damaged one."""
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Delete {folder} and write its tar files again.") from None


def check_whole(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise UserError if a tar is missing or has another size than in the manifest, or some are not written yet."""
    for name, entry in manifest["tars"].items():
        check_size(folder / name, entry, manifest)
    count = sum(entry["images"] for entry in manifest["tars"].values())
    if count != manifest["images"]:
        raise UserError(
            f"{folder} holds {count:,} of {manifest['images']:,} images: {_command(manifest)} was stopped. Run the "
            f"same command again; it resumes."
        )


def check_size(tar: Path, entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Raise UserError if a tar is missing or has another size than its entry in the manifest."""
    size = tar.stat().st_size if tar.is_file() else None
    if size == entry["bytes"]:
        return
    found = "is missing" if size is None else f"has {size:,} bytes"
    redo = f"{tar.name} and its entry there" if _is_prepared(manifest) else f"{tar.parent}"
    raise UserError(
        f"{tar} {found}, and {MANIFEST} next to it lists {entry['bytes']:,}. Download it again, or delete {redo} "
        f"and run {_command(manifest)} again."
    )


def changed(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the tars whose bytes differ from the hashes in the manifest; reads all of them, in parallel."""
    tars = [folder / name for name in sorted(manifest["tars"])]
    hashes = spread(lambda number: file_sha256(tars[number]), range(len(tars)), f"{folder.name}'s tar files")
    return [tar for tar, value in zip(tars, hashes, strict=True) if value != manifest["tars"][tar.name]["sha256"]]


def _is_prepared(manifest: Mapping[str, Any]) -> bool:
    return "recipe" in manifest


def _command(manifest: Mapping[str, Any]) -> str:
    return f"python -m {'bench.datasets prepare' if _is_prepared(manifest) else 'pretrain.shards'}"


# Writing: a killed command resumes within the tar that it was writing.


def begin(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the folder's manifest, or write one without tars; raises UserError for tars without one, or a damaged one.

    Args:
        about: what a new manifest states about the images; the caller compares it with one that was there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := read(folder):
        return found
    if any(folder.glob("*.tar")):
        raise UserError(f"{folder} holds tar files without a {MANIFEST}. Give another folder.")
    for partial in folder.glob("*.partial"):  # without a manifest, its images may be others
        partial.unlink()
    manifest = {**about, "tars": {}}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))
    return manifest


def add_tar(
    tar: Path,
    manifest: dict[str, Any],
    names: Sequence[str],
    contents: Callable[[int], Iterator[bytes]],
    *,
    limit: int | None = None,
    verify: Callable[[Path, Sequence[str]], None] | None = None,
    **entry: Any,
) -> int:
    """Write a tar, resuming where a killed process stopped, and list it in the manifest next to it.

    Args:
        names: of the members, in order.
        contents: returns the members' contents from a number on.
        limit: bytes at which the tar ends; it has all of `names` when None.
        verify: reads the finished file back before it gets its name.
        entry: more keys of the tar's entry in the manifest.

    Returns:
        How many members were written now.
    """
    partial = tar.with_suffix(".partial")
    if tar.is_file():  # complete, but the process was killed before the manifest listed it
        tar.rename(partial)
    first, end = _complete(partial, names)
    count = first
    with partial.open("r+b" if first else "wb") as file:
        file.truncate(end)
        file.seek(end)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as writer:
            left = names[first:] if limit is None or end < limit else []
            for name, content in zip(left, contents(first) if left else (), strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                writer.addfile(info, io.BytesIO(content))
                count += 1
                if limit is not None and writer.offset >= limit:
                    break
        file.flush()
        os.fsync(file.fileno())
    if verify:
        verify(partial, names[:count])
    partial.rename(tar)
    entry = {"bytes": tar.stat().st_size, "images": count, "sha256": file_sha256(tar), **entry}
    manifest["tars"][tar.name] = entry
    write_atomic(tar.with_name(MANIFEST), json.dumps(manifest, indent=1))
    return count - first


def _complete(partial: Path, expected: Sequence[str]) -> tuple[int, int]:
    """Return how many of the expected members a cut-off tar has completely, and where the last of them ends."""
    count, end = 0, 0
    with contextlib.suppress(FileNotFoundError, tarfile.ReadError), tarfile.open(partial, "r:") as reader:
        for name in expected:
            member = reader.next()
            if member is None or member.name != name:
                break
            # A member's content is padded to whole blocks.
            after = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if after > partial.stat().st_size:
                break
            count, end = count + 1, after
    return count, end


# The copies that `python -m bench.datasets prepare` makes: a folder of tar files for each split.

PREPARED = "-prepared"  # ends a copy's fingerprint, so that a record shows which images were read


def is_copy(dataset: Dataset, folder: Path) -> bool:
    """Return whether the folder that a data set was located in holds a prepared copy."""
    return any((folder / split / MANIFEST).is_file() for split in dataset.splits)


def find(dataset: Dataset, data_root: Path) -> Path | None:
    """Return the folder of a complete prepared copy; None if there is none, or the original is there too.

    Raises:
        UserError: a split is missing, incomplete, or of another data set.
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
    """Return the manifest of a split's copy; raises UserError if there is none, or it is of something else."""
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
    """Return a hash over every split's recipe and tars and `read_as`; it never equals that of an original."""
    splits = {split: of_split(manifest(dataset, folder, split)) for split in dataset.splits}
    return digest([PREPARED, dataset.read_as, splits]) + PREPARED


def of_split(manifest: Mapping[str, Any]) -> str:
    """Return a hash over a split's recipe, classes and tars, as its manifest lists them."""
    hashes = [tar["sha256"] for _, tar in sorted(manifest["tars"].items())]
    return digest([manifest["recipe"], manifest["classes"], hashes])
