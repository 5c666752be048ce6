"""Detection and instance segmentation with mmdetection: Mask R-CNN, fine-tuned or on a frozen backbone.

    python -m bench.run --backbone test_vit --task detection
    python -m bench.run --backbone arch@weights --task detection/coco --data-root DIR

Above a plain ViT stands ViTDet's simple feature pyramid, with window attention and a few global
blocks where the protocol has a window_size; above a hierarchical backbone an FPN; the heads are the
same. Reported are box and mask AP, AP50, AP75, AP by size and every class's AP on val, of the last
epoch; the record keeps the loss curves of rpn, cls, bbox and mask. Expected at full scale
(`detection/coco`): MAE ViT-B/16, box AP 51.6, mask AP 45.9.
"""

import dataclasses
import functools
from pathlib import Path

from adapters.detection import protocol
from adapters.detection.config import upstream
from adapters.detection.protocol import DetectionProtocol, Layout
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.datasets.items import Items
from bench.tasks import Job, Metric, Outcome, Task

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
    "epochs": 15,
    "batch_size": 2,
    "img_size": 224,
    "ratio_range": (0.5, 1.5),
    "window_size": 0,
    "channels": 64,
    "head_convs": 1,
    "anchor_scale": 4.0,
    "proposals": 200,
    "rois": 128,
    "warmup_epochs": 1.0,
    "weight_decay": 0.05,
}
SMALL_WHY = "a CPU and some tens of photographs"
COCO_FINETUNE_SMALL = COCO_FINETUNE.scaled(SMALL_WHY, name="finetune-small", lr=5e-4, **SMALL_SIZE)
COCO_FROZEN_SMALL = COCO_FROZEN.scaled(SMALL_WHY, name="frozen-small", lr=1e-3, **SMALL_SIZE)

SCENES_SIZE = SMALL_SIZE | {
    "limit": 200,
    "epochs": 3,
    "img_size": 128,
    "ratio_range": (0.8, 1.25),
    "channels": 48,
    "proposals": 64,
    "rois": 48,
    "warmup_epochs": 0.2,
    "test_batch_size": 8,
}
SCENES_WHY = "half a minute on two cores"
SCENES_FINETUNE = COCO_FINETUNE.scaled(SCENES_WHY, lr=1e-3, layer_decay=None, drop_path=0.0, **SCENES_SIZE)
SCENES_FROZEN = COCO_FROZEN.scaled(SCENES_WHY, lr=1e-3, **SCENES_SIZE)


def task(dataset: Dataset, layout: Layout, protocols: tuple[DetectionProtocol, ...], version: int = 1) -> Task:
    """Make `detection/<dataset>`; the way to add a data set of one's own."""
    return Task(
        name=f"detection/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=f"{kind}_{name}") for name in ("AP", "AP50") for kind in ("bbox", "mask")),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.detection.train",),
        items=functools.partial(items, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test on val; raises UserError for annotations that cannot be used."""
    from adapters.detection import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items:
    """What a split holds, to be checked and looked at."""
    from adapters.openmmlab import coco

    annotations, images = layout.paths(split)
    return coco.items(folder / annotations, folder / images)


SCENES_LAYOUT = Layout(images="images/{split}", annotations="annotations/instances_{split}.json")
COCO_LAYOUT = Layout(images="{split}2017", annotations="annotations/instances_{split}2017.json")
COCO = Dataset(
    name="coco",
    source="https://cocodataset.org (2017)",
    licence="annotations CC BY 4.0, images Flickr terms",
    root="coco",
    splits={split: COCO_LAYOUT.paths(split) for split in ("train", "val")},
    facts=protocol.COCO_FACTS,
)

TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (COCO_FINETUNE, COCO_FROZEN, COCO_FINETUNE_SMALL, COCO_FROZEN_SMALL)),
)
