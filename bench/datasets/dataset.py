"""A data set: its folder below the data root, or the embedded world, its authors' facts about it, and its items."""

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import UserError, unknown
from bench.files import content_sha256, digest, file_sha256
from bench.scenes.world import World, ensure

if TYPE_CHECKING:  # tasks are listed without numpy
    from numpy.typing import NDArray
    from PIL import Image

UNSTATED = "not stated; assume research only"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Official numbers; unknown ones are left out, never guessed.

    Args:
        counts: items (images, or sequences of a video) by split.
        classes: number of classes; 0 if there are none, or it is not known.
        gigabytes: size of the download in 10^9 bytes; 0 if it is not known.
        md5: published hashes of lists and labels, by their paths below the root.
        files: examples of paths below the root, with what each is.
        known_from: where the numbers were looked up.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    classes: int = 0
    gigabytes: float = 0.0
    md5: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known_from: str = ""


MANY = 20_000  # files, above which their paths and sizes are hashed instead of their contents
BY_SIZE = "-by-size"  # ends such a fingerprint
NEAR = 100  # folders that are searched for a missing path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set in the layout that users have it in.

    Args:
        root: its folder below the data root ("." for the data root itself).
        splits: the paths below `root` that each split needs: lists and folders of images. A protocol may read only
            some of the splits.
        optional: files below `root` that are part of the fingerprint if they exist.
        classes: names by index, if they are fixed.
        facts: official numbers.
        read_as: how these files are read if the files alone do not determine it (which of ten official splits, which
            rule draws one); part of the fingerprint unless it is "".
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
        """Return the data set with some of its splits only; raises UserError for one it does not have."""
        for split in splits:
            if split not in self.splits:
                raise unknown(f"split of {self.name}", split, self.splits)
        return dataclasses.replace(self, splits={split: self.splits[split] for split in splits})

    def locate(self, data_root: Path | None) -> Path:
        """Return the data set's folder; raises UserError with the first path that is missing."""
        if data_root is None:
            raise UserError(
                f"{self.name} is not part of the project. Give the folder that it is in with --data-root DIR or "
                f"BENCH_DATA=DIR. {self._expected('DIR')} It comes from {self.source}."
            )
        folder = data_root / self.root
        for path in self.paths:
            if not (folder / path).exists():
                raise self._missing(folder / path)
        return folder

    def fingerprint(self, folder: Path) -> str:
        """Return the SHA-256 over every file of every split and over `read_as`.

        Of more than MANY files, those in folders are hashed by path and size ("...-by-size"), so that planning a run
        does not read all of ImageNet.
        """
        files = content_fingerprint(folder, self.paths, self.optional)
        kind = BY_SIZE if files.endswith(BY_SIZE) else ""
        return digest([files, self.read_as, self.splits]) + kind if self.read_as else files

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all splits, each once."""
        return tuple(dict.fromkeys(path for paths in self.splits.values() for path in paths))

    def planned_fingerprint(self, data_root: Path | None) -> str:
        """Return the fingerprint before anything is run; raises UserError if the data set is missing."""
        return self.fingerprint(self.locate(data_root))

    def _missing(self, path: Path) -> UserError:
        there = next(parent for parent in path.parents if parent.exists())
        near = nearest(path)
        seen = f"; nearest there: {near}" if near else f"; {there} exists, without it"
        return UserError(
            f"{self.name} is not complete: expected {path}{seen}. "
            f"{self._expected('the data root')} It comes from {self.source}."
        )

    def _expected(self, where: str) -> str:
        paths = ", ".join(str(Path(self.root) / path) for path in self.paths)
        return f"Expected below {where}: {paths}."


D = TypeVar("D", bound=Dataset)


def nearest(path: Path) -> Path | None:
    """Return an existing path like the missing `path`: with a similar name, or one folder deeper or higher."""
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
    """Yield every file below a folder as (path relative to it, bytes), sorted by name; follows links."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from ((f"{entry.name}/{name}", size) for name, size in walk(Path(entry.path)))
        elif entry.is_file():
            yield entry.name, entry.stat().st_size


def content_fingerprint(folder: Path, paths: Sequence[str], optional: Sequence[str] = ()) -> str:
    """Return the SHA-256 over the contents of lists and folders; of more than MANY files, over paths and sizes.

    A list, which holds the labels, is hashed by its contents in either case.
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
    """The world of `bench.scenes`: needs no data root, is generated on first use, and its recipe is its fingerprint."""

    name: str = "scenes"
    source: str = "python -m bench.scenes (made here, no download)"
    licence: str = "Apache-2.0"
    root: str = "."
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"train": (), "val": ()})
    world: World = dataclasses.field(default_factory=World)

    def locate(self, data_root: Path | None) -> Path:
        """Return the world's folder in the cache, generated on first use."""
        return ensure(self.world)

    def fingerprint(self, folder: Path) -> str:
        """Return the hash of the recipe, which determines every byte on every machine."""
        return self.world.fingerprint()

    def planned_fingerprint(self, data_root: Path | None) -> str:
        """Return the hash of the recipe; planning generates nothing."""
        return self.world.fingerprint()


# The items of a split with their labels, as `check` reads and `drawing` draws them. Each task family implements
# `Task.items(folder, split)` once for all of its data sets.

Box = tuple[float, float, float, float]  # left, top, width and height in pixels


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """An image and its labels, which have been checked.

    Args:
        image: RGB; for a video, `frames` frames of one size next to each other.
        caption: its class, or else its name.
        boxes: (name, box) of each object.
        outlines: (number of its box, x and y of the corners in turn) of each outline.
        regions: int [h, w], a key of `names` for each pixel; other values are unlabelled.
        poses: [k, 3] each: x, y, and a value above 0 for a labelled point; `bones` are the pairs of points to join.
        depth: float [h, w] in metres; 0 where it is not known.
    """

    image: "Image.Image"
    caption: str
    boxes: Sequence[tuple[str, Box]] = ()
    outlines: Sequence[tuple[int, Sequence[float]]] = ()
    regions: "NDArray[Any] | None" = None
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    poses: "Sequence[NDArray[Any]]" = ()
    bones: Sequence[tuple[int, int]] = ()
    depth: "NDArray[Any] | None" = None
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame."""
        return self.image.width // self.frames, self.image.height


@dataclasses.dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a split; its lists and labels have been read, its images have not.

    Args:
        read: returns an item by its number; raises UserError with the file and the problem.
        unit: what an item is, in the plural.
        classes: the names of the classes, if there are any.
        files, labels: of every item, if each is an image file with one class.
        problems: what cannot be used, one paragraph each.
    """

    count: int
    read: Callable[[int], Example]
    unit: str = "images"
    classes: Sequence[str] = ()
    files: Sequence[Path] = ()
    labels: Sequence[int] = ()
    problems: Sequence[str] = ()
