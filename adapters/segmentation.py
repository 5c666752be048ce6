"""Semantic segmentation with mmsegmentation: UPerNet fine-tuned, or a linear head on frozen maps.

    python -m bench.run --backbone test_vit --task segmentation
    python -m bench.run --backbone arch@weights --task segmentation/voc --data-root DIR

A plain ViT's four maps become a pyramid first (x4, x2, x1, x0.5, as in MAE); the four stages of a
hierarchical backbone are one already. Reported are mIoU, mAcc, aAcc and every class's IoU on val,
of the last epoch. Expected at full scale (`segmentation/ade20k`): MAE ViT-B/16, 1600 epochs, 48.1 mIoU.
"""

import dataclasses
import functools
from typing import Any

from bench.datasets import Dataset, EmbeddedWorld
from bench.tasks import Job, Metric, Outcome, Protocol, Task

IGNORED = 255  # a pixel of no class, in every mask


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


UPERNET = "UPerNet with MAE's feature pyramid (arXiv 2111.06377, A.4; mmsegmentation mae-base_upernet 160k, 512x512)"
LINEAR = "linear head of DINOv2 (arXiv 2304.07193, section 7.4): BatchNorm and a 1x1 convolution"
MAPS = "on the four maps together, resized to the finest"

ADE_FINETUNE = SegmentationProtocol(
    name="finetune",
    frozen=False,
    source=f"{UPERNET}. Differs: 127 epochs of 20,210 images for 160,000 iterations; bf16, and only on CUDA; ignored "
    "pixels do not count in the loss's mean.",
    expected="MAE ViT-B/16, 1600 epochs: mIoU 48.1 (MAE, table 5; mmsegmentation 48.13)",
    epochs=127,
    batch_size=16,
    img_size=512,
    stride=341,
    lr=1e-4,
    weight_decay=0.05,
    layer_decay=0.65,
    drop_path=0.1,
    warmup_epochs=1.19,  # 1,500 iterations
    channels=768,
)
ADE_FROZEN = SegmentationProtocol(
    name="frozen",
    frozen=True,
    source=f"The {LINEAR}, {MAPS} (DINOv2's plain head takes the last one); 40,000 iterations of 16.",
    epochs=32,
    batch_size=16,
    img_size=512,
    stride=341,
    lr=1e-3,
    weight_decay=1e-4,
    warmup_epochs=1.19,
)
VOC_FINETUNE = dataclasses.replace(
    ADE_FINETUNE,
    source=f"{UPERNET}, scaled down for a few hundred images on CPU: 60 epochs of batches of 8 at 224 px, lr 5e-4, "
    "layer decay 0.8, 128 channels.",
    expected="none published at this scale",
    epochs=60,
    batch_size=8,
    img_size=224,
    stride=149,
    lr=5e-4,
    layer_decay=0.8,
    warmup_epochs=3.0,
    channels=128,
)
VOC_FROZEN = dataclasses.replace(
    ADE_FROZEN,
    source=f"The {LINEAR}, {MAPS}; scaled down: 60 epochs of batches of 8 at 224 px.",
    epochs=60,
    batch_size=8,
    img_size=224,
    stride=149,
    warmup_epochs=3.0,
)
SCENES = {"limit": 1000, "batch_size": 16, "img_size": 128, "stride": 0, "test_batch_size": 16}
SCENES_FINETUNE = dataclasses.replace(
    ADE_FINETUNE,
    source=f"{UPERNET}, scaled down to a minute on two cores: 2 epochs of the first 1,000 scenes, batches of 16 at "
    "128 px, seen whole; lr 1e-3, layer decay 0.8, 64 channels.",
    expected="none: our own data",
    epochs=2,
    lr=1e-3,
    layer_decay=0.8,
    warmup_epochs=0.2,
    channels=64,
    **SCENES,
)
SCENES_FROZEN = dataclasses.replace(
    ADE_FROZEN,
    source=f"The {LINEAR}, {MAPS}; scaled down: 3 epochs of the first 1,000 scenes, batches of 16 at 128 px, seen whole.",
    expected="none: our own data",
    epochs=3,
    lr=3e-3,
    warmup_epochs=0.2,
    **SCENES,
)


def task(
    dataset: Dataset, layout: Layout, protocols: tuple[SegmentationProtocol, ...], version: int = 1
) -> Task:
    """Make `segmentation/<dataset>`; the way to add a data set of one's own."""
    return Task(
        name=f"segmentation/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=(Metric(name="mIoU"), Metric(name="mAcc"), Metric(name="aAcc")),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test on val; raises UserError for an image or mask that cannot be used."""
    from adapters.openmmlab import segmentors

    return segmentors.evaluate(job, layout)


def upstream(task: Task, protocol: SegmentationProtocol, layout: Layout) -> dict[str, Any]:
    """The mmsegmentation config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    warm = min(p.warmup_epochs, p.epochs / 2)
    return {
        "default_scope": "mmseg",
        "model": _model(p),
        "train_dataloader": {
            "batch_size": p.batch_size,
            "dataset": _dataset(layout, p, "train", _train_pipeline(p)),
        },
        "test_dataloader": {
            "batch_size": p.test_batch_size,
            "dataset": _dataset(layout, p, "val", _test_pipeline(p)),
        },
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": p.lr, "weight_decay": p.weight_decay},
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": p.layer_decay},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 1e-6, "begin": 0, "end": warm},
            {"type": "PolyLR", "eta_min": 0.0, "power": 1.0, "begin": warm, "end": p.epochs},
        ],
        "test_evaluator": {"type": "ClassIoUMetric"},
    }


def _model(p: SegmentationProtocol) -> dict[str, Any]:
    crop = (p.img_size, p.img_size)  # mmsegmentation insists on tuples
    window = {"mode": "slide", "crop_size": crop, "stride": (p.stride, p.stride)}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": IGNORED,
            "size": crop,
        },
        "backbone": {
            "type": "TimmBackbone",
            "img_size": p.img_size,
            "drop_path_rate": p.drop_path,
            "frozen": p.frozen,
        },
        **(_upernet(p) if p.channels else {"decode_head": _head("LinearHead", 1.0)}),
        "test_cfg": window if p.stride else {"mode": "whole"},
    }


def _upernet(p: SegmentationProtocol) -> dict[str, Any]:
    """The neck is for plain backbones; the auxiliary head looks at the third map."""
    norm = {"type": "BN"}
    common = {"dropout_ratio": 0.1, "norm_cfg": norm}
    decode = {"channels": p.channels, "in_index": (0, 1, 2, 3), "pool_scales": (1, 2, 3, 6)}
    auxiliary = {"channels": max(p.channels // 3, 32), "in_index": 2, "num_convs": 1}
    return {
        "neck": {"type": "Feature2Pyramid", "rescales": (4, 2, 1, 0.5), "norm_cfg": norm},
        "decode_head": _head("UPerHead", 1.0) | common | decode,
        "auxiliary_head": _head("FCNHead", 0.4) | common | auxiliary | {"concat_input": False},
    }


def _head(kind: str, weight: float) -> dict[str, Any]:
    loss = {"type": "CrossEntropyLoss", "loss_weight": weight, "avg_non_ignore": True}
    return {"type": kind, "align_corners": False, "ignore_index": IGNORED, "loss_decode": loss}


def _dataset(
    layout: Layout, p: SegmentationProtocol, split: str, pipeline: list[dict[str, Any]]
) -> dict[str, Any]:
    name = getattr(layout, split)
    return {
        "type": layout.upstream,
        "ann_file": layout.listing.format(split=name),
        "data_prefix": {
            "img_path": layout.images.format(split=name),
            "seg_map_path": layout.masks.format(split=name),
        },
        "img_suffix": layout.image_suffix,
        "seg_map_suffix": layout.mask_suffix,
        "reduce_zero_label": layout.reduce_zero_label,
        "indices": p.limit,
        "pipeline": pipeline,
    }


def _train_pipeline(p: SegmentationProtocol) -> list[dict[str, Any]]:
    return [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {**_resize(p), "type": "RandomResize", "ratio_range": p.ratio_range},
        {"type": "RandomCrop", "crop_size": (p.img_size, p.img_size), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]


def _test_pipeline(p: SegmentationProtocol) -> list[dict[str, Any]]:
    """The mask is loaded after the resize: predictions are compared at the image's own size."""
    return [
        {"type": "LoadImageFromFile"},
        _resize(p),
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]


def _resize(p: SegmentationProtocol) -> dict[str, Any]:
    """The short side becomes img_size, unless the long side would exceed four times that."""
    return {"type": "Resize", "scale": (4 * p.img_size, p.img_size), "keep_ratio": True}


SCENES_LAYOUT = Layout(
    classes="semantic/classes.json",
    images="images/{split}",
    masks="semantic/{split}",
    image_suffix=".png",
)
VOC_LAYOUT = Layout(
    upstream="PascalVOCDataset",
    images="JPEGImages",
    masks="SegmentationClass",
    listing="ImageSets/Segmentation/{split}.txt",
    image_suffix=".jpg",
)
ADE_LAYOUT = Layout(
    upstream="ADE20KDataset",
    images="images/{split}",
    masks="annotations/{split}",
    image_suffix=".jpg",
    reduce_zero_label=True,
    train="training",
    val="validation",
)
VOC = Dataset(
    name="voc",
    source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    licence="Flickr terms, research",
    root="VOCdevkit/VOC2012",
    splits={split: VOC_LAYOUT.paths(split) for split in ("train", "val")},
)
ADE20K = Dataset(
    name="ade20k",
    source="http://sceneparsing.csail.mit.edu",
    licence="research",
    root="ADEChallengeData2016",
    splits={split: ADE_LAYOUT.paths(split) for split in ("train", "val")},
)

TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(VOC, VOC_LAYOUT, (VOC_FINETUNE, VOC_FROZEN)),
    task(ADE20K, ADE_LAYOUT, (ADE_FINETUNE, ADE_FROZEN)),
)
