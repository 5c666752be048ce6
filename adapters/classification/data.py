"""The images of classification: the splits of a data set, and the transform that a model evaluates them with.

Splits are read from folders `<split>/<class>/*.png`, from the official tiny-imagenet-200 (val images in one folder,
their classes in a list), or by an entry of `adapters.classification.image_sets`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.classification.image_sets.checked import Listed, Paths, read_split
from adapters.classification.image_sets.labelled import LabelledImages
from bench.backbones.backbone import Backbone
from bench.backbones.normalise import normalisation
from bench.datasets.dataset import Dataset, EmbeddedWorld, Example, Items
from bench.datasets.images import read
from bench.datasets.tar_files import Packed
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
EVAL_VERSION = 1  # part of the key of cached features; increase it when `eval_transform` changes its output
ANNOTATIONS = "val_annotations.txt"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split in a fixed order.

    Args:
        paths: of the images, or their places within tar files, or their pixels, uint8 [n, h, w, 3].
        labels: [n], or [n, k] for images of several classes (see `metric`).
        classes: names by label.
        held_out: bool [n], which images of train are the official validation split; None: there is none.
    """

    paths: Sequence[Path] | Packed | NDArray[np.uint8]
    labels: Sequence[int] | NDArray[Any]
    classes: Sequence[str]
    held_out: NDArray[np.bool_] | None = None


class Images:
    """A split as pairs (image [3, h, w], label); raises UserError that names an unreadable image."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], "Tensor"]) -> None:
        """Store the split and its transform; nothing is read yet."""
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.split.paths)

    def __getitem__(self, index: int) -> tuple["Tensor", Any]:
        """Read one image and its label."""
        return self.transform(read(self.split.paths[index])), self.split.labels[index]


def splits(root: Path, *, limit: int | None = None) -> tuple[Split, Split]:
    """Read the train and val splits below `root`, at most `limit` images each: the first ones of every class.

    Raises UserError for an empty or missing class, or where the splits' classes differ.
    """
    found = {split: _by_class(root, split) for split in ("train", "val")}
    for split, classes in found.items():
        _check(root / split, classes)
    check_same(str(root), set(found["train"]), set(found["val"]), "val")
    train, val = (_limited(classes, limit) for classes in found.values())
    return train, val


def split_of(root: Path, split: str) -> Split:
    """Read one split below `root`, "train" or "val"; raises UserError for an empty or missing class."""
    classes = _by_class(root, split)
    _check(root / split, classes)
    return _limited(classes, None)


def _by_class(root: Path, split: str) -> dict[str, list[Path]]:
    """Return the images of every class, both sorted; a class is a folder or a name in the list of annotations."""
    folder = root / split
    if (folder / ANNOTATIONS).is_file():
        return _annotated(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. Expected are {root}/train and {root}/val, with one folder of "
            f"images for each class in both."
        )
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return {c.name: sorted(p for p in c.rglob("*") if _is_image(p)) for c in classes}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _annotated(folder: Path) -> dict[str, list[Path]]:
    """Read tiny-imagenet-200's val split: lines `file<TAB>class<TAB>box`, images in `images/`."""
    found: dict[str, list[Path]] = {}
    for number, line in enumerate((folder / ANNOTATIONS).read_text().splitlines(), 1):
        name, _, rest = line.partition("\t")
        path = folder / "images" / name
        if not rest or not path.is_file():
            raise UserError(
                f"Line {number} of {folder / ANNOTATIONS}, {line[:60]!r}, names no image: expected is an image's "
                f"file name, a tab and its class, and that image in {folder / 'images'}. Restore the data set."
            )
        found.setdefault(rest.split("\t")[0], []).append(path)
    return {name: sorted(found[name]) for name in sorted(found)}


def _check(folder: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {len(classes)} class folder(s) where at least 2 are needed. Expected is one "
            f"folder for each class, with its images inside."
        )
    if empty := [name for name, paths in classes.items() if not paths]:
        raise UserError(
            f"{len(empty)} class folder(s) without an image: {_some(folder / name for name in empty)}. "
            f"Add images ({', '.join(sorted(SUFFIXES))}) or remove the folder from both splits."
        )


def check_same(root: str, train: set[str], val: set[str], name: str) -> None:
    """Raise UserError where the classes of train and of the split `name` differ."""
    if train == val:
        return
    only = [
        f"only in {split}: {_some(sorted(names))}"
        for split, names in (("train", train - val), (name, val - train))
        if names
    ]
    raise UserError(
        f"The classes of {root}/train ({len(train)}) and {root}/{name} ({len(val)}) differ; {'; '.join(only)}. "
        f"Every class needs images under the same name in both; rename or remove those."
    )


def _some(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _limited(classes: Mapping[str, Sequence[Path]], limit: int | None) -> Split:
    """Take every class's first image, then every class's second, ... up to `limit` images."""
    ranked = [(rank, label, path) for label, paths in enumerate(classes.values()) for rank, path in enumerate(paths)]
    taken = sorted(sorted(ranked)[:limit], key=lambda item: item[1:])
    return Split(paths=[path for *_, path in taken], labels=[label for _, label, _ in taken], classes=list(classes))


def eval_transform(backbone: Backbone, *, img_size: int, crop_pct: float) -> Callable[[Image.Image], "Tensor"]:
    """Return timm's evaluation transform: short side to img_size / crop_pct (bicubic), centre crop, normalise."""
    import timm.data

    mean, std = normalisation(backbone)
    transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(
        (3, img_size, img_size), interpolation="bicubic", crop_pct=crop_pct, mean=mean, std=std
    )
    return transform


def size_argument(arch: str, img_size: int) -> dict[str, Any]:
    """Return the `timm.create_model` argument for images of img_size; empty for architectures that take any size.

    Raises UserError where img_size is not a multiple of a ViT's patch size.
    """
    import timm

    if not timm.get_pretrained_cfg(arch).fixed_input_size:
        return {}
    patch = re.search(r"_patch(\d+)", arch)
    if patch and img_size % int(patch[1]):
        step = int(patch[1])
        raise UserError(
            f"{arch} takes images whose side is a multiple of {step} pixels, and the protocol has img_size="
            f"{img_size}. Define a protocol with img_size={img_size // step * step} or {-(-img_size // step) * step}."
        )
    return {"img_size": img_size}


def splits_of(dataset: Dataset | None, folder: Path, *, limit: int | None = None) -> tuple[Split, Split]:
    """Read the split to train on, with the official validation split appended, and the split to report on.

    `limit` takes the first images of every class. Raises UserError for malformed lists or folders, and where the
    splits' classes differ.
    """
    if not isinstance(dataset, LabelledImages):
        return splits(folder, limit=limit)
    names = ["train", *filter(None, [dataset.validation])]
    parts = [read_split(dataset, folder, name) for name in names]
    unseen = read_split(dataset, folder, dataset.reported_on)
    for name, part in zip([*names[1:], dataset.reported_on], [*parts[1:], unseen], strict=True):
        check_same(dataset.name, set(parts[0].classes), set(part.classes), name)
    images = _joined(parts)
    _check_apart(dataset, images, unseen.images)
    train = Split(
        paths=images,
        labels=np.concatenate([part.labels for part in parts]),
        classes=parts[0].classes,
        held_out=np.arange(len(parts)).repeat([len(part.images) for part in parts]) > 0 if dataset.validation else None,
    )
    test = Split(paths=unseen.images, labels=unseen.labels, classes=unseen.classes)
    return _take_first(train, limit), _take_first(test, limit)


def _check_apart(
    dataset: LabelledImages, seen: Paths | Packed | NDArray[np.uint8], unseen: Paths | Packed | NDArray[np.uint8]
) -> None:
    """Raise UserError for an image in both splits."""
    # Pixels have no names to compare, and `prepare` has checked its tar files.
    if not isinstance(seen, Paths) or not isinstance(unseen, Paths):
        return
    if len(both := np.intersect1d(seen.names, unseen.names)):
        raise UserError(
            f"{dataset.name} lists {len(both)} image(s) both to train on and for {dataset.reported_on}: "
            f"{both[0].decode()}. Its metrics would be invalid. Restore its lists from {dataset.source}."
        )


def _joined(parts: Sequence[Listed]) -> Paths | Packed | NDArray[np.uint8]:
    first = parts[0].images
    if isinstance(first, Packed):
        rest = [part.images for part in parts[1:] if isinstance(part.images, Packed)]
        return functools.reduce(Packed.__add__, rest, first)
    if len(parts) == 1 or isinstance(first, np.ndarray):
        assert len(parts) == 1, "pixels with an official validation split"
        return first
    names = [part.images.names for part in parts if isinstance(part.images, Paths)]
    return Paths(first.folder, np.concatenate(names))


def _take_first(split: Split, limit: int | None) -> Split:
    """Take every class's first image, then every class's second, ... up to `limit`; their order is unchanged.

    An image of several classes counts for the first of them. Images of train and of its validation split alternate.
    """
    if limit is None or limit >= len(split.labels):
        return split
    labels = np.asarray(split.labels)
    group = labels if labels.ndim == 1 else labels.argmax(1)
    held_out = np.zeros(len(group), bool) if split.held_out is None else split.held_out
    group = 2 * group + held_out
    by_group = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    rank = np.empty(len(group), int)
    rank[by_group] = np.arange(len(group)) - (counts.cumsum() - counts).repeat(counts)
    taken = np.sort(np.lexsort((group, rank))[:limit])
    return dataclasses.replace(
        split,
        paths=split.paths[taken],  # type: ignore[call-overload]
        labels=labels[taken],
        held_out=None if split.held_out is None else held_out[taken],
    )


def reported_on(dataset: Dataset | None) -> str:
    """Return the name of the split that a data set's metrics are computed on."""
    return dataset.reported_on if isinstance(dataset, LabelledImages) else "val"


def items(folder: Path, split: str, dataset: Dataset) -> Items:
    """Return a split's images with their classes, for `bench.datasets`; raises UserError for unusable lists."""
    found = _split(folder, split, dataset)
    labels = np.asarray(found.labels)

    def example(index: int) -> Example:
        where = found.paths[index]
        if labels.ndim == 1:
            caption = str(found.classes[labels[index]])
        else:
            caption = ", ".join(found.classes[k] for k in np.flatnonzero(labels[index] == 1)) or "no class"
        return Example(image=read(where), caption=caption)

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
        found = read_split(dataset, folder, split)
        return Split(paths=found.images, labels=found.labels, classes=found.classes)
    return split_of(folder / "species" if isinstance(dataset, EmbeddedWorld) else folder, split)
