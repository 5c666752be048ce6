"""How much the features of an image change when a part of it is hidden.

    python -m bench.run --backbone A B --task analysis/occlusion                                 # mean colour
    python -m bench.run --backbone A B --task analysis/occlusion --protocol frozen-occluders     # by real things

For every layer and hidden ratio: CKA and cosine between the features of the occluded and of the whole image.
- `CKA`, `cosine`: the mean of all patches that the model gets;
- `CKA_visible`: their mean weighted by each patch's visible fraction; `cosine_visible`: the same weighted mean of the
  cosine of each patch with itself;
- `CKA_class`, `cosine_class`: the class token, where there is one.
`knn` is the top1 of k-NN on occluded images. Intervals are 95 % bootstrap intervals, over minibatches for CKA and over
images otherwise.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from adapters.analysis import hiding, sample
from adapters.analysis.hiding import Hiding, Occluded, share
from adapters.analysis.layers import Layer, LayerReader
from adapters.analysis.protocol import Layout
from adapters.analysis.similarity import FEWEST, centred_grams, constant, own
from bench.errors import UserError
from bench.tasks import Job, Outcome, Selection

Curve: TypeAlias = tuple[list[float], list[float], list[float]]  # values, and the ends of their intervals
Array: TypeAlias = NDArray[np.float64]
KINDS = ("", "_visible", "_class")  # of features: all patches, visible patches, class token
ENDS = ("", "_low", "_high")  # a number, and its interval
FEW = 2  # minibatches: a bootstrap of one is meaningless


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The record's metrics and curves, and the curves of every layer that are plotted, by "CKA" and "cosine"."""

    ratios: list[float]
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    pictured: dict[str, dict[int, Curve]]


class Curves:
    """HSIC of every minibatch and cosine of every image, by ratio, layer and kind of features."""

    def __init__(self, ratios: Sequence[float]) -> None:
        """Start without minibatches."""
        self.ratios = tuple(ratios)
        self.hsic: dict[float, list[Array]] = {ratio: [] for ratio in ratios}
        self.cosines: dict[float, list[Array]] = {ratio: [] for ratio in ratios}
        self.images = self.shown = 0

    def starts(self, whole: Sequence[Layer]) -> None:
        """Start a minibatch: following occluded images are compared with `whole`, the layers of b whole images."""
        self.whole = whole
        self.grams = centred_grams([layer.pooled for layer in whole])
        self.classes = self._of_classes(whole)
        self.images += len(whole[0].tokens)
        self.shown += len(whole[0].tokens)

    def _of_classes(self, layers: Sequence[Layer]) -> Tensor | None:
        tokens = [layer.class_token for layer in layers if layer.class_token is not None]
        return centred_grams(tokens) if tokens else None

    def add(self, ratio: float, layers: Sequence[Layer], visible: Tensor, visible_patches: Tensor | None) -> None:
        """Add the occluded minibatch: `visible` [b, h, w], 0 to 1, and `visible_patches` [b, m] (None: all)."""
        self.shown += len(visible) if ratio else 0
        pairs = [_visible(*pair, visible, visible_patches) for pair in zip(self.whole, layers, strict=True)]
        one, two = (centred_grams([pair[side] for pair in pairs]) for side in (0, 1))
        sums = [_sums(self.grams, centred_grams([layer.pooled for layer in layers])), _sums(one, two)]
        cosines = [
            [_cosine(a.pooled, b.pooled) for a, b in zip(self.whole, layers, strict=True)],
            [pair[2] for pair in pairs],
        ]
        if self.classes is not None:
            classes = self._of_classes(layers)
            assert classes is not None
            sums.append(_sums(self.classes, classes))
            ends = ((a.class_token, b.class_token) for a, b in zip(self.whole, layers, strict=True))
            cosines.append([_cosine(a, b) for a, b in ends if a is not None and b is not None])
        self.hsic[ratio].append(len(visible) * np.stack(sums))
        self.cosines[ratio].append(torch.stack([torch.stack(c) for c in cosines]).cpu().numpy())

    def finished(self, replicates: int) -> Finished:
        """Return CKA and cosine at the ratios that have at least two minibatches, as a bootstrap needs.

        Raises UserError where none has, and for features that are equal for all images.
        """
        ratios = [ratio for ratio in self.ratios if len(self.hsic[ratio]) >= FEW]
        if not any(ratios):
            raise UserError(
                f"{self.images} images are too few: an interval of CKA under occlusion needs at least {FEW} "
                f"minibatches (of {FEWEST} images or more) at one of the ratios {self.ratios}. Give more images, or "
                f"define a protocol with a smaller batch."
            )
        cka = [_cka_draws(np.stack(self.hsic[ratio]), replicates) for ratio in ratios]
        cosine = [_mean_draws(np.concatenate(self.cosines[r], 2), replicates) for r in ratios]
        return _finished(ratios, {"CKA": np.stack(cka), "cosine": np.stack(cosine)})


def _sums(one: Tensor, two: Tensor) -> Array:
    """Return HSIC1 of every layer's two sides, and of each with itself, [3, layers]."""
    across = (one @ two.T).diagonal()
    found: Array = torch.stack((across, own(one), own(two))).cpu().numpy()
    return found


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    """Return the cosine [b] of features [b, c]; exactly 1 where both are equal."""
    found = cosine_similarity(one.double(), two.double(), dim=-1)
    return found.where((one != two).any(-1), 1.0)


def _visible(
    whole: Layer, occluded: Layer, visible: Tensor, visible_patches: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean visible token of both images [b, c], and the mean cosine [b] of a token with itself."""
    one = whole.tokens
    if visible_patches is not None:
        one = one.gather(1, visible_patches[..., None].expand(-1, -1, one.shape[2]))
        weights = torch.ones_like(visible_patches, dtype=one.dtype)
    else:
        assert occluded.grid is not None
        weights = share(visible, occluded.grid)
    weights = weights.double().clamp(min=1e-6)  # for things with no visible token at this layer's resolution
    total = weights.sum(1, keepdim=True)
    alike = cosine_similarity(one, occluded.tokens, dim=-1)
    alike = alike.where((one != occluded.tokens).any(-1), 1.0)
    shares = (weights / total).to(one.dtype)[:, None]
    first, second = ((shares @ tokens)[:, 0] for tokens in (one, occluded.tokens))
    return first, second, (weights * alike).sum(1) / total[:, 0]


def _cka_draws(batches: Array, replicates: int) -> Array:
    """Return CKA and its r bootstrap replicates [1 + r, kind, layer] for sums [batch, kind, 3, layer].

    Ratios with equally many minibatches share the draws, since they contain the same images.
    """
    count, total = len(batches), batches.sum(0)
    if (bad := (total[:, 1:] == 0).any((0, 1))).any():
        raise constant(int(bad.argmax()))
    drawn = np.random.default_rng(count).integers(0, count, (replicates, count))
    return np.concatenate((_ratio(total)[None], _ratio(batches[drawn].sum(1))))


def _ratio(sums: Array) -> Array:
    across, one, two = (sums[..., i, :] for i in range(3))
    found: Array = across / np.sqrt(one * two)
    return found


def _mean_draws(values: Array, replicates: int) -> Array:
    """Return the mean and its r bootstrap replicates [1 + r, kind, layer] for values [kind, layer, image]."""
    images = values.shape[2]
    rng = np.random.default_rng(images)
    counts = rng.multinomial(images, np.full(images, 1 / images), replicates) / images
    return np.concatenate((values.mean(2)[None], np.moveaxis(values @ counts.T, 2, 0)))


def _with_ends(draws: Array, axis: int) -> Array:
    """Replace, along `axis`, a number and its replicates by the number and the ends of its 95 % interval."""
    number, replicates = np.split(draws, [1], axis)
    ends = np.percentile(replicates, (2.5, 97.5), axis, keepdims=True)
    return np.concatenate((number, *ends), axis)


def _finished(ratios: list[float], draws: Mapping[str, Array]) -> Finished:
    """Return the results for draws [ratio, 1 + r, kind, layer] of CKA and cosine."""
    metrics: dict[str, float] = {}
    curves: dict[str, list[float]] = {"hidden": ratios}
    hidden = [place for place, ratio in enumerate(ratios) if ratio > 0]
    named = {name: _with_ends(values, 1) for name, values in draws.items()}
    for name, values in named.items():
        for kind in range(values.shape[2]):
            whole, own = f"{name}{KINDS[kind]}", values[hidden, 0, kind]  # [ratio, layer]
            headline = _with_ends(draws[name][hidden, :, kind].mean((0, 2)), 0)
            metrics |= {f"{whole}{end}": float(v) for end, v in zip(ENDS, headline, strict=True)}
            metrics |= {f"{whole}/layer{k}": float(v) for k, v in enumerate(own.mean(0))}
            metrics |= {f"{whole}/{ratios[p]:g}": float(values[p, 0, kind].mean()) for p in hidden}
            curves |= _lines(whole, values[:, :, kind])
    pictured = {name: _curves(values[:, :, 0]) for name, values in named.items()}
    return Finished(ratios=ratios, metrics=metrics, curves=curves, pictured=pictured)


def _lines(name: str, values: Array) -> dict[str, list[float]]:
    """Return values [ratio, 3, layer] as a record's curves, by layer."""
    return {
        f"{name}{end}/{layer}": values[:, place, layer].tolist()
        for layer in range(values.shape[2])
        for place, end in enumerate(ENDS)
    }


def _curves(values: Array) -> dict[int, Any]:
    layers = range(values.shape[2])
    return {k: tuple(values[:, end, k].tolist() for end in range(3)) for k in layers}


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for one that cannot be shown such images."""
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


def _by_cells(job: Job, layout: Layout, model: Any) -> tuple[Curves, "KnnAccuracy | None"]:
    """Hide cells of every image, at every ratio."""
    hide, reader, protocol = Hiding(job, model), LayerReader(model), job.protocol
    drawn = sample.draw(job, layout, protocol.gallery if protocol.neighbours else 0)
    knn = KnnAccuracy(job, drawn, reader) if drawn.gallery is not None else None
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
    layers, pooled = reader(occluded.images, occluded.visible_patches, watch=hide.masking(occluded))
    curves.add(ratio, layers, occluded.visible, occluded.visible_patches)
    return pooled


def _by_things(job: Job, model: Any) -> Curves:
    """Compare partly hidden things with the same things uncovered, by hidden ratio."""
    reader, curves = LayerReader(model), Curves(job.protocol.ratios)
    for ratio, whole, occluded in hiding.batches(job):
        layers, _ = reader(whole)
        curves.starts(layers)
        layers = layers if ratio == 0 else reader(occluded.images)[0]
        curves.add(ratio, layers, occluded.visible, None)
    return curves


class KnnAccuracy:
    """Accuracy of DINO's weighted k-NN on occluded images, with whole images as neighbours."""

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
        """Classify a batch by the gallery: features [b, d], labels [b]."""
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
        """Return top1 in percent: of whole images, the mean over the ratios above 0, and of each ratio."""
        top1 = {ratio: 100 * float(torch.cat(r).float().mean()) for ratio, r in self.right.items()}
        hidden = [value for ratio, value in top1.items() if ratio > 0]
        found = {f"knn/{ratio:g}": value for ratio, value in top1.items()}
        found["knn_occluded"] = sum(hidden) / len(hidden)
        return found | ({"knn_whole": top1[0.0]} if 0.0 in top1 else {})

    def curve(self, replicates: int) -> tuple[list[float], list[float], list[float]]:
        """Return top1 in percent by ratio, and the ends of its interval."""
        points = list(self._points(replicates))
        return tuple(list(column) for column in zip(*points, strict=True))  # type: ignore[return-value]

    def _points(self, replicates: int) -> Iterator[tuple[float, float, float]]:
        for right in self.right.values():
            one = torch.cat(right).numpy().astype(float) * 100
            drawn = np.random.default_rng(0).integers(0, len(one), (replicates, len(one)))
            low, high = np.percentile(one[drawn].mean(1), (2.5, 97.5))
            yield float(one.mean()), float(low), float(high)
