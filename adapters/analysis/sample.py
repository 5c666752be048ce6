"""A job's backbone, and the sample of images, drawn by the seed, that it is analysed on."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from adapters.analysis.cue_conflict import stimuli
from adapters.analysis.protocol import Layout
from adapters.analysis.similarity import FEWEST
from adapters.classification import data
from adapters.classification.data import SUFFIXES
from bench.backbones.backbone import LoadReport
from bench.backbones.build import build
from bench.datasets.dataset import Dataset, EmbeddedWorld, Example, Items
from bench.datasets.images import read
from bench.errors import UserError
from bench.processes import keep_memory, worker_ends_with_run
from bench.runs.progress import ProgressFile
from bench.tasks import Job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Pairs (image [3, h, w], label) in the order drawn, and the gallery of k-NN; None without a gallery."""

    images: Any
    gallery: Any
    classes: int


def load(job: Job) -> tuple[nn.Module, LoadReport]:
    """Build the job's backbone without its classifier, in evaluation mode on the job's device."""
    protocol, backbone = job.protocol, job.backbone
    if job.world_size > 1:
        raise UserError(f"{job.task.name} runs on one GPU, and {job.world_size} are requested. Omit --gpus.")
    keep_memory()
    torch.manual_seed(job.seed)
    model, report = build(
        backbone.arch,
        weights=backbone.weights,
        part=backbone.part,
        allow_partial=backbone.allow_partial,
        drop_blocks=protocol.drop_blocks,
        num_classes=0,
        **data.size_argument(backbone.arch, protocol.img_size),
    )
    return model.requires_grad_(False).eval().to(job.device), report


def draw(job: Job, layout: Layout, gallery: int = 0) -> Sample:
    """Draw `limit` images of the protocol, and `gallery` others where the data set has classes.

    Raises UserError for fewer images than debiased CKA needs.
    """
    split, others = _splits(job, layout)
    order = np.random.default_rng(job.seed).permutation(len(split.paths))
    limit = len(order) if job.protocol.limit is None else job.protocol.limit
    chosen, rest = order[:limit], order[limit:]
    if len(chosen) < FEWEST:
        raise UserError(
            f"There are {len(chosen)} images to analyse in {job.data / layout.folder / layout.images}, and debiased "
            f"CKA needs at least {FEWEST}, as do all analyses, to be comparable. Add images, or define a protocol "
            f"with a higher limit."
        )
    if others is not split:
        rest = np.random.default_rng(job.seed).permutation(len(others.paths))
    transform = data.eval_transform(job.backbone, img_size=job.protocol.img_size, crop_pct=job.protocol.crop_pct)
    voters = Subset(data.Images(others, transform), rest[:gallery].tolist())
    return Sample(
        images=Subset(data.Images(split, transform), chosen.tolist()),
        gallery=voters if layout.gallery and gallery else None,
        classes=len(split.classes),
    )


def _splits(job: Job, layout: Layout) -> tuple[data.Split, data.Split]:
    """Return the split that is analysed, and that of the gallery."""
    folder = job.data / layout.folder
    if not layout.gallery:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in data.SUFFIXES)
        flat = data.Split(paths=paths, labels=[0] * len(paths), classes=["none"])
        return flat, flat
    train, val = data.splits(folder)
    named = {"train": train, "val": val}
    return named[layout.images], named[layout.gallery]


def batches(found: Any, job: Job, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images [b, 3, h, w] on the job's device and labels [b]; a last batch of fewer than four is omitted."""
    loader = DataLoader(
        found, batch_size=job.protocol.batch_size, num_workers=job.num_workers, worker_init_fn=worker_ends_with_run
    )
    progress = ProgressFile(job.work_dir, what, total=len(loader))
    for done, (batch, labels) in enumerate(_unwrapped(loader), 1):
        if len(batch) >= FEWEST:
            yield batch.to(job.device), labels
        progress.update(done)


def _unwrapped(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Reraise a loader process's UserError without the traceback that the loader puts into its message."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None


def pictures(folder: Path, split: str, dataset: Dataset) -> Items:
    """Return all images below a split's folders for `bench.datasets`; of the embedded world, its `species`."""
    scenes = isinstance(dataset, EmbeddedWorld)
    roots = [f"species/{split}"] if scenes else dataset.splits[split]
    found = (path for root in roots for path in (folder / root).rglob("*"))
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)

    def example(index: int) -> Example:
        return Example(image=read(paths[index]), caption=paths[index].stem)

    return Items(count=len(paths), read=example)


def cue_conflicts(folder: Path) -> Items:
    """Return the stimuli whose shape and texture differ, for `bench.datasets`; raises UserError for missing ones."""
    found = stimuli(folder)

    def example(index: int) -> Example:
        one = found[index]
        caption = f"shape {one.shape}, texture {one.texture}"
        return Example(image=read(one.path), caption=caption)

    classes = sorted({one.shape for one in found} | {one.texture for one in found})
    return Items(count=len(found), read=example, classes=classes)
