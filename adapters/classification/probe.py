"""What the frozen protocols of classification read: pooled features of each split, one entry each.

The features are the architecture's own (timm's `num_classes=0`), of un-augmented images.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """A split's features.

    Args:
        features: float32 [n, d], memory-mapped, on the CPU.
        labels: int64 [n], below `classes`; or of images of several classes [n, k] (`multilabel`).
        held_out: bool [n], the official validation split within train; None: it has none.
        seconds: spent on extraction; 0 when the features were in the cache.
        images_per_second: of the extraction, whenever that was.
    """

    features: Tensor
    labels: Tensor
    classes: int
    seconds: float
    images_per_second: float
    held_out: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBackbone:
    """The job's backbone before the splits of its data.

    Args:
        splits: by name, "train" among them.
        validation: the name of the official split that train's `held_out` images are; "" for none.
        reported_on: which of `splits` the numbers are of.
    """

    job: Job
    model: nn.Module
    load_report: LoadReport
    splits: dict[str, data.Split]
    validation: str = ""
    reported_on: str = "val"

    def features(self, name: str) -> Labelled:
        """The features of a split; the key names neither task nor protocol."""
        job, split = self.job, self.splits[name]
        protocol, backbone = job.protocol, job.backbone
        transform = {"img_size": protocol.img_size, "crop_pct": protocol.crop_pct}
        mean, std = normalisation(backbone)
        found = extract(
            self.model,
            data.Images(split, data.eval_transform(backbone, **transform)),
            key={
                "arch": backbone.arch,
                "data": job.task.dataset.fingerprint(job.data),
                "split": name,
                "limit": protocol.limit,
                "transform": {**transform, "mean": mean, "std": std, "version": data.EVAL_VERSION},
            },
            about={"backbone": backbone.name, "weights": backbone.weights8, "data": job.task.dataset.name},
            cache=cache_dir(),  # every work folder's: the limit is the machine's
            device=job.device,
            num_workers=job.num_workers,
        )
        return Labelled(
            features=found.pooled,
            labels=torch.as_tensor(split.labels).long(),
            classes=len(split.classes),
            seconds=found.seconds,
            images_per_second=found.images_per_second,
            held_out=None if split.held_out is None else torch.as_tensor(split.held_out),
        )


def frozen_backbone(job: Job, folder: Path) -> FrozenBackbone:
    """Build the backbone for the splits of the job's data in `folder`; raises UserError for several GPUs."""
    protocol, backbone = job.protocol, job.backbone
    if job.world_size > 1:
        raise UserError(
            f"The features of {protocol.name} are extracted, and what is asked of them answered, by one GPU. "
            f"Leave --gpus away."
        )
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


# The frozen protocols of classification: features once, a grid of linear heads, one number.


def evaluate_linear(job: Job, folder: Path) -> Outcome:
    """Run the job's protocol, `Frozen` or `FewShot`, on the splits of its data in `folder`."""
    frozen = frozen_backbone(job, folder)
    seen = frozen.features("train")
    started = time.perf_counter()
    trials, heads = train(job, seen)
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


def train(job: Job, seen: Labelled) -> tuple[list[dict[str, float]], linear_head.Heads]:
    """Choose on a part of train, then train on all of it: the trials, best first, and the head.

    A `FewShot` protocol trains on a few images a class both times.
    """
    protocol = job.protocol
    data: dict[str, Tensor] = {"features": seen.features.to(job.device), "labels": seen.labels.to(job.device)}
    how: dict[str, Any] = {
        "classes": seen.classes,
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
        held_out=None if seen.held_out is None else seen.held_out.to(job.device),
        shots=_few(job, data["labels"]),
    )
    chosen = [(trials[0]["lr"], trials[0]["weight_decay"])]
    if (few := _few(job, data["labels"])) is not None:
        kept = few(torch.ones(len(data["labels"]), dtype=torch.bool, device=job.device))
        data = {name: values[kept] for name, values in data.items()}
    heads = linear_head.fit(**data, **how, grid=chosen, seed=job.seed, title="linear head")
    return trials, heads


def _few(job: Job, labels: Tensor) -> Callable[[Tensor], Tensor] | None:
    """What leaves so many images a class as the protocol has shots; None: it takes all."""
    if not isinstance(job.protocol, FewShot):
        return None
    return functools.partial(few_of_each, labels, shots=job.protocol.shots, seed=job.seed)


def few_of_each(labels: Tensor, among: Tensor, *, shots: int, seed: int) -> Tensor:
    """Draw `shots` images of each class (all, of a class that has fewer): bool [n], of those `among`, bool [n]."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    own = labels.cpu()
    by_class = shuffled[own[shuffled].argsort(stable=True)]
    by_class = by_class[among.cpu()[by_class]]
    counts = own[by_class].bincount(minlength=int(own.max()) + 1)
    rank = torch.arange(len(by_class)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[by_class[rank < shots]] = True
    return kept.to(labels.device)


# Weighted nearest neighbours on frozen features, as DINO has them (arXiv 2104.14294, 4.1; `eval_knn.py`).
#
# Nothing is trained and nothing chosen: the k train images whose features are most similar to those of a
# val image, by their cosine, vote for their classes with weight exp(cosine / temperature).

BLOCK = 1 << 26  # similarities held at once: 256 MB


def evaluate_knn(job: Job, folder: Path) -> Outcome:
    """Run the job's protocol (`adapters.classification.Knn`) on the splits of its data in `folder`."""
    protocol = job.protocol
    frozen = frozen_backbone(job, folder)
    seen = frozen.features("train")
    started = time.perf_counter()
    if len(seen.labels) < protocol.neighbours:
        raise UserError(
            f"The train split has {len(seen.labels)} images, fewer than the {protocol.neighbours} neighbours that "
            f"{protocol.name} lets vote. Add images, raise the limit, or define a protocol with fewer neighbours."
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
    """Sum, for queries [m, d], the votes [m, classes] of their neighbours among `features` [n, d].

    A class with a neighbour has a vote above 0, whatever the cosine; one without has 0.
    """
    known = normalize(features).T
    found = queries.new_zeros(len(queries), classes)
    for rows, query in zip(*(t.split(max(BLOCK // len(labels), 1)) for t in (found, queries)), strict=True):
        nearest = (normalize(query) @ known).topk(neighbours)
        rows.scatter_add_(1, labels[nearest.indices], (nearest.values / temperature).exp())
    return found


def _ranked(votes: Tensor) -> Tensor:
    """Classes without a vote come last, in their order, so that no device's sorting moves a top5."""
    return votes.where(votes > 0, -torch.arange(1.0, 1 + votes.shape[1], device=votes.device))
