"""Readers of the data sets' layouts: folders of classes, torchvision's classes, text lists, JSON and pickles.

Each reader returns a split as `labelled.Lists` without opening an image. Nothing is ever downloaded.
"""

import collections
import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.classification.image_sets.labelled import Lists
from bench.errors import UserError

# Class names that no file of the data set contains, in the order of its labels.
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
PET_CLASSES = (
    "Abyssinian",
    "american_bulldog",
    "american_pit_bull_terrier",
    "basset_hound",
    "beagle",
    "Bengal",
    "Birman",
    "Bombay",
    "boxer",
    "British_Shorthair",
    "chihuahua",
    "Egyptian_Mau",
    "english_cocker_spaniel",
    "english_setter",
    "german_shorthaired",
    "great_pyrenees",
    "havanese",
    "japanese_chin",
    "keeshond",
    "leonberger",
    "Maine_Coon",
    "miniature_pinscher",
    "newfoundland",
    "Persian",
    "pomeranian",
    "pug",
    "Ragdoll",
    "Russian_Blue",
    "saint_bernard",
    "samoyed",
    "scottish_terrier",
    "shiba_inu",
    "Siamese",
    "Sphynx",
    "staffordshire_bull_terrier",
    "wheaten_terrier",
    "yorkshire_terrier",
)


def rows(path: Path, columns: int) -> list[list[str]]:
    """Read a list of `columns` separated by spaces, which the last one may contain.

    Empty lines are skipped; Windows line ends are accepted. Raises UserError for a line with fewer columns.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        found.append(line.strip().split(maxsplit=columns - 1))
        if len(found[-1]) != columns:
            raise UserError(
                f"Line {number} of {path}, {line[:60]!r}, has {len(found[-1])} column(s) where {columns} are "
                f"expected. Restore the list from the data set's source."
            )
    return found


def by_id(path: Path) -> dict[str, str]:
    """Read lines "id value" as a dict; raises UserError for an id that occurs twice."""
    pairs = rows(path, 2)
    found = {key: value for key, value in pairs}  # noqa: C416
    if len(found) != len(pairs):
        twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"{path} lists {twice} twice. Restore it from the data set's source.")
    return found


def looked_up(table: Mapping[str, Any], key: str, path: Path) -> Any:
    """Return the value of a key in a list; raises UserError that names the list and the missing key."""
    if key not in table:
        raise UserError(
            f"{path} has no entry for {key}, which another list of the same data set names. Both must be from the "
            f"same edition: restore them from the data set's source."
        )
    return table[key]


SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
CALTECH_TRAIN = 30  # images per class


def imagenet(folder: Path, split: str) -> Lists:
    """Read ImageNet-1k: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`.

    It takes a third of the memory of torchvision's reader for 1.3 million images.
    """
    root = folder / split
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    images: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with os.scandir(root / name) as entries:
            found = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES))
        if not found:
            raise UserError(
                f"The class folder {root / name} holds no image ({', '.join(SUFFIXES)}): expected is {split}/<class>/ "
                f"with its images directly inside. Restore them, or remove the folder."
            )
        images += [f"{split}/{name}/{image}" for image in found]
        labels += [label] * len(found)
    return Lists(images=images, labels=labels, classes=classes)


def caltech101(folder: Path, split: str) -> Lists:
    """Read Caltech-101: 30 images per class to train on, all others to test on.

    There are no official lists. The 30 are the first by the SHA-256 of their path, so that an added or missing image
    hardly changes them.
    """
    root = folder / "101_ObjectCategories"
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    images, labels = [], []
    for label, name in enumerate(classes):
        found = [f"{root.name}/{name}/{p.name}" for p in (root / name).glob("*.jpg")]
        found.sort(key=lambda image: hashlib.sha256(image.encode()).digest())
        chosen = found[:CALTECH_TRAIN] if split == "train" else found[CALTECH_TRAIN:]
        images += chosen
        labels += [label] * len(chosen)
    return Lists(images=images, labels=labels, classes=classes)


def from_torchvision(
    folder: Path, split: str, *, name: str, splits: Mapping[str, Mapping[str, Any]], above: int = 1
) -> Lists:
    """Read a split by the class `name` of torchvision.datasets.

    Args:
        folder: the data set's folder; torchvision's root is `above` levels above it.
        splits: arguments of the class for each split.
    """
    import torchvision.datasets

    root = (folder, *folder.parents)[above]
    found = getattr(torchvision.datasets, name)(root, **splits[split], loader=str)
    below = len(str(folder)) + 1
    listed = [found[i] for i in range(len(found))]
    return Lists(
        images=[path[below:] for path, _ in listed], labels=[label for _, label in listed], classes=found.classes
    )


def cifar(folder: Path, split: str, *, name: str) -> Lists:
    """Read CIFAR's pixels; torchvision compares every file with its published MD5."""
    import torchvision.datasets

    found = getattr(torchvision.datasets, name)(folder.parent, train=split == "train")
    return Lists(images=found.data, labels=found.targets, classes=found.classes)


# Layouts that torchvision does not read, or not with their official splits.


def cub(folder: Path, split: str) -> Lists:
    """Read CUB-200-2011: four lists, joined by image or class id, so their order does not matter."""
    lists = {
        name: by_id(folder / f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split", "classes")
    }
    index = {key: i for i, key in enumerate(lists["classes"])}
    labels = {
        image: looked_up(index, label, folder / "classes.txt") for image, label in lists["image_class_labels"].items()
    }
    if unused := [key for key, i in index.items() if i not in set(labels.values())]:
        raise UserError(
            f"{folder / 'classes.txt'} lists {len(unused)} class(es) without an image: {unused[0]} "
            f"{lists['classes'][unused[0]]}. Remove them, or restore the images and their lists."
        )
    flags = lists["train_test_split"]
    wanted = "1" if split == "train" else "0"
    chosen = [image for image in lists["images"] if looked_up(flags, image, folder / "train_test_split.txt") == wanted]
    return Lists(
        images=[f"images/{lists['images'][image]}" for image in chosen],
        labels=[looked_up(labels, image, folder / "image_class_labels.txt") for image in chosen],
        classes=list(lists["classes"].values()),
    )


def pets(folder: Path, split: str) -> Lists:
    """Read Oxford-IIIT Pet: `annotations/trainval.txt` and `test.txt`, lines "breed_number label species breed"."""
    path = folder / "annotations" / {"train": "trainval.txt", "test": "test.txt"}[split]
    lines = [row for row in rows(path, 4) if not row[0].startswith("#")]
    for name, label, *_ in lines:
        breed = name.rpartition("_")[0]
        if 0 < int(label) <= len(PET_CLASSES) and breed != PET_CLASSES[int(label) - 1]:
            raise UserError(
                f"{path} gives {name} the label {label}, which is {PET_CLASSES[int(label) - 1]}. Restore "
                f"the list from the data set's source."
            )
    return Lists(
        images=[f"images/{name}.jpg" for name, *_ in lines],
        labels=[int(label) - 1 for _, label, *_ in lines],
        classes=PET_CLASSES,
    )


def sun397(folder: Path, split: str, partition: int = 1) -> Lists:
    """Read one of SUN397's ten partitions, of 50 images per class to train on and 50 to test on."""
    names = [row[0] for row in rows(folder / "ClassName.txt", 1)]
    index = {name: i for i, name in enumerate(names)}
    path = folder / f"{'Training' if split == 'train' else 'Testing'}_{partition:02d}.txt"
    images = [row[0] for row in rows(path, 1)]
    return Lists(
        images=[image.lstrip("/") for image in images],
        labels=[looked_up(index, image.rpartition("/")[0], folder / "ClassName.txt") for image in images],
        classes=[name.split("/", 2)[-1] for name in names],
    )


def voc2007(folder: Path, split: str) -> Lists:
    """Read VOC2007: for each class, a list of "image label" with labels 1, -1, or 0 (difficult)."""
    columns = [by_id(folder / "ImageSets/Main" / f"{name}_{split}.txt") for name in VOC_CLASSES]
    images = list(columns[0])
    return Lists(
        images=[f"JPEGImages/{image}.jpg" for image in images],
        labels=[
            [
                int(looked_up(column, image, folder / "ImageSets/Main" / f"{name}_{split}.txt"))
                for name, column in zip(VOC_CLASSES, columns, strict=True)
            ]
            for image in images
        ],
        classes=VOC_CLASSES,
    )


def inaturalist2018(folder: Path, split: str) -> Lists:
    """Read iNaturalist 2018: the competition's COCO-style JSON of each split."""
    path = folder / f"{split}2018.json"
    found = json.loads(path.read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in found["images"]}
    categories = sorted(found["categories"], key=lambda category: category["id"])
    index = {category["id"]: i for i, category in enumerate(categories)}
    return Lists(
        images=[looked_up(names, a["image_id"], path) for a in found["annotations"]],
        labels=[looked_up(index, a["category_id"], path) for a in found["annotations"]],
        classes=[category["name"] for category in categories],
    )


def cog(folder: Path, split: str, level: int) -> Lists:
    """Read ImageNet-CoG: the 1,000 concepts of a level and their images, from the benchmark's two files."""
    levels = _plain_pickle(folder / "cog_levels_mapping_file.pkl")
    images = _plain_pickle(folder / "cog_concepts_split_file.pkl")
    concepts = sorted(str(wnid) for wnid in levels[level - 1])
    path = folder / "cog_concepts_split_file.pkl"
    listed = [
        (str(name).lstrip("/\\"), label)
        for label, wnid in enumerate(concepts)
        for name in looked_up(images, wnid, path)[split]
    ]
    return Lists(images=[name for name, _ in listed], labels=[label for _, label in listed], classes=concepts)


class _PlainUnpickler(pickle.Unpickler):
    """Reads only containers, strings and arrays, since any other pickle could run arbitrary code."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow only what numpy needs to build its arrays."""
        array = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
        numpy = module.partition(".")[0] == "numpy" and name in array
        if numpy or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no list needs")


def _plain_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _PlainUnpickler(file).load()
