"""Tar files of images, any of which is read by its place; where each lies is looked up once and remembered."""

import dataclasses
import functools
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.images import is_image
from bench.provenance import cache_dir
from bench.results import digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """An image within a tar: where it begins and how long it is, in bytes."""

    tar: Path
    begin: int
    size: int

    def read(self) -> bytes:
        """The image's file; raises OSError where the tar ends before it."""
        content = os.pread(_opened(str(self.tar)).fileno(), self.size, self.begin)
        if len(content) < self.size:
            raise OSError(f"{self.tar.name} ends within it")
        return content

    def __str__(self) -> str:
        """The tar and the byte where the image begins."""
        return f"{self.tar} at byte {self.begin}"


@functools.lru_cache(maxsize=256)  # as many as a process may well have open
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


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
        rows = [
            (k, begin, size, path)
            for k, name in enumerate(tars)
            for path, begin, size in images_of(folder / name)
        ]
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
        (f"{labels[_key(name)]}/{name}" if _key(name) in labels else name, begin, size)
        for name, begin, size in images
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
