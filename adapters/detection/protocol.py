"""Plain values of detection: layouts of data sets and protocols. Imports no torch."""

import dataclasses

from bench.datasets.dataset import Facts
from bench.tasks import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set in COCO's format keeps things; `{split}` stands for `train` or `val`."""

    images: str
    annotations: str

    def paths(self, split: str) -> tuple[str, ...]:
        """What must exist for "train" or "val"."""
        return (self.annotations.format(split=split), self.images.format(split=split))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionProtocol(Protocol):
    """Mask R-CNN under AdamW: linear warm-up, then x0.1 at 8/9 and again at 26/27 of the epochs.

    Args:
        img_size: side of the square training crop; at test the long side becomes it.
        layer_decay: factor of the learning rate from each layer to the one before it.
        window_size: of a plain ViT's attention, in patches, but for four global blocks; 0: all global.
        ratio_range: the long side is resized to img_size times a number drawn from it (large-scale jitter).
        channels: of pyramid and heads; the box head's hidden layer has four times as many.
        head_convs: convolutions in the box head and in the mask head.
        anchor_scale: side of an anchor, in strides of its level.
        proposals: how many the RPN hands on of an image, and of each level before suppression
            (twice as many in training).
        rois: how many of them the heads train on, a quarter of them positive.
    """

    lr: float
    weight_decay: float
    layer_decay: float | None = None
    drop_path: float = 0.0
    warmup_epochs: float
    ratio_range: tuple[float, float] = (0.1, 2.0)
    window_size: int = 0
    channels: int = 256
    head_convs: int = 4
    anchor_scale: float = 8.0
    proposals: int = 1000
    rois: int = 512
    test_batch_size: int = 1


COCO_FACTS = Facts(
    counts={"train": 118_287, "val": 5_000},
    classes=80,
    gigabytes=19.2,
    files={"train2017/000000000009.jpg": "an image", "val2017/000000000139.jpg": "an image"},
    known_from="cocodataset.org",
)
