"""Detection's plain values: layouts, data sets and protocols. Imports no torch."""

import dataclasses

from adapters.openmmlab.config import HeadProtocol
from bench.datasets.dataset import Dataset, Facts

METRICS = ("bbox_AP", "mask_AP", "bbox_AP50", "mask_AP50")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images and annotations of a data set in COCO's format are; `{split}` stands for `train` or `val`."""

    images: str
    annotations: str

    def paths(self, split: str) -> tuple[str, ...]:
        """Return the annotations and the images of "train" or "val"."""
        return (self.annotations.format(split=split), self.images.format(split=split))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionProtocol(HeadProtocol):
    """Mask R-CNN under AdamW: linear warm-up, then x0.1 at 8/9 and again at 26/27 of the epochs.

    Args:
        img_size: side in pixels of the square training crop; at test time the long side is resized to it.
        window_size: of a plain ViT's attention, in patches, in all but four global blocks; 0: all global.
        ratio_range: the long side is resized to img_size times a number drawn from it (large-scale jitter).
        channels: of pyramid and heads; the box head's hidden layer has four times as many.
        head_convs: convolutions in the box head and in the mask head.
        anchor_scale: side of an anchor, in strides of its level.
        proposals: how many the RPN passes on per image, and per level before suppression
            (twice as many in training).
        rois: how many of them the heads train on, a quarter of them positive.
    """

    warmup_epochs: float
    ratio_range: tuple[float, float] = (0.1, 2.0)
    window_size: int = 0
    channels: int = 256
    head_convs: int = 4
    anchor_scale: float = 8.0
    proposals: int = 1000
    rois: int = 512


SCENES_LAYOUT = Layout(images="images/{split}", annotations="annotations/instances_{split}.json")
COCO_LAYOUT = Layout(images="{split}2017", annotations="annotations/instances_{split}2017.json")
COCO = Dataset(
    name="coco",
    source="https://cocodataset.org (2017)",
    licence="annotations CC BY 4.0, images Flickr terms",
    root="coco",
    splits={split: COCO_LAYOUT.paths(split) for split in ("train", "val")},
    facts=Facts(
        counts={"train": 118_287, "val": 5_000},
        classes=80,
        gigabytes=19.2,
        files={"train2017/000000000009.jpg": "an image", "val2017/000000000139.jpg": "an image"},
        known_from="cocodataset.org",
    ),
)

VITDET = (
    "Mask R-CNN as in ViTDet (arXiv 2203.16527; detectron2 projects/ViTDet, 1024x1024, large-scale jitter 0.1-2, "
    "simple feature pyramid, LN in the heads, 2-conv RPN, 4conv1fc). Differs: on mmdetection; the ViT's last map is "
    "normalised, biases have no weight decay, bf16 for fp16 on CUDA, test images are not padded to a square; "
    "hierarchical backbones have an FPN with LN"
)
COMMAND = (
    "python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth --task detection/coco "
    "--data-root DIR --gpus 8"
)
COCO_FINETUNE = DetectionProtocol(
    name="finetune",
    frozen=False,
    source=f"{VITDET}.",
    expected="MAE ViT-B/16: box AP 51.6, mask AP 45.9 (detectron2's release; 51.2 and 45.5 in the paper, "
    "where scratch has 48.1 and 42.6)",
    command=COMMAND,
    epochs=100,
    batch_size=64,
    img_size=1024,
    lr=1e-4,
    weight_decay=0.1,
    layer_decay=0.7,
    drop_path=0.1,
    warmup_epochs=0.135,  # 250 iterations
    window_size=14,
)
COCO_FROZEN = dataclasses.replace(
    COCO_FINETUNE,
    name="frozen",
    frozen=True,
    source=f"{VITDET}; the backbone keeps its weights (so its relative positions stay zero), and "
    "has neither drop path nor layer decay.",
    expected="none published",
    command=f"{COMMAND} --protocol frozen",
    layer_decay=None,
    drop_path=0.0,
)

SMALL_SIZE = {
    **{"epochs": 15, "batch_size": 2, "warmup_epochs": 1.0, "weight_decay": 0.05},
    **{"img_size": 224, "ratio_range": (0.5, 1.5), "window_size": 0},
    **{"channels": 64, "head_convs": 1, "anchor_scale": 4.0, "proposals": 200, "rois": 128},
}
SMALL_WHY = "a CPU and some tens of photographs"
COCO_FINETUNE_SMALL = COCO_FINETUNE.scaled(SMALL_WHY, name="finetune-small", lr=5e-4, **SMALL_SIZE)
COCO_FROZEN_SMALL = COCO_FROZEN.scaled(SMALL_WHY, name="frozen-small", lr=1e-3, **SMALL_SIZE)

SCENES_SIZE = {
    **SMALL_SIZE,
    **{"limit": 200, "epochs": 3, "warmup_epochs": 0.2, "test_batch_size": 8},
    **{"img_size": 128, "ratio_range": (0.8, 1.25), "channels": 48, "proposals": 64, "rois": 48},
}
SCENES_WHY = "half a minute on two cores"
SCENES_FINETUNE = COCO_FINETUNE.scaled(SCENES_WHY, lr=1e-3, layer_decay=None, drop_path=0.0, **SCENES_SIZE)
SCENES_FROZEN = COCO_FROZEN.scaled(SCENES_WHY, lr=1e-3, **SCENES_SIZE)
