"""The protocols on frozen features: a linear head chosen from a grid (`Frozen`, `FewShot`), and k-NN (`Knn`).

Features are the architecture's own pooled output (timm's `num_classes=0`) for un-augmented images. They are
extracted once per backbone, data set and split, and shared through the feature cache.
k-NN is DINO's (arXiv 2104.14294, 4.1; `eval_knn.py`): the k train images with the highest cosine similarity to
an image vote for their class with weight exp(cosine / temperature).
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from adapters.classification import data, linear_head
from adapters.classification.image_sets.labelled import LabelledImages
from adapters.classification.metric import accuracies
from adapters.classification.protocol import FewShot
from bench.backbones.backbone import LoadReport
from bench.backbones.build import build
from bench.backbones.normalise import normalisation
from bench.errors import UserError
from bench.features import extract
from bench.files import cache_dir
from bench.tasks import Job, Outcome, Selection

BLOCK = 1 << 26  # similarities in memory at once: 256 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """A split's features and labels.

    Args:
        features: float32 [n, d], memory-mapped, on the CPU.
        labels: int64 [n], below `classes`; for images of several classes [n, k], see `metric`.
        held_out: bool [n], the official validation split within train; None: there is none.
        seconds: spent on extraction; 0 when the features were in the cache.
        images_per_second: of the original extraction, also when the features were in the cache.
    """

    features: Tensor
    labels: Tensor
    classes: int
    seconds: float
    images_per_second: float
    held_out: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBackbone:
    """A job's backbone and the splits to extract its features for.

    Args:
        splits: by name.
        validation: name of the official split that train's `held_out` images belong to; "" for none.
        reported_on: name of the split that the metrics are computed on.
    """

    job: Job
    model: nn.Module
    load_report: LoadReport
    splits: dict[str, data.Split]
    validation: str = ""
    reported_on: str = "val"

    def features(self, name: str) -> LabelledFeatures:
        """Return the features of a split, from the cache where they are; raises UserError for unreadable images."""
        job, split = self.job, self.splits[name]
        protocol, backbone = job.protocol, job.backbone
        transform = {"img_size": protocol.img_size, "crop_pct": protocol.crop_pct}
        mean, std = normalisation(backbone)
        found = extract(
            self.model,
            data.Images(split, data.eval_transform(backbone, **transform)),
            key={  # neither task nor protocol, so that they share features
                "arch": backbone.arch,
                "data": job.task.dataset.fingerprint(job.data),
                "split": name,
                "limit": protocol.limit,
                "transform": {**transform, "mean": mean, "std": std, "version": data.EVAL_VERSION},
            },
            about={"backbone": backbone.name, "weights": backbone.weights8, "data": job.task.dataset.name},
            cache=cache_dir(),  # shared by all work folders
            device=job.device,
            num_workers=job.num_workers,
        )
        return LabelledFeatures(
            features=found.pooled,
            labels=torch.as_tensor(split.labels).long(),
            classes=len(split.classes),
            seconds=found.seconds,
            images_per_second=found.images_per_second,
            held_out=None if split.held_out is None else torch.as_tensor(split.held_out),
        )


def frozen_backbone(job: Job, folder: Path) -> FrozenBackbone:
    """Build the job's backbone, and read the splits of its data in `folder`; raises UserError for several GPUs."""
    protocol, backbone = job.protocol, job.backbone
    if job.world_size > 1:
        raise UserError(f"{protocol.name} runs on one GPU, and {job.world_size} are requested. Omit --gpus.")
    dataset = job.task.dataset
    train, unseen = data.splits_of(dataset, folder, limit=protocol.limit)
    size = data.size_argument(backbone.arch, protocol.img_size)
    torch.manual_seed(job.seed)
    model, report = build(
        backbone.arch,
        weights=backbone.weights,
        part=backbone.part,
        allow_partial=backbone.allow_partial,
        drop_blocks=protocol.drop_blocks,
        num_classes=0,
        **size,
    )
    reported_on = data.reported_on(dataset)
    return FrozenBackbone(
        job=job,
        model=model,
        load_report=report,
        splits={"train": train, reported_on: unseen},
        validation=dataset.validation if isinstance(dataset, LabelledImages) else "",
        reported_on=reported_on,
    )


def linear_head_outcome(job: Job, folder: Path) -> Outcome:
    """Train and test a linear head (`Frozen`, `FewShot`) on the splits of the job's data in `folder`."""
    frozen = frozen_backbone(job, folder)
    seen = frozen.features("train")
    started = time.perf_counter()
    trials, heads = search_and_train(job, seen)
    trained = time.perf_counter()
    unseen = frozen.features(frozen.reported_on)
    metrics = accuracies(heads.logits(unseen.features)[:, 0].cpu(), unseen.labels)
    return Outcome(
        metrics=metrics,
        load_report=frozen.load_report,
        selection=Selection(
            selected_on=frozen.validation or f"train ({100 / job.protocol.held_out_one_in:.0f} % held out)",
            reported_on=frozen.reported_on,
            trials=trials,
        ),
        train_seconds=seen.seconds + trained - started,
        eval_seconds=time.perf_counter() - trained,
        images_per_second=seen.images_per_second,
    )


def search_and_train(job: Job, seen: LabelledFeatures) -> tuple[list[dict[str, float]], linear_head.Heads]:
    """Choose learning rate and weight decay on a part of train, then train on all of it.

    `FewShot` trains on a few images per class both times. Returns the trials, best first, and the head.
    """
    protocol = job.protocol
    train: dict[str, Tensor] = {"features": seen.features.to(job.device), "labels": seen.labels.to(job.device)}
    few = _few_shots(job, train["labels"])
    how: dict[str, Any] = {
        "classes": seen.classes,
        "schedule": linear_head.Schedule(
            epochs=protocol.epochs, batch_size=protocol.batch_size, momentum=protocol.momentum
        ),
    }
    trials = linear_head.search(
        **train,
        **how,
        grid=list(product(protocol.lrs, protocol.weight_decays)),
        one_in=protocol.held_out_one_in,
        seed=protocol.selection_seed,
        held_out=None if seen.held_out is None else seen.held_out.to(job.device),
        shots=few,
    )
    chosen = [(trials[0]["lr"], trials[0]["weight_decay"])]
    if few is not None:
        chosen_images = few(torch.ones(len(train["labels"]), dtype=torch.bool, device=job.device))
        train = {name: values[chosen_images] for name, values in train.items()}
    heads = linear_head.fit(**train, **how, grid=chosen, seed=job.seed, title="linear head")
    return trials, heads


def _few_shots(job: Job, labels: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return the function that draws a `FewShot` protocol's images; None for other protocols, which use all."""
    if not isinstance(job.protocol, FewShot):
        return None
    return functools.partial(few_of_each, labels, shots=job.protocol.shots, seed=job.seed)


def few_of_each(labels: Tensor, among: Tensor, *, shots: int, seed: int) -> Tensor:
    """Draw `shots` images of each class (all of a smaller class) from `among`, bool [n]; returns bool [n]."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    own = labels.cpu()
    by_class = shuffled[own[shuffled].argsort(stable=True)]
    by_class = by_class[among.cpu()[by_class]]
    counts = own[by_class].bincount(minlength=int(own.max()) + 1)
    rank = torch.arange(len(by_class)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    drawn[by_class[rank < shots]] = True
    return drawn.to(labels.device)


def knn_outcome(job: Job, folder: Path) -> Outcome:
    """Classify by nearest neighbours (`Knn`) on the splits of the job's data in `folder`."""
    protocol = job.protocol
    frozen = frozen_backbone(job, folder)
    seen = frozen.features("train")
    started = time.perf_counter()
    if len(seen.labels) < protocol.neighbours:
        raise UserError(
            f"The train split has {len(seen.labels)} images, fewer than the {protocol.neighbours} neighbours of "
            f"{protocol.name}. Add images, raise the limit, or define a protocol with fewer neighbours."
        )
    unseen = frozen.features(frozen.reported_on)
    given = votes(
        unseen.features.to(job.device),
        seen.features.to(job.device),
        seen.labels.to(job.device),
        classes=seen.classes,
        neighbours=protocol.neighbours,
        temperature=protocol.temperature,
    )
    return Outcome(
        metrics=accuracies(_ranked(given).cpu(), unseen.labels),
        load_report=frozen.load_report,
        selection=Selection(selected_on=None, reported_on=frozen.reported_on),
        train_seconds=seen.seconds,
        eval_seconds=time.perf_counter() - started,
        images_per_second=seen.images_per_second,
    )


def votes(
    queries: Tensor, features: Tensor, labels: Tensor, *, classes: int, neighbours: int, temperature: float
) -> Tensor:
    """Sum the votes [m, classes] for queries [m, d] of their nearest `features` [n, d] with `labels` [n].

    A class with a neighbour has a sum above 0, even for a negative cosine; a class without one has 0.
    """
    known = normalize(features).T
    found = queries.new_zeros(len(queries), classes)
    for rows, query in zip(*(t.split(max(BLOCK // len(labels), 1)) for t in (found, queries)), strict=True):
        nearest = (normalize(query) @ known).topk(neighbours)
        rows.scatter_add_(1, labels[nearest.indices], (nearest.values / temperature).exp())
    return found


def _ranked(votes: Tensor) -> Tensor:
    """Give classes without a vote negative scores in class order, so that top5 is the same on every device."""
    return votes.where(votes > 0, -torch.arange(1.0, 1 + votes.shape[1], device=votes.device))
