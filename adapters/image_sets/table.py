"""Every real data set of classification with its metrics and protocols, and the groups that have a name."""

from collections.abc import Sequence

from adapters.image_sets import large, protocols, transfer
from adapters.image_sets.listed import LabelledImages
from bench.families import Group
from bench.tasks import Metric, Protocol

TOP1 = (Metric(name="top1"), Metric(name="top5"), Metric(name="mean_class_accuracy"))
PER_CLASS = (Metric(name="mean_class_accuracy"), Metric(name="top1"), Metric(name="top5"))
SEVERAL = (Metric(name="mAP"),)

Row = tuple[LabelledImages, Sequence[Metric], Sequence[Protocol]]

OTHER_SPLITS = tuple((transfer.dtd(split), TOP1, protocols.SMALL) for split in range(2, 11))
K12: tuple[Row, ...] = tuple(
    (data, metrics, protocols.transferred(data.name, metrics[0].name, own))
    for data, metrics, own in (
        (transfer.FOOD, TOP1, protocols.LARGE),
        (transfer.CIFAR10, TOP1, protocols.LARGE),
        (transfer.CIFAR100, TOP1, protocols.LARGE),
        (transfer.CUB, TOP1, protocols.CUB),
        (transfer.SUN, TOP1, protocols.LARGE),
        (transfer.CARS, TOP1, protocols.SMALL),
        (transfer.AIRCRAFT, PER_CLASS, protocols.SMALL),
        (transfer.VOC, SEVERAL, protocols.MULTI_LABEL),
        (transfer.dtd(1), TOP1, protocols.SMALL),
        (transfer.PETS, PER_CLASS, protocols.SMALL),
        (transfer.CALTECH, PER_CLASS, protocols.SMALL),
        (transfer.FLOWERS, PER_CLASS, protocols.SMALL),
    )
)
TABLE: tuple[Row, ...] = (
    (large.IMAGENET, TOP1, protocols.IMAGENET),
    *K12,
    *OTHER_SPLITS,
    (large.INATURALIST, TOP1, protocols.INATURALIST),
    (large.PLACES, TOP1, protocols.PLACES),
    *((large.cog(level), TOP1, protocols.cog(level)) for level in range(1, 6)),
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
