"""The data sets of transfer to few thousand images: where their files lie, what their authors say that they hold.

Official validation splits choose hyper-parameters and are then trained on with train, as Kornblith et al.
(arXiv 1805.08974) have it; where there is none, a part of train is held out.
"""

import functools
from collections.abc import Mapping
from typing import Any

from adapters.image_sets import folders, lists
from adapters.image_sets.from_torchvision import cifar, from_torchvision
from adapters.image_sets.listed import RESEARCH, LabelledImages
from adapters.image_sets.names import PET_CLASSES, VOC_CLASSES
from bench.datasets.facts import UNSTATED, Facts

TRAIN_TEST: Mapping[str, Mapping[str, Any]] = {
    "train": {"split": "train"},
    "test": {"split": "test"},
}
TRAIN_VAL_TEST = {**TRAIN_TEST, "val": {"split": "val"}}


def _torchvision(name: str, splits: Mapping[str, Mapping[str, Any]], above: int = 1) -> Any:
    return functools.partial(from_torchvision, name=name, splits=splits, above=above)


CUB = LabelledImages(
    name="cub",
    source="CUB-200-2011, vision.caltech.edu/datasets/cub_200_2011",
    licence="non-commercial research and education; the photographs are their owners'",
    root="CUB_200_2011",
    splits=dict.fromkeys(
        ("train", "test"),
        ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"),
    ),
    read=lists.cub,
    read_as="the official split",
    facts=Facts(
        counts={"train": 5_994, "test": 5_794},
        gigabytes=1.1,
        classes=200,
        files={"train_test_split.txt": "1 for images to train on, by their number in images.txt"},
        known_from="the data set's README",
    ),
)
CARS = LabelledImages(
    name="cars",
    source="Stanford Cars (its own site is gone; copies are about)",
    licence=UNSTATED,
    root="stanford_cars",
    splits={
        "train": ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_train"),
        "test": ("cars_test_annos_withlabels.mat", "devkit/cars_meta.mat", "cars_test"),
    },
    read=_torchvision("StanfordCars", TRAIN_TEST),
    read_as="the official split",
    facts=Facts(
        counts={"train": 8_144, "test": 8_041},
        gigabytes=1.95,
        classes=196,
        known_from="torchvision.datasets",
    ),
)
AIRCRAFT = LabelledImages(
    name="aircraft",
    source="FGVC-Aircraft 2013b, robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
    licence=RESEARCH,
    root="fgvc-aircraft-2013b",
    splits={
        split: (f"data/images_variant_{split}.txt", "data/variants.txt", "data/images")
        for split in ("train", "val", "test")
    },
    validation="val",
    read=_torchvision("FGVCAircraft", TRAIN_VAL_TEST),
    read_as="100 variants",
    facts=Facts(
        counts={"train": 3_334, "val": 3_333, "test": 3_333},
        gigabytes=2.75,
        classes=100,
        known_from="the data set's README",
    ),
)
FLOWERS = LabelledImages(
    name="flowers",
    source="Oxford 102 Flowers, robots.ox.ac.uk/~vgg/data/flowers/102",
    licence=UNSTATED,
    root="flowers-102",
    splits=dict.fromkeys(("train", "val", "test"), ("setid.mat", "imagelabels.mat", "jpg")),
    validation="val",
    read=_torchvision("Flowers102", TRAIN_VAL_TEST),
    read_as="the official split",
    facts=Facts(
        counts={"train": 1_020, "val": 1_020, "test": 6_149},
        gigabytes=0.35,
        classes=102,
        md5={
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        known_from="torchvision.datasets",
    ),
)
PETS = LabelledImages(
    name="pets",
    source="Oxford-IIIT Pet, robots.ox.ac.uk/~vgg/data/pets",
    licence="CC BY-SA 4.0",
    root="oxford-iiit-pet",
    splits={
        "train": ("annotations/trainval.txt", "images"),
        "test": ("annotations/test.txt", "images"),
    },
    classes=PET_CLASSES,
    read=lists.pets,
    read_as="37 breeds",
    facts=Facts(
        counts={"train": 3_680, "test": 3_669},
        gigabytes=0.84,
        classes=37,
        known_from="the data set's README",
    ),
)
FOOD = LabelledImages(
    name="food101",
    source="Food-101, data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
    licence="scientific fair use; the photographs are their owners', under Foodspotting's terms",
    root="food-101",
    splits={split: (f"meta/{split}.json", "images") for split in ("train", "test")},
    read=_torchvision("Food101", TRAIN_TEST),
    read_as="the official split",
    facts=Facts(
        counts={"train": 75_750, "test": 25_250},
        gigabytes=4.99,
        classes=101,
        known_from="torchvision.datasets",
    ),
)


def dtd(split: int) -> LabelledImages:
    """DTD by one of its ten official splits; Kornblith et al. take the first."""
    return LabelledImages(
        name="dtd" if split == 1 else f"dtd-{split}",
        source="Describable Textures r1.0.1, robots.ox.ac.uk/~vgg/data/dtd",
        licence="for research",
        root="dtd/dtd",
        splits={part: (f"labels/{part}{split}.txt", "images") for part in ("train", "val", "test")},
        validation="val",
        read=_torchvision(
            "DTD",
            {p: {"split": p, "partition": split} for p in ("train", "val", "test")},
            above=2,
        ),
        read_as=f"split {split} of 10",
        facts=Facts(
            counts={"train": 1_880, "val": 1_880, "test": 1_880},
            gigabytes=0.64,
            classes=47,
            known_from="the data set's page",
        ),
    )


SUN = LabelledImages(
    name="sun397",
    source="SUN397 and its partitions, vision.princeton.edu/projects/2010/SUN",
    licence=UNSTATED,
    root="SUN397",
    splits={
        "train": ("ClassName.txt", "Training_01.txt"),
        "test": ("ClassName.txt", "Testing_01.txt"),
    },
    read=lists.sun397,
    read_as="partition 1 of 10",
    facts=Facts(
        counts={"train": 19_850, "test": 19_850},
        gigabytes=39.1,
        classes=397,
        files={"a/abbey/": "images", "Training_01.txt": "of the partitions, put beside the images"},
        known_from="its partitions: 50 and 50 images a class; size from tensorflow/datasets, url_checksums/sun397.txt",
    ),
)
CALTECH = LabelledImages(
    name="caltech101",
    source="Caltech-101, data.caltech.edu/records/mzrjq-6wc02",
    licence="CC BY 4.0",
    root="caltech101",
    splits={"train": ("101_ObjectCategories",), "test": ("101_ObjectCategories",)},
    read=folders.caltech101,
    read_as="30 images a class, first by the SHA-256 of their path; the background is a class",
    facts=Facts(
        counts={"train": 3_060},
        gigabytes=0.13,
        classes=102,
        files={
            "101_ObjectCategories/accordion/image_0001.jpg": "an image in the folder of its class"
        },
        known_from="30 of 102 classes, the background among them, as Kornblith et al. count",
    ),
)
VOC = LabelledImages(
    name="voc2007",
    source="Pascal VOC 2007, host.robots.ox.ac.uk/pascal/VOC/voc2007",
    licence="Flickr's terms of use",
    root="VOCdevkit/VOC2007",
    splits={
        split: (*(f"ImageSets/Main/{name}_{split}.txt" for name in VOC_CLASSES), "JPEGImages")
        for split in ("train", "val", "test")
    },
    classes=VOC_CLASSES,
    validation="val",
    read=lists.voc2007,
    read_as="20 classes, several an image",
    facts=Facts(
        counts={"train": 2_501, "val": 2_510, "test": 4_952},
        gigabytes=0.911,
        classes=20,
        known_from="the challenge's development kit; size from tensorflow/datasets, url_checksums/voc.txt",
    ),
)


CIFAR_SOURCE = "its Python version, cs.toronto.edu/~kriz/cifar.html"
CIFAR10 = LabelledImages(
    name="cifar10",
    source=CIFAR_SOURCE,
    licence=UNSTATED,
    root="cifar-10-batches-py",
    splits={
        "train": (*(f"data_batch_{k}" for k in range(1, 6)), "batches.meta"),
        "test": ("test_batch", "batches.meta"),
    },
    read=functools.partial(cifar, name="CIFAR10"),
    read_as="the official split",
    facts=Facts(
        counts={"train": 50_000, "test": 10_000},
        gigabytes=0.163,
        classes=10,
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        known_from="torchvision.datasets",
    ),
)
CIFAR100 = LabelledImages(
    name="cifar100",
    source=CIFAR_SOURCE,
    licence=UNSTATED,
    root="cifar-100-python",
    splits={"train": ("train", "meta"), "test": ("test", "meta")},
    read=functools.partial(cifar, name="CIFAR100"),
    read_as="the official split",
    facts=Facts(
        counts={"train": 50_000, "test": 10_000},
        gigabytes=0.161,
        classes=100,
        md5={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        known_from="torchvision.datasets",
    ),
)
