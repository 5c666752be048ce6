"""Data sets: a folder under the data root, or the embedded world, made on first use; and what its authors state."""

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.errors import UserError, unknown
from bench.files import content_sha256, digest, file_sha256
from bench.scenes.world import World, ensure

UNSTATED = "none that is known; take it for research alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Official numbers; what is not known is left out, never guessed.

    Args:
        counts: items by split: images, or sequences of videos.
        classes: how many there are; 0 where there are none, or it is not known.
        gigabytes: what it takes to download, in 10^9 bytes; 0 where it is not known.
        md5: of lists and labels, by their path below the root, as published.
        files: what lies where: an example of a path below the root, and what it is.
        known_from: where the numbers were looked up.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    classes: int = 0
    gigabytes: float = 0.0
    md5: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known_from: str = ""


MANY = 20_000  # files, above which a data set is known by their sizes
BY_SIZE = "-by-size"
NEAR = 100  # folders that are looked into for what is missing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as its users lay it out.

    Args:
        root: its folder under the data root ("." for the data root itself).
        splits: what each split is made of: paths below `root` that must exist, lists and folders
            of images alike. A protocol may read only some of the splits.
        optional: files below `root` that count where they exist.
        classes: names by index, where they are fixed.
        facts: official numbers.
        read_as: what becomes of these files, where the files alone do not say it (which of ten
            official splits, which rule draws one); part of the fingerprint unless it is "".
    """

    name: str
    source: str
    licence: str
    root: str
    splits: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    facts: Facts = dataclasses.field(default_factory=Facts)
    read_as: str = ""

    def only(self: "D", splits: Sequence[str]) -> "D":
        """The same data set reduced to some of its splits; raises UserError for one it does not have."""
        for split in splits:
            if split not in self.splits:
                raise unknown(f"split of {self.name}", split, self.splits)
        return dataclasses.replace(self, splits={split: self.splits[split] for split in splits})

    def locate(self, data_root: Path | None) -> Path:
        """Return the data set's folder; raises UserError that names the file expected."""
        if data_root is None:
            raise UserError(
                f"{self.name} is not part of the project: say where it lies with --data-root DIR or "
                f"BENCH_DATA=DIR; {self._expected('DIR')} It comes from {self.source}."
            )
        folder = data_root / self.root
        for path in self.paths:
            if not (folder / path).exists():
                raise self._missing(folder / path)
        return folder

    def fingerprint(self, folder: Path) -> str:
        """The SHA-256 over every file of every split, and over how they are read (`read_as`).

        Up to MANY files count by their contents. Of more, those in folders count by path and size
        ("...-by-size"): no one waits for every byte of ImageNet before a run is planned.
        """
        files = content_fingerprint(folder, self.paths, self.optional)
        if not self.read_as:
            return files
        kind = BY_SIZE if files.endswith(BY_SIZE) else ""
        return digest([files, self.read_as, self.splits]) + kind

    @property
    def paths(self) -> tuple[str, ...]:
        """What all splits are made of, each path once."""
        return tuple(dict.fromkeys(path for paths in self.splits.values() for path in paths))

    def planned_fingerprint(self, data_root: Path | None) -> str:
        """The fingerprint before anything is run; raises UserError where the data set is not there."""
        return self.fingerprint(self.locate(data_root))

    def _missing(self, path: Path) -> UserError:
        there = next(parent for parent in path.parents if parent.exists())
        near = nearest(path)
        seen = f"; nearest there: {near}" if near else f"; {there} is there, without it"
        return UserError(
            f"{self.name} is not complete: expected {path}{seen}. "
            f"{self._expected('the data root')} It comes from {self.source}."
        )

    def _expected(self, where: str) -> str:
        paths = ", ".join(str(Path(self.root) / path) for path in self.paths)
        return f"Below {where} are expected {paths}."


D = TypeVar("D", bound=Dataset)


def nearest(path: Path) -> Path | None:
    """What is there and may be meant by `path`, which is not: of a name alike, or one folder too deep or too high."""
    there = next(parent for parent in path.parents if parent.exists())
    if not there.is_dir():
        return None
    rest = path.relative_to(there)
    names = sorted(entry.name for entry in os.scandir(there))
    if near := difflib.get_close_matches(rest.parts[0], names, n=1):
        return there / near[0]
    folders = [there / name for name in names[:NEAR] if (there / name).is_dir()]
    elsewhere = [folder / rest for folder in folders] + [there.joinpath(*rest.parts[1:])]
    return next((p for p in elsewhere if p != there and p.exists()), None)


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below a folder as (path relative to it, bytes), in the order of their names.

    Needs memory for one folder at a time; follows links.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from ((f"{entry.name}/{name}", size) for name, size in walk(Path(entry.path)))
        elif entry.is_file():
            yield entry.name, entry.stat().st_size


def content_fingerprint(folder: Path, paths: Sequence[str], optional: Sequence[str] = ()) -> str:
    """The SHA-256 over the contents of lists and folders; with more than MANY files in all, over paths and sizes.

    A list, which says what is what, counts by its contents in either case.
    """
    count, value = 0, hashlib.sha256()
    for path in sorted(set(paths) | {p for p in optional if (folder / p).is_file()}):
        if not (folder / path).is_dir():
            value.update(f"{file_sha256(folder / path)}  {path}\n".encode())
            continue
        for name, size in walk(folder / path):
            count += 1
            value.update(os.fsencode(f"{size}  {path}/{name}\n"))
    if count > MANY:
        return value.hexdigest() + BY_SIZE
    files: set[Path] = {folder / path for path in optional if (folder / path).is_file()}
    for whole in (folder / path for path in paths):
        files |= {f for f in whole.rglob("*") if f.is_file()} if whole.is_dir() else {whole}
    return content_sha256(folder, files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedWorld(Dataset):
    """The world of `bench.scenes`: needs no data root, and its fingerprint is known before it is made."""

    name: str = "scenes"
    source: str = "python -m bench.scenes (made here, no download)"
    licence: str = "Apache-2.0"
    root: str = "."
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"train": (), "val": ()})
    world: World = dataclasses.field(default_factory=World)

    def locate(self, data_root: Path | None) -> Path:
        """Return the world's folder in the cache, making the world once."""
        return ensure(self.world)

    def fingerprint(self, folder: Path) -> str:
        """The hash of the recipe: the same bytes follow from it on every machine."""
        return self.world.fingerprint()

    def planned_fingerprint(self, data_root: Path | None) -> str:
        """Known from the recipe: planning makes no world."""
        return self.world.fingerprint()
