"""How much of what a backbone says of a whole image it still says when a part is hidden.

    python -m bench.run --backbone A B --task analysis/occlusion                                 # mean colour
    python -m bench.run --backbone A B --task analysis/occlusion --protocol frozen-occluders     # by real things

Of every layer, by how much is hidden: CKA and cosine between features of the occluded and the whole image.
Features are the mean of the patches that the model gets (`CKA`, `cosine`), the same of what is visible
alone, weighted by how much of each patch is (`CKA_visible`; `cosine_visible` is that of one patch with
itself), and the class token where there is one (`CKA_class`, `cosine_class`). k-NN says how many images
are still recognised. Intervals are 95 % of a bootstrap over minibatches (CKA) and images.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.analysis import hiding, sample
from adapters.analysis.hiding import Hiding, Occluded
from adapters.analysis.layers import LayerReader
from adapters.analysis.occlusion_curves import Curves
from adapters.analysis.protocol import Layout
from bench.errors import UserError
from bench.tasks import Job, Outcome, Selection


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for one to which nothing can be hidden this way."""
    from adapters.analysis import pictures

    started = time.perf_counter()
    model, report = sample.load(job)
    reported_on = layout.images
    if job.protocol.by == "occluders":
        reported_on = hiding.SPLIT
        curves, knn = _by_things(job, model), None
    else:
        curves, knn = _by_cells(job, layout, model)
    accuracy = knn.curve(job.protocol.replicates) if knn else None
    found = curves.finished(job.protocol.replicates)
    pictures.occlusion(found.ratios, found.pictured, accuracy, job)
    seconds = time.perf_counter() - started
    return Outcome(
        metrics={**found.metrics, **(knn.metrics() if knn else {}), "images": curves.images},
        load_report=report,
        selection=Selection(selected_on=None, reported_on=reported_on),
        train_seconds=0.0,
        eval_seconds=seconds,
        images_per_second=curves.shown / seconds,
        curves=found.curves | (_accuracies(accuracy) if accuracy else {}),
    )


def _accuracies(accuracy: tuple[Any, Any, Any]) -> dict[str, Any]:
    return {f"knn{end}": list(v) for end, v in zip(("", "_low", "_high"), accuracy, strict=True)}


def _by_cells(job: Job, layout: Layout, model: Any) -> tuple[Curves, "Recognition | None"]:
    """Hide cells of every image, at every ratio."""
    hide, reader, protocol = Hiding(job, model), LayerReader(model), job.protocol
    drawn = sample.draw(job, layout, protocol.gallery if protocol.neighbours else 0)
    knn = Recognition(job, drawn, reader) if drawn.gallery is not None else None
    curves, seen = Curves(protocol.ratios), 0
    for whole, labels in sample.batches(drawn.images, job, "occluded images"):
        seeds = torch.arange(seen, seen + len(whole)) + job.seed * 1_000_003
        seen += len(whole)
        layers, pooled = reader(whole)
        curves.starts(layers)
        for ratio in protocol.ratios:
            if ratio == 0:
                curves.add(0.0, layers, torch.ones_like(whole[:, 0]), None)
                found = pooled
            else:
                occluded = hide(whole, ratio, seeds)
                found = _see(reader, hide, occluded, ratio, curves)
            if knn:
                knn.add(ratio, found, labels)
    return curves, knn


def _see(reader: LayerReader, hide: Hiding, occluded: Occluded, ratio: float, curves: Curves) -> Tensor:
    layers, pooled = reader(occluded.images, occluded.kept, watch=hide.masking(occluded))
    curves.add(ratio, layers, occluded.visible, occluded.kept)
    return pooled


def _by_things(job: Job, model: Any) -> Curves:
    """Compare things that others hide with the same without those others, by how much is hidden."""
    reader, curves = LayerReader(model), Curves(job.protocol.ratios)
    for ratio, whole, occluded in hiding.batches(job):
        layers, _ = reader(whole)
        curves.starts(layers)
        layers = layers if ratio == 0 else reader(occluded.images)[0]
        curves.add(ratio, layers, occluded.visible, None)
    return curves


class Recognition:
    """k-NN's accuracy on occluded images, voted by whole ones (DINO's weighted neighbours)."""

    def __init__(self, job: Job, drawn: sample.Sample, reader: LayerReader) -> None:
        """Extract the gallery's features; raises UserError for fewer images than neighbours."""
        self.protocol, self.classes = job.protocol, drawn.classes
        pooled = [(reader(b)[1], y) for b, y in sample.batches(drawn.gallery, job, "gallery")]
        known = sum(len(labels) for _, labels in pooled)
        if known < self.protocol.neighbours:
            raise UserError(
                f"There are {known} images to vote, fewer than the {self.protocol.neighbours} neighbours of "
                f"{self.protocol.name}. Add images, or define a protocol with fewer neighbours."
            )
        self.features = torch.cat([features for features, _ in pooled])
        self.labels = torch.cat([labels for _, labels in pooled]).to(self.features.device)
        self.right: dict[float, list[Tensor]] = {}

    def add(self, ratio: float, features: Tensor, labels: Tensor) -> None:
        """Let the gallery vote on a batch."""
        from adapters.classification.probe import votes

        given = votes(
            features,
            self.features,
            self.labels,
            classes=self.classes,
            neighbours=self.protocol.neighbours,
            temperature=self.protocol.temperature,
        )
        self.right.setdefault(ratio, []).append(given.argmax(1).cpu() == labels)

    def metrics(self) -> dict[str, float]:
        """Top-1 in percent: of whole images, the mean over the ratios above 0, and of each ratio."""
        top1 = {ratio: 100 * float(torch.cat(r).float().mean()) for ratio, r in self.right.items()}
        hidden = [value for ratio, value in top1.items() if ratio > 0]
        found = {f"knn/{ratio:g}": value for ratio, value in top1.items()}
        found["knn_occluded"] = sum(hidden) / len(hidden)
        return found | ({"knn_whole": top1[0.0]} if 0.0 in top1 else {})

    def curve(self, replicates: int) -> tuple[list[float], list[float], list[float]]:
        """Top-1 in percent by ratio, and the ends of its interval."""
        points = list(self._points(replicates))
        return tuple(list(column) for column in zip(*points, strict=True))  # type: ignore[return-value]

    def _points(self, replicates: int) -> Iterator[tuple[float, float, float]]:
        for right in self.right.values():
            one = torch.cat(right).numpy().astype(float) * 100
            drawn = np.random.default_rng(0).integers(0, len(one), (replicates, len(one)))
            low, high = np.percentile(one[drawn].mean(1), (2.5, 97.5))
            yield float(one.mean()), float(low), float(high)
