"""Where pretraining's images come from: the embedded world, a folder, ImageNet's layout, tar shards.

A source knows its images by number and gives their encoded bytes; `pretrain.data` says which image
is read when, and decodes it.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.images import SUFFIXES, is_image
from bench.provenance import content_sha256
from bench.scenes.world import World, ensure
from pretrain.scenes import Scenes

EMBEDDED = {"scenes": "images/train", "species": "species/train"}
WORLD = World()
SUBSET = 5  # the stream of random numbers that picks few images

Indices = NDArray[np.int64]


class Storage(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int: ...  # noqa: D105

    def read(self, index: int) -> bytes:
        """An image's file, whole; raises OSError."""

    def where(self, index: int) -> str:
        """What to call an image in a message."""

    def fingerprint(self, chosen: Indices) -> str:
        """The SHA-256 of the chosen images, in hex."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """Image files below a folder, by their paths relative to it."""

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """A file's content; raises OSError."""
        return (self.root / self.paths[index]).read_bytes()

    def where(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])

    def fingerprint(self, chosen: Indices) -> str:
        """Over the files' paths and contents: read once, then remembered."""
        return content_sha256(self.root, [self.root / self.paths[k] for k in chosen])


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldFiles(Files):
    """Files of an embedded world, which its recipe determines."""

    world: World

    def fingerprint(self, chosen: Indices) -> str:
        """The world's own; with some of its files, of their names too."""
        return combined(self.world.fingerprint(), [self.paths[k] for k in chosen])


def combined(*parts: Any) -> str:
    """The SHA-256 of what identifies something, in hex."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images to pretrain on.

    Args:
        labels: int64, one for each image of the storage, below len(classes); None where unlabelled.
        chosen: the images of the storage that this source has; all of them, or few.
        images_per_epoch: how many images make an epoch: those of the whole set, also where few of
            them are chosen and repeated, so that steps and schedule are the same.
        occluders: bool [height, width] of an image of the storage, True on what stands in front of
            another thing; None where the source cannot tell.
        skipped: images that could not be used so far in this process, with the reason of each.
    """

    name: str
    storage: Storage
    chosen: Indices
    images_per_epoch: int
    classes: tuple[str, ...] = ()
    labels: Indices | None = None
    occluders: Callable[[int], NDArray[np.bool_]] | None = None
    skipped: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        """How many different images there are."""
        return len(self.chosen)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 that identifies the images."""
        return self.storage.fingerprint(self.chosen)


def source(
    name: str | Path,
    *,
    images: int | None = None,
    subset_seed: int = 0,
    data_root: Path | None = None,
    world: World = WORLD,
) -> ImageSource:
    """Find the images to pretrain on.

    Args:
        name: "scenes" (the embedded world's whole images), "species" (its crops about the subject),
            a folder, or the name of one below `data_root`. A folder has images at any depth, ImageNet's
            `train/<class>/`, or tar files. Its images are labelled where all lie in class folders.
        images: take so many images at random, the more containing the fewer, and repeat them.
        subset_seed: another seed takes others.
        world: the embedded world's recipe.

    Raises:
        UserError: there is no such source, it has no image, or fewer than asked for.
    """
    embedded = str(name) in EMBEDDED
    whole = _embedded(str(name), world) if embedded else _folder(_located(name, data_root))
    return whole if images is None else few(whole, images, subset_seed)


def few(whole: ImageSource, images: int, subset_seed: int) -> ImageSource:
    """Keep some images of a source, drawn by `subset_seed`; an epoch stays as long."""
    if not 1 <= images <= len(whole):
        raise UserError(
            f"--images {images} asks for what {whole.name} does not have: it holds {len(whole):,} images. "
            f"Give a number from 1 to {len(whole)}, or leave --images away for all of them."
        )
    order = np.random.default_rng([subset_seed, SUBSET, 0, 0]).permutation(len(whole))
    return dataclasses.replace(
        whole,
        name=f"{whole.name}[{images} images, subset {subset_seed}]",
        chosen=np.sort(whole.chosen[order[:images]]),
        skipped={},
    )


def _embedded(name: str, world: World) -> ImageSource:
    root = ensure(world)
    paths = [f"{EMBEDDED[name]}/{path}" for path in image_paths(root / EMBEDDED[name])]
    scenes = Scenes(root=root, names=[Path(path).name for path in paths], crops=name == "species")
    kinds = scenes.species()
    classes = tuple(sorted(set(kinds)))
    return ImageSource(
        name=name,
        storage=WorldFiles(root=root, paths=paths, world=world),
        chosen=np.arange(len(paths)),
        images_per_epoch=len(paths),
        classes=classes,
        labels=np.array([classes.index(kind) for kind in kinds]),
        occluders=scenes.occluders,
    )


def _located(name: str | Path, data_root: Path | None) -> Path:
    candidates = [Path(name), *([data_root / name] if data_root else [])]
    for folder in candidates:
        if folder.is_dir():
            return folder
    there = [p.name for p in data_root.iterdir()] if data_root and data_root.is_dir() else []
    near = difflib.get_close_matches(str(name), [*EMBEDDED, *there], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"There is no source of images '{name}': it is neither {' nor '.join(EMBEDDED)}, nor a folder, nor one below "
        f"{data_root or 'the data root (--data-root DIR or BENCH_DATA=DIR, which is not given)'}. {hint}A folder may "
        f"hold images at any depth, ImageNet's train/<class>/, or .tar files."
    )


def _folder(folder: Path) -> ImageSource:
    from pretrain import shards

    if any(folder.glob("*.tar")):
        return shards.source(folder)
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = image_paths(root)
    if not paths:
        raise UserError(
            f"The folder {root} holds no image. Expected are files that end in {', '.join(sorted(SUFFIXES))}, in it or "
            f"in folders below it, or .tar files with such images; give another folder with --data."
        )
    return labelled(folder.resolve().name, Files(root=root, paths=paths), paths)


def labelled(name: str, storage: Storage, paths: Sequence[str]) -> ImageSource:
    """A source whose classes are the first folders of its paths, if every path has one of several."""
    kinds = [path.split("/")[0] if "/" in path else "" for path in paths]
    classes = tuple(sorted(set(kinds)))
    if len(classes) < 2 or "" in classes:
        classes = ()
    number = {kind: k for k, kind in enumerate(classes)}
    return ImageSource(
        name=name,
        storage=storage,
        chosen=np.arange(len(paths)),
        images_per_epoch=len(paths),
        classes=classes,
        labels=np.array([number[kind] for kind in kinds]) if classes else None,
    )


def image_paths(root: Path) -> list[str]:
    """The images below a folder, relative to it, sorted; hidden files and folders are left out."""
    found = []
    for here, folders, names in os.walk(root, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = os.path.relpath(here, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + name for name in names if is_image(name)]
    return sorted(found)
