"""The images to pretrain on: the embedded world, a folder, ImageNet's layout, or tar files.

A source numbers its images and returns their encoded bytes; `pretrain.data` decides which image is read when, and
decodes it.
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
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from bench.datasets import tar_files
from bench.datasets.images import SUFFIXES, is_image
from bench.datasets.tar_files import Packed, index
from bench.errors import UserError
from bench.files import content_sha256
from bench.scenes.world import World, ensure

EMBEDDED = {"scenes": "images/train", "species": "species/train"}
WORLD = World()
SUBSET = 5  # stream of random numbers for choosing a subset, see bench.training.seeding

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Storage(Protocol):
    """Where encoded images are read from, by number."""

    def __len__(self) -> int: ...  # noqa: D105

    def read(self, index: int) -> bytes:
        """Return the content of an image's file; raises OSError."""

    def where(self, index: int) -> str:
        """Return an image's name for messages."""

    def fingerprint(self, chosen: Indices) -> str:
        """Return the SHA-256 of the chosen images, in hex."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """Image files below a folder, by their paths relative to it."""

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Return a file's content; raises OSError."""
        return (self.root / self.paths[index]).read_bytes()

    def where(self, index: int) -> str:
        """Return the file's path."""
        return str(self.root / self.paths[index])

    def fingerprint(self, chosen: Indices) -> str:
        """Hash the files' paths and contents; the hash is cached, so each file is read once."""
        return content_sha256(self.root, [self.root / self.paths[k] for k in chosen])


def combined(*parts: Any) -> str:
    """Return the SHA-256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images to pretrain on.

    Args:
        labels: int64, one for each image of the storage, below len(classes); None if unlabelled.
        chosen: the numbers, in the storage, of this source's images: all of them or a subset.
        images_per_epoch: size of the whole set, also for a subset, which is repeated: so steps and schedule are
            the same.
        occluders: returns a bool [height, width] mask for an image of the storage, True on things that hide part of
            another; None if the source has no such annotations.
        skipped: images found unusable in this process so far, with the reasons.
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
        """Return the number of different images."""
        return len(self.chosen)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 that identifies the images."""
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
        name: "scenes" (the embedded world's whole images), "species" (its crops around one subject), a folder, or
            the name of one below `data_root`. A folder has images at any depth, ImageNet's `train/<class>/`, or tar
            files. Its images are labelled if all are in class folders.
        images: size of a random subset to repeat; larger subsets contain the smaller ones of the same seed.
        subset_seed: chooses the subset.
        world: the embedded world's recipe.

    Raises UserError if there is no such source, it has no image, or fewer than asked for.
    """
    embedded = str(name) in EMBEDDED
    whole = _embedded(str(name), world) if embedded else _folder(_located(name, data_root))
    return whole if images is None else few(whole, images, subset_seed)


def few(whole: ImageSource, images: int, subset_seed: int) -> ImageSource:
    """Return a source with a random subset of the images; an epoch has as many steps as before."""
    if not 1 <= images <= len(whole):
        raise UserError(
            f"--images {images} is not possible: {whole.name} has {len(whole):,} images. Give a number from 1 to "
            f"{len(whole)}, or leave --images out to use all of them."
        )
    order = np.random.default_rng([subset_seed, SUBSET, 0, 0]).permutation(len(whole))
    chosen = np.sort(whole.chosen[order[:images]])
    name = f"{whole.name}[{images} images, subset {subset_seed}]"
    return dataclasses.replace(whole, name=name, chosen=chosen, skipped={})


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
        f"contain images at any depth, ImageNet's train/<class>/, or .tar files."
    )


def _folder(folder: Path) -> ImageSource:
    if any(folder.glob("*.tar")):
        return tar_source(folder)
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = image_paths(root)
    if not paths:
        raise UserError(
            f"The folder {root} contains no image. Expected are files that end in {', '.join(sorted(SUFFIXES))}, at "
            f"any depth, or .tar files with such images. Give another folder with --data."
        )
    return labelled(folder.resolve().name, Files(root=root, paths=paths), paths)


def labelled(name: str, storage: Storage, paths: Sequence[str]) -> ImageSource:
    """Return a source labelled by the first folder of each path, if all paths have one and they differ."""
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
    """Return the sorted paths of the images below a folder, relative to it, without hidden files and folders."""
    found = []
    for here, folders, names in os.walk(root, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = os.path.relpath(here, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + name for name in names if is_image(name)]
    return sorted(found)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldFiles(Files):
    """Files of an embedded world; the world's recipe determines their content."""

    world: World

    def fingerprint(self, chosen: Indices) -> str:
        """Hash the world's fingerprint and the files' names, without reading them."""
        return combined(self.world.fingerprint(), [self.paths[k] for k in chosen])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """Annotations of the training images of the world at `root`, by file name.

    Args:
        crops: the images are the crops around one subject, not the whole scenes.
    """

    root: Path
    names: Sequence[str]
    crops: bool

    def species(self) -> list[str]:
        """Return the species of each image's subject."""
        return [str(self._scenes[name][0]["species"]) for name in self.names]

    def occluders(self, index: int) -> Mask:
        """Return a bool [height, width] mask of the things that hide part of another thing."""
        image, things = self._scenes[self.names[index]]
        found = np.zeros((image["height"], image["width"]), bool)
        for thing in things:
            if any(hides(thing, other) for other in things):
                found |= pixels(thing)
        x, y, width, height = image["species_crop"] if self.crops else (0, 0, *found.shape[::-1])
        return found[y : y + height, x : x + width]

    @functools.cached_property
    def _scenes(self) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
        content = json.loads((self.root / "annotations/instances_train.json").read_text())
        scenes: dict[int, Any] = {image["id"]: (image, []) for image in content["images"]}
        for annotation in content["annotations"]:
            scenes[annotation["image_id"]][1].append(annotation)
        return {image["file_name"]: (image, found) for image, found in scenes.values()}


def pixels(thing: dict[str, Any]) -> Mask:
    """Return the visible pixels of an annotated thing, bool [height, width]."""
    return np.asarray(coco_mask.decode(thing["segmentation"]), bool)


def hides(thing: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether `thing` is nearer than the partly hidden `other` and visible inside its full box.

    The annotations have the box, but not the outline, that `other` would have without occlusion.
    """
    if other["visible_fraction"] == 1.0 or thing["distance"] >= other["distance"]:
        return False
    x, y, width, height = other["amodal_bbox"]
    return bool(pixels(thing)[y : y + height, x : x + width].any())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    """Images inside the tar files of a folder."""

    root: Path
    tars: Sequence[str]
    packed: Packed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.packed)

    def read(self, index: int) -> bytes:
        """Return an image's file; raises OSError if the tar ends before it."""
        return self.packed[index].read()

    def where(self, index: int) -> str:
        """Return the tar and the byte where the image begins."""
        return str(self.packed[index])

    def fingerprint(self, chosen: Indices) -> str:
        """Hash the tars' hashes, which are in the manifest if there is one."""
        if manifest := tar_files.read(self.root):
            own = combined([manifest["tars"][name]["sha256"] for name in self.tars])
        else:
            own = content_sha256(self.root, [self.root / name for name in self.tars])
        return own if len(chosen) == len(self) else combined(own, chosen.tolist())


def tar_source(folder: Path) -> ImageSource:
    """Return the images of a folder's tar files; their positions are indexed once and cached.

    Raises UserError if a tar is damaged, compressed or missing, or none holds an image.
    """
    tars = sorted(path.name for path in folder.glob("*.tar"))
    if manifest := tar_files.read(folder):
        tar_files.check_whole(folder, manifest)
    packed, paths = index(folder, tars)
    if not len(packed):
        raise UserError(
            f"The tar files of {folder} contain no image: expected are members that end in "
            f"{', '.join(sorted(SUFFIXES))}. Give another folder with --data."
        )
    storage = Shards(root=folder, tars=tars, packed=packed)
    return labelled(folder.resolve().name, storage, paths.tolist())
