"""Image classification: a linear head or nearest neighbours on frozen features, or fine-tuning.

    python -m bench.run --backbone test_vit --task classification
    python -m bench.run --backbone BACKBONE --task classification/folder --data-root DIR
    python -m bench.run --backbone BACKBONE --task k12 --protocol frozen --data-root DIR

All protocols use timm's classifier interface:
- `frozen`, `frozen-knn` and `frozen-few-shot-<k>` use the pooled output before the classifier (`num_classes=0`, the
  architecture's own pooling), extracted once and shared through the feature cache (`probe`);
- `finetune` trains the model with a new classifier, `frozen-linear-probe` a linear layer on augmented images (`train`).

The real data sets are the entries of `adapters.classification.image_sets`. Expected at full scale: MAE ViT-B/16,
1600 epochs, on ImageNet-1k: top1 83.5 fine-tuned, 67.1 frozen (mmpretrain's numbers).
"""

import dataclasses
import functools
from pathlib import Path

from adapters.classification.config import upstream
from adapters.classification.image_sets import entries
from adapters.classification.image_sets.protocols import (
    FINETUNE_SOURCE,
    FROZEN_SOURCE,
    FULL_FINETUNE,
    FULL_FROZEN,
    FULL_KNN,
    KNN_SOURCE,
)
from adapters.classification.protocol import FewShot, Finetune, Frozen, Knn, LinearProbe
from bench.datasets.dataset import Dataset, EmbeddedWorld, Facts, Items
from bench.tasks import UNPUBLISHED, Job, Outcome, Task

SHORT = " Shortened for two CPU cores: {epochs} epochs of batches of {batch_size} at {img_size} px, {also}."


def _short(protocol: Finetune, also: str) -> Finetune:
    """Add to a shortened recipe what differs from MAE's and what is published at full scale."""
    return dataclasses.replace(
        protocol,
        source=FINETUNE_SOURCE + SHORT.format(also=also, **dataclasses.asdict(protocol)),
        expected=f"{UNPUBLISHED}; at full scale {FULL_FINETUNE.expected}",
        command=FULL_FINETUNE.command,
    )


SMALL_FROZEN = Frozen(
    name="frozen",
    source=FROZEN_SOURCE + " At 128 px, uncropped: the images are that small.",
    expected=f"{UNPUBLISHED}; at full scale {FULL_FROZEN.expected}",
    command=FULL_FROZEN.command,
    img_size=128,
    crop_pct=1.0,
)
SMALL_KNN = Knn(
    name="frozen-knn",
    source=KNN_SOURCE + " At 128 px, uncropped: the images are that small.",
    expected=f"{UNPUBLISHED}; at full scale {FULL_KNN.expected}",
    command=FULL_KNN.command,
    img_size=128,
    crop_pct=1.0,
)
SMALL_FINETUNE = _short(
    Finetune(
        name="finetune",
        source="",
        epochs=8,
        batch_size=32,
        img_size=64,
        crop_pct=1.0,
        blr=16e-3,
        layer_decay=1.0,
        drop_path=0.0,
        warmup_epochs=2,
        smoothing=0.0,
        randaug="",
        reprob=0.0,
        mixup=0.0,
        cutmix=0.0,
        scale_min=0.6,
    ),
    also="a higher blr for so few steps, and none of what slows learning from scratch: no layer decay, drop path, "
    "smoothing, RandAugment, erasing, mixup or cutmix, and wide crops",
)
TINY_FINETUNE = _short(
    Finetune(
        name="finetune",
        source="",
        epochs=8,
        batch_size=32,
        img_size=96,
        crop_pct=1.0,
        blr=4e-3,
        warmup_epochs=1,
        randaug="rand-m5-mstd0.5-inc1",
        reprob=0.0,
        mixup=0.2,
        cutmix=0.2,
        scale_min=0.35,
    ),
    also="a higher blr for so few steps, weaker augmentation, no erasing",
)

SCENES = EmbeddedWorld()
FOLDER = Dataset(
    name="folder",
    source="you: any image folders",
    licence="that of the images",
    root=".",
    splits={"train": ("train",), "val": ("val",)},
)
TINY_IMAGENET = Dataset(
    name="tiny-imagenet",
    source="tiny-imagenet-200.zip of Stanford's course CS231n",
    licence="ImageNet's terms: non-commercial research",
    root="tiny-imagenet-200",
    splits={"train": ("train",), "val": ("val",)},
    facts=Facts(
        counts={"train": 100_000, "val": 10_000},
        classes=200,
        gigabytes=0.248,
        known_from="huggingface.co/datasets/zh-plus/tiny-imagenet; size from a public log of its download (248,100,043 "
        "bytes)",
    ),
)


def evaluate(job: Job) -> Outcome:
    """Train and test by the job's protocol; raises UserError for images that cannot be used."""
    scenes = isinstance(job.task.dataset, EmbeddedWorld)
    folder = job.data / "species" if scenes else job.data
    if isinstance(job.protocol, Frozen | Knn):
        from adapters.classification import probe

        outcome = probe.knn_outcome if isinstance(job.protocol, Knn) else probe.linear_head_outcome
        return outcome(job, folder)
    from adapters.classification import train

    return train.evaluate(job, folder, upstream(job.task, job.protocol))


def items(folder: Path, split: str, dataset: Dataset) -> Items:
    """Return the images of a split with their classes; raises UserError for lists that cannot be used."""
    from adapters.classification import data

    return data.items(folder, split, dataset)


TASKS = tuple(
    Task(
        name=f"classification/{dataset.name}",
        version=1,
        dataset=dataset,
        protocols=tuple(protocols),
        metrics=tuple(metrics),
        upstream=upstream,
        evaluate=evaluate,
        items=functools.partial(items, dataset=dataset),
        imports=("adapters.classification.probe", "adapters.classification.train"),
    )
    for dataset, metrics, protocols in (
        (SCENES, entries.TOP1, (SMALL_FINETUNE, SMALL_FROZEN, SMALL_KNN)),
        (FOLDER, entries.TOP1, (FULL_FINETUNE, FULL_FROZEN, FULL_KNN)),
        (TINY_IMAGENET, entries.TOP1, (TINY_FINETUNE, SMALL_FROZEN, SMALL_KNN)),
        *entries.TABLE,
    )
)
GROUPS = entries.GROUPS

__all__ = ["GROUPS", "TASKS", "FewShot", "Finetune", "Frozen", "Knn", "LinearProbe"]
