"""The frozen protocol of classification: features once, a grid of linear heads, one number."""

import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.openmmlab import images, linear_head
from adapters.openmmlab.accuracy import accuracies
from bench.backbones import build, normalisation
from bench.errors import UserError
from bench.features import Features, extract
from bench.tasks import Job, Outcome, Selection

POOLING = "timm num_classes=0"  # the architecture's own, with the norm that follows it, if any


def evaluate(job: Job, folder: Path) -> Outcome:
    """Run the job's protocol (`adapters.classification.Frozen`) on `folder`'s train and val."""
    if job.world_size > 1:
        raise UserError(
            "Features are extracted, and a linear head trained on them, by one GPU. Leave --gpus away."
        )
    train, val = images.splits(folder, limit=job.protocol.limit)
    size = images.size_argument(job.backbone.arch, job.protocol.img_size)
    torch.manual_seed(job.seed)
    model, report = build(job.backbone.arch, weights=job.backbone.weights, num_classes=0, **size)
    seen = _features(job, model, "train", train)
    started = time.perf_counter()
    trials, heads = _head(job, seen, len(train.classes))
    trained = time.perf_counter()
    unseen = _features(job, model, "val", val)
    metrics = accuracies(heads.logits(unseen.features)[:, 0].cpu(), unseen.labels)
    return Outcome(
        metrics=metrics,
        load_report=report,
        selection=Selection(
            selected_on=f"train ({100 / job.protocol.held_out_one_in:.0f} % held out)",
            reported_on="val",
            trials=trials,
        ),
        train_seconds=seen.seconds + trained - started,
        eval_seconds=time.perf_counter() - trained,
        images_per_second=seen.images_per_second,
    )


def _features(job: Job, model: nn.Module, name: str, split: images.Split) -> Features:
    """The features of a split; the key holds whatever decides them, and neither task nor path."""
    protocol, backbone = job.protocol, job.backbone
    transform = {"img_size": protocol.img_size, "crop_pct": protocol.crop_pct}
    mean, std = normalisation(backbone)
    key = {
        "arch": backbone.arch,
        "weights": backbone.sha256 or f"scratch, seed {job.seed}",
        "data": job.task.dataset.fingerprint(job.data),
        "split": name,
        "limit": protocol.limit,
        "transform": {**transform, "mean": mean, "std": std, "version": images.EVAL_VERSION},
        "pooling": POOLING,
    }
    return extract(
        model,
        images.Images(split, images.eval_transform(backbone, **transform)),
        key=key,
        cache=job.cache,
        device=job.device,
        num_workers=job.num_workers,
    )


def _head(
    job: Job, seen: Features, classes: int
) -> tuple[list[dict[str, float]], linear_head.Heads]:
    """Choose on a part of train, then train on all of it: the trials, best first, and the head."""
    protocol = job.protocol
    data: dict[str, Tensor] = {
        "features": seen.features.to(job.device),
        "labels": seen.labels.to(job.device),
    }
    how: dict[str, Any] = {
        "classes": classes,
        "schedule": linear_head.Schedule(
            epochs=protocol.epochs, batch_size=protocol.batch_size, momentum=protocol.momentum
        ),
    }
    trials = linear_head.search(
        **data,
        **how,
        grid=list(product(protocol.lrs, protocol.weight_decays)),
        one_in=protocol.held_out_one_in,
        seed=protocol.selection_seed,
    )
    chosen = [(trials[0]["lr"], trials[0]["weight_decay"])]
    heads = linear_head.fit(**data, **how, grid=chosen, seed=job.seed, title="linear head")
    return trials, heads
