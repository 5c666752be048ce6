"""How much of what a backbone says of a whole image it still says when a part is hidden.

    python -m bench.run --backbone A B --task analysis/occlusion                                 # mean colour
    python -m bench.run --backbone A B --task analysis/occlusion --protocol frozen-occluders     # by real things

Of every layer, by how much is hidden: CKA and cosine between features of the occluded and the whole image.
Features are the mean of the patches that the model gets (`CKA`, `cosine`), the same of what is visible
alone, weighted by how much of each patch is (`CKA_visible`; `cosine_visible` is that of one patch with
itself), and the class token where there is one (`CKA_class`, `cosine_class`). k-NN says how many images
are still recognised. Intervals are 95 % of a bootstrap over minibatches (CKA) and images.
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

Curve: TypeAlias = tuple[list[float], list[float], list[float]]  # with the ends of its interval
Array: TypeAlias = NDArray[np.float64]
KINDS = ("", "_visible", "_class")  # of features: what the model gets, what is visible, the class token
ENDS = ("", "_low", "_high")  # a number, and its interval
FEW = 2  # minibatches: of one, a bootstrap says nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What goes into the record, and what is drawn: of CKA and cosine, every layer's curve."""

    ratios: list[float]
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    pictured: dict[str, dict[int, Curve]]


class Curves:
    """Sums by ratio, layer and kind of features: of a minibatch's HSIC, and of its images' cosines."""

    def __init__(self, ratios: Sequence[float]) -> None:
        """Start from nothing."""
        self.ratios = tuple(ratios)
        self.hsic: dict[float, list[Array]] = {ratio: [] for ratio in ratios}
        self.cosines: dict[float, list[Array]] = {ratio: [] for ratio in ratios}
        self.images = self.shown = 0

    def starts(self, whole: Sequence[Layer]) -> None:
        """A minibatch: its whole images [b, ...] are what is compared with until the next."""
        self.whole = whole
        self.grams = centred_grams([layer.pooled for layer in whole])
        self.classes = self._of_classes(whole)
        self.images += len(whole[0].tokens)
        self.shown += len(whole[0].tokens)

    def _of_classes(self, layers: Sequence[Layer]) -> Tensor | None:
        tokens = [layer.class_token for layer in layers if layer.class_token is not None]
        return centred_grams(tokens) if tokens else None

    def add(self, ratio: float, layers: Sequence[Layer], visible: Tensor, kept: Tensor | None) -> None:
        """The same images, occluded: [b, h, w] `visible`, and the patches [b, m] `kept` if not all."""
        self.shown += len(visible) if ratio else 0
        pairs = [_visible(*pair, visible, kept) for pair in zip(self.whole, layers, strict=True)]
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
        """CKA and cosine at the ratios that have two minibatches, of which a bootstrap is a statement.

        Raises UserError where none has, and for features that are the same for all images.
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
    """HSIC1 of every layer's two sides, and of each with itself [3, layers]."""
    across = (one @ two.T).diagonal()
    found: Array = torch.stack((across, own(one), own(two))).cpu().numpy()
    return found


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    """Of every image [b]; features [b, c]. Exactly 1 where both are the same."""
    found = cosine_similarity(one.double(), two.double(), dim=-1)
    return found.where((one != two).any(-1), 1.0)


def _visible(whole: Layer, occluded: Layer, visible: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of visible tokens of both [b, c], and how alike (cosine) a token is to itself [b]."""
    one = whole.tokens
    if kept is not None:
        one = one.gather(1, kept[..., None].expand(-1, -1, one.shape[2]))
        weights = torch.ones_like(kept, dtype=one.dtype)
    else:
        assert occluded.grid is not None
        weights = share(visible, occluded.grid)
    weights = weights.double().clamp(min=1e-6)  # a thing of which nothing is seen at this layer
    total = weights.sum(1, keepdim=True)
    alike = cosine_similarity(one, occluded.tokens, dim=-1)
    alike = alike.where((one != occluded.tokens).any(-1), 1.0)
    shares = (weights / total).to(one.dtype)[:, None]
    first, second = ((shares @ tokens)[:, 0] for tokens in (one, occluded.tokens))
    return first, second, (weights * alike).sum(1) / total[:, 0]


def _cka_draws(batches: Array, replicates: int) -> Array:
    """CKA, then its bootstrap replicates [1 + r, kind, layer], of sums [batch, kind, 3, layer].

    Ratios with as many minibatches are drawn alike, since these are of the same images.
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
    """The mean, then its bootstrap replicates [1 + r, kind, layer], of values [kind, layer, image]."""
    images = values.shape[2]
    rng = np.random.default_rng(images)
    counts = rng.multinomial(images, np.full(images, 1 / images), replicates) / images
    return np.concatenate((values.mean(2)[None], np.moveaxis(values @ counts.T, 2, 0)))


def _with_ends(draws: Array, axis: int) -> Array:
    """A number and the ends of its 95 % interval, in place of the number and its replicates."""
    number, replicates = np.split(draws, [1], axis)
    ends = np.percentile(replicates, (2.5, 97.5), axis, keepdims=True)
    return np.concatenate((number, *ends), axis)


def _finished(ratios: list[float], draws: Mapping[str, Array]) -> Finished:
    """From draws [ratio, 1 + r, kind, layer] of CKA and cosine."""
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
    """Values [ratio, 3, layer] as the record keeps them, a line a layer."""
    return {
        f"{name}{end}/{layer}": values[:, place, layer].tolist()
        for layer in range(values.shape[2])
        for place, end in enumerate(ENDS)
    }


def _curves(values: Array) -> dict[int, Any]:
    layers = range(values.shape[2])
    return {k: tuple(values[:, end, k].tolist() for end in range(3)) for k in layers}


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
