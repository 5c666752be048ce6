"""The data sets of a hundred thousand images and more: where their files lie, what their authors say that they hold."""

import functools

from adapters.image_sets import folders, lists
from adapters.image_sets.from_torchvision import from_torchvision
from adapters.image_sets.listed import RESEARCH, LabelledImages
from bench.datasets.facts import Facts

IMAGENET = LabelledImages(
    name="imagenet",
    source="ILSVRC 2012, image-net.org, after its terms are agreed to",
    licence="ImageNet's terms: non-commercial research",
    root="imagenet",
    splits={"train": ("train",), "val": ("val",)},
    reported_on="val",
    read=folders.imagenet,
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
    splits={
        "train": ("train2018.json", "train_val2018"),
        "val": ("val2018.json", "train_val2018"),
    },
    reported_on="val",
    read=lists.inaturalist2018,
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
        splits={
            "train": {"split": "train-standard", "small": True},
            "val": {"split": "val", "small": True},
        },
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
    """A level of ImageNet-CoG: 1,000 concepts of ImageNet-21k, further from ImageNet-1k's the higher it is."""
    files = ("cog_levels_mapping_file.pkl", "cog_concepts_split_file.pkl")
    return LabelledImages(
        name=f"cog-{level}",
        source="ImageNet's Winter 2021 release, image-net.org, and the two files of github.com/naver/cog",
        licence="ImageNet's terms: non-commercial research",
        root="imagenet21k",
        splits={"train": files, "test": files},
        read=functools.partial(lists.cog, level=level),
        read_as=f"level {level} of 5",
        facts=Facts(
            counts={"train": COG_TRAIN[level], "test": 50_000},
            gigabytes=1100.7,
            classes=1000,
            files={"n07696728/": "the images of a concept"},
            known_from="naver/unic@02269db, by the same authors; size of all of ImageNet from naver/cog@5b34ca9",
        ),
    )
