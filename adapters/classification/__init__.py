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

import functools
from pathlib import Path

from adapters.classification.config import upstream
from adapters.classification.image_sets import entries
from adapters.classification.protocol import (
    FOLDER,
    FULL_FINETUNE,
    FULL_FROZEN,
    FULL_KNN,
    SMALL_FINETUNE,
    SMALL_FROZEN,
    SMALL_KNN,
    TINY_FINETUNE,
    TINY_IMAGENET,
    FewShot,
    Finetune,
    Frozen,
    Knn,
    LinearProbe,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Outcome, Task

SCENES = EmbeddedWorld()


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
