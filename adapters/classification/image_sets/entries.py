"""Every real data set of classification: its files and published facts, its metrics and protocols; named groups."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.classification.image_sets import protocols, readers
from adapters.classification.image_sets.labelled import RESEARCH, LabelledImages
from adapters.classification.image_sets.readers import PET_CLASSES, VOC_CLASSES, cifar, from_torchvision
from bench.datasets.dataset import UNSTATED, Facts
from bench.tasks import Group, Metric, Protocol

IMAGENET = LabelledImages(
    name="imagenet",
    source="ILSVRC 2012, image-net.org, after its terms are agreed to",
    licence="ImageNet's terms: non-commercial research",
    root="imagenet",
    splits={"train": ("train",), "val": ("val",)},
    reported_on="val",
    read=readers.imagenet,
    read_as="folders of train and val",
    facts=Facts(
        counts={"train": 1_281_167, "val": 50_000},
        gigabytes=144.3,
        classes=1000,
        files={"train/n01440764/n01440764_10026.JPEG": "an image in the folder of its class"},
        known_from="ILSVRC 2012; naver/cog checks the same numbers",
    ),
)
INATURALIST = LabelledImages(
    name="inaturalist2018",
    source="the iNaturalist 2018 competition, github.com/visipedia/inat_comp",
    licence="iNaturalist's terms; non-commercial research and education, not to be passed on",
    root="inaturalist2018",
    splits={"train": ("train2018.json", "train_val2018"), "val": ("val2018.json", "train_val2018")},
    reported_on="val",
    read=readers.inaturalist2018,
    read_as="the competition's lists",
    facts=Facts(
        counts={"train": 437_513, "val": 24_426},
        gigabytes=120,
        classes=8142,
        files={"train2018.json": "images, annotations and categories, COCO's way"},
        known_from="visipedia/inat_comp, 2018",
    ),
)
PLACES = LabelledImages(
    name="places365",
    source="Places365-Standard, small (256 px) images, places2.csail.mit.edu",
    licence=RESEARCH,
    root="places365",
    splits={
        "train": ("places365_train_standard.txt", "categories_places365.txt", "data_256_standard"),
        "val": ("places365_val.txt", "categories_places365.txt", "val_256"),
    },
    reported_on="val",
    read=functools.partial(
        from_torchvision,
        name="Places365",
        splits={"train": {"split": "train-standard", "small": True}, "val": {"split": "val", "small": True}},
        above=0,
    ),
    read_as="Places365-Standard",
    facts=Facts(
        counts={"train": 1_803_460, "val": 36_500},
        gigabytes=31.4,
        classes=365,
        md5={
            "places365_train_standard.txt": "30f37515461640559006b8329efbed1a",
            "places365_val.txt": "e9f2fd57bfd9d07630173f4e8708e4b1",
            "categories_places365.txt": "06c963b85866bd0649f97cb43dd16673",
        },
        known_from="tensorflow.org/datasets/catalog/places365_small; MD5 from torchvision",
    ),
)


# naver/unic@02269db, eval_transfer/data/imagenet_cog.py, by CoG's first author.
COG_TRAIN = {1: 1_118_804, 2: 1_115_788, 3: 1_095_203, 4: 1_107_128, 5: 1_091_654}


def cog(level: int) -> LabelledImages:
    """Return a level of ImageNet-CoG: 1,000 concepts of ImageNet-21k, farther from ImageNet-1k at higher levels."""
    files = ("cog_levels_mapping_file.pkl", "cog_concepts_split_file.pkl")
    return LabelledImages(
        name=f"cog-{level}",
        source="ImageNet's Winter 2021 release, image-net.org, and the two files of github.com/naver/cog",
        licence="ImageNet's terms: non-commercial research",
        root="imagenet21k",
        splits={"train": files, "test": files},
        read=functools.partial(readers.cog, level=level),
        read_as=f"level {level} of 5",
        facts=Facts(
            counts={"train": COG_TRAIN[level], "test": 50_000},
            gigabytes=1100.7,
            classes=1000,
            files={"n07696728/": "the images of a concept"},
            known_from="naver/unic@02269db, by the same authors; size of all of ImageNet from naver/cog@5b34ca9",
        ),
    )


# Transfer to smaller data sets, after Kornblith et al. (arXiv 1805.08974): official validation splits choose
# hyper-parameters and are then trained on together with train; where there is none, a part of train is held out.

TRAIN_TEST: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_VAL_TEST = {**TRAIN_TEST, "val": {"split": "val"}}


def _torchvision(name: str, splits: Mapping[str, Mapping[str, Any]], above: int = 1) -> Any:
    return functools.partial(from_torchvision, name=name, splits=splits, above=above)


CUB = LabelledImages(
    name="cub",
    source="CUB-200-2011, vision.caltech.edu/datasets/cub_200_2011",
    licence="non-commercial research and education; the photographs are their owners'",
    root="CUB_200_2011",
    splits=dict.fromkeys(
        ("train", "test"), ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images")
    ),
    read=readers.cub,
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
    facts=Facts(counts={"train": 8_144, "test": 8_041}, gigabytes=1.95, classes=196, known_from="torchvision.datasets"),
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
        md5={"imagelabels.mat": "e0620be6f572b9609742df49c70aed4d", "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c"},
        known_from="torchvision.datasets",
    ),
)
PETS = LabelledImages(
    name="pets",
    source="Oxford-IIIT Pet, robots.ox.ac.uk/~vgg/data/pets",
    licence="CC BY-SA 4.0",
    root="oxford-iiit-pet",
    splits={"train": ("annotations/trainval.txt", "images"), "test": ("annotations/test.txt", "images")},
    classes=PET_CLASSES,
    read=readers.pets,
    read_as="37 breeds",
    facts=Facts(counts={"train": 3_680, "test": 3_669}, gigabytes=0.84, classes=37, known_from="the data set's README"),
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
        counts={"train": 75_750, "test": 25_250}, gigabytes=4.99, classes=101, known_from="torchvision.datasets"
    ),
)


def dtd(split: int) -> LabelledImages:
    """Return DTD with one of its ten official splits; Kornblith et al. use the first."""
    return LabelledImages(
        name="dtd" if split == 1 else f"dtd-{split}",
        source="Describable Textures r1.0.1, robots.ox.ac.uk/~vgg/data/dtd",
        licence="for research",
        root="dtd/dtd",
        splits={part: (f"labels/{part}{split}.txt", "images") for part in ("train", "val", "test")},
        validation="val",
        read=_torchvision("DTD", {p: {"split": p, "partition": split} for p in ("train", "val", "test")}, above=2),
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
    splits={"train": ("ClassName.txt", "Training_01.txt"), "test": ("ClassName.txt", "Testing_01.txt")},
    read=readers.sun397,
    read_as="partition 1 of 10",
    facts=Facts(
        counts={"train": 19_850, "test": 19_850},
        gigabytes=39.1,
        classes=397,
        files={"a/abbey/": "images", "Training_01.txt": "of the partitions, next to the images"},
        known_from="its partitions: 50 and 50 images a class; size from tensorflow/datasets, url_checksums/sun397.txt",
    ),
)
CALTECH = LabelledImages(
    name="caltech101",
    source="Caltech-101, data.caltech.edu/records/mzrjq-6wc02",
    licence="CC BY 4.0",
    root="caltech101",
    splits={"train": ("101_ObjectCategories",), "test": ("101_ObjectCategories",)},
    read=readers.caltech101,
    read_as="30 images a class, first by the SHA-256 of their path; the background is a class",
    facts=Facts(
        counts={"train": 3_060},
        gigabytes=0.13,
        classes=102,
        files={"101_ObjectCategories/accordion/image_0001.jpg": "an image in the folder of its class"},
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
    read=readers.voc2007,
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


# Each data set with its metrics and protocols, and the named groups.

TOP1 = (Metric(name="top1"), Metric(name="top5"), Metric(name="mean_class_accuracy"))
PER_CLASS = (Metric(name="mean_class_accuracy"), Metric(name="top1"), Metric(name="top5"))
SEVERAL = (Metric(name="mAP"),)

Row = tuple[LabelledImages, Sequence[Metric], Sequence[Protocol]]

OTHER_SPLITS = tuple((dtd(split), TOP1, protocols.SMALL) for split in range(2, 11))
K12: tuple[Row, ...] = tuple(
    (data, metrics, protocols.transferred(data.name, metrics[0].name, own))
    for data, metrics, own in (
        (FOOD, TOP1, protocols.LARGE),
        (CIFAR10, TOP1, protocols.LARGE),
        (CIFAR100, TOP1, protocols.LARGE),
        (CUB, TOP1, protocols.CUB),
        (SUN, TOP1, protocols.LARGE),
        (CARS, TOP1, protocols.SMALL),
        (AIRCRAFT, PER_CLASS, protocols.SMALL),
        (VOC, SEVERAL, protocols.MULTI_LABEL),
        (dtd(1), TOP1, protocols.SMALL),
        (PETS, PER_CLASS, protocols.SMALL),
        (CALTECH, PER_CLASS, protocols.SMALL),
        (FLOWERS, PER_CLASS, protocols.SMALL),
    )
)
TABLE: tuple[Row, ...] = (
    (IMAGENET, TOP1, protocols.IMAGENET),
    *K12,
    *OTHER_SPLITS,
    (INATURALIST, TOP1, protocols.INATURALIST),
    (PLACES, TOP1, protocols.PLACES),
    *((cog(level), TOP1, protocols.cog(level)) for level in range(1, 6)),
)
GROUPS = {
    "k12": Group(
        tasks=tuple(f"classification/{dataset.name}" for dataset, *_ in K12),
        about="the twelve data sets of Kornblith et al. (arXiv 1805.08974), with CUB-200-2011 in place of Birdsnap, "
        "which can no longer be had whole (as DINOv2 does, arXiv 2304.07193); report their mean",
    ),
    "cog": Group(
        tasks=tuple(f"classification/cog-{level}" for level in range(1, 6)),
        about="the five levels of ImageNet-CoG (arXiv 2012.05649)",
    ),
    "dtd-splits": Group(
        tasks=("classification/dtd", *(f"classification/dtd-{split}" for split in range(2, 11))),
        about="the ten official splits of DTD; its page asks for their mean",
    ),
}
