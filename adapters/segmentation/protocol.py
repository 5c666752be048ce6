"""Plain values of semantic segmentation: layouts of data sets and protocols. Imports no torch."""

import dataclasses

from bench.datasets.dataset import Facts
from bench.tasks import Protocol

ADE20K_FACTS = Facts(
    counts={"train": 20_210, "val": 2_000},
    classes=150,
    gigabytes=0.97,
    files={
        "images/training/ADE_train_00000001.jpg": "an image",
        "annotations/training/ADE_train_00000001.png": "its mask: 0 for no class, class k as k + 1",
    },
    known_from="CSAILVision/sceneparsing, the challenge of 2016; the size from a public log of the download of "
    "ADEChallengeData2016.zip (967,382,037 bytes)",
)
VOC2012_FACTS = Facts(
    counts={"train": 1_464, "val": 1_449},
    classes=21,
    gigabytes=2.0,
    files={
        "JPEGImages/2007_000032.jpg": "an image",
        "SegmentationClass/2007_000032.png": "its mask: 0 is the background, 255 no class",
    },
    known_from="the challenge's development kit of 2012; size from tensorflow/datasets, url_checksums/voc.txt",
)
CITYSCAPES_FACTS = Facts(
    counts={"train": 2_975, "val": 500},
    classes=19,
    gigabytes=11.2,
    files={
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": "an image of 2048x1024",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png": "its mask, 255: no class",
    },
    known_from="arXiv 1604.01685, Section 2",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set keeps images and masks; `{split}` stands for `train` or `val`'s own name.

    Args:
        upstream: mmsegmentation's data set class; names the classes unless `classes` does.
        classes: JSON file with the key "classes".
        listing: text file with one name without suffix a line; "" to take the whole folder.
        reduce_zero_label: 0 means no class, and class k is stored as k + 1.
    """

    upstream: str = "BaseSegDataset"
    classes: str = ""
    images: str
    masks: str
    listing: str = ""
    image_suffix: str
    mask_suffix: str = ".png"
    reduce_zero_label: bool = False
    train: str = "train"
    val: str = "val"

    def paths(self, split: str) -> tuple[str, ...]:
        """What must exist for "train" or "val"."""
        name = getattr(self, split)
        paths = (self.listing, self.images, self.masks, self.classes)
        return tuple(p.format(split=name) for p in paths if p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(Protocol):
    """AdamW, linear warm-up, then a polynomial of power 1 to zero, by iteration.

    Args:
        img_size: side of the square training crop, and of the window that slides at test time.
        stride: of that window; 0 to see the whole image at once.
        channels: width of UPerNet's head; 0 for the linear head.
        layer_decay: factor of the learning rate from each layer to the one before it.
        ratio_range: the short side is resized to img_size times a number drawn from it.
        test_batch_size: above 1 only where all images have one size.
    """

    lr: float
    weight_decay: float
    layer_decay: float | None = None
    drop_path: float = 0.0
    warmup_epochs: float
    channels: int = 0
    ratio_range: tuple[float, float] = (0.5, 2.0)
    stride: int = 0
    test_batch_size: int = 1
