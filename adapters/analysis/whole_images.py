"""`analysis/attention` and `analysis/similarity`, measured in one pass over whole images.

The task that runs first measures both, and caches the results for the other. Memory does not grow with the
number of images, except for the small Gram matrices with which `pair` compares two backbones.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from adapters.analysis import attention, pictures, sample, similarity
from adapters.analysis.attention import AttentionReader, AttentionStatistics, check
from adapters.analysis.layers import Layer, LayerReader
from adapters.analysis.protocol import AttentionProtocol, Layout, SimilarityProtocol
from adapters.analysis.similarity import CKA, centred_grams
from bench.backbones.backbone import LoadReport
from bench.errors import UserError
from bench.files import digest, replacing
from bench.tasks import Job, Outcome, Selection

VERSION = 1  # of the cached results; increase it when their numbers change


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeImages:
    """The results of a pass.

    Args:
        heads: every head's "distance", "entropy" and "KL", by block; None without attention.
        cka: between all layers [l, l].
        grams: `centred_grams` of every minibatch, float32 [l, n * n].
        seconds: duration of the pass, also when the results are from the cache.
    """

    heads: dict[str, list[list[float]]] | None
    cka: Tensor
    grams: list[Tensor]
    images: int
    seconds: float
    load_report: LoadReport


def evaluate_attention(job: Job, layout: Layout) -> Outcome:
    """Measure the attention of the job's backbone; raises UserError for one without attention."""
    started = time.perf_counter()
    found = measured(job, layout, needs_attention=True)
    assert found.heads is not None
    pictures.heads(found.heads, job)
    curves = {f"{what}/{block}": heads for what, blocks in found.heads.items() for block, heads in enumerate(blocks)}
    return _outcome(found, attention.metrics(found.heads), curves, layout, started)


def evaluate_similarity(job: Job, layout: Layout) -> Outcome:
    """Compare the layers of the job's backbone; raises UserError for features that are equal for all images."""
    started = time.perf_counter()
    found = measured(job, layout, needs_attention=False)
    matrix = found.cka.numpy()
    pictures.similarity(matrix, job)
    grams = {f"batch{index}": batch.numpy() for index, batch in enumerate(found.grams)}
    np.savez_compressed(pictures.sidecar_path(job, similarity.GRAMS), **grams)
    curves = {f"CKA/{layer}": row.tolist() for layer, row in enumerate(matrix)}
    return _outcome(found, similarity.metrics(matrix), curves, layout, started)


def _outcome(
    found: WholeImages, metrics: dict[str, float], curves: dict[str, list[float]], layout: Layout, started: float
) -> Outcome:
    return Outcome(
        metrics=metrics,
        load_report=found.load_report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=time.perf_counter() - started,
        images_per_second=found.images / found.seconds,
        curves=curves,
    )


def measured(job: Job, layout: Layout, *, needs_attention: bool) -> WholeImages:
    """Return the results of a pass over the job's images, from the cache where they are.

    Raises UserError for a backbone without attention that `needs_attention`.
    """
    path = job.cache / "analysis" / f"{_key(job, layout)}.pt"
    if path.is_file():
        cached = torch.load(path, weights_only=True)
        found = WholeImages(**cached | {"load_report": LoadReport(**cached["load_report"])})
        if found.heads is not None or not needs_attention:
            return found
    model, report = sample.load(job)
    if needs_attention:
        check(model, job.backbone.arch)
    found = _pass(job, layout, model, report)
    _save(path, found)
    return found


def _key(job: Job, layout: Layout) -> str:
    """Return the hash of everything that the results depend on."""
    backbone, protocol = job.backbone, job.protocol
    shared = ("img_size", "crop_pct", "limit", "batch_size", "drop_blocks")
    return digest(
        {
            "version": VERSION,
            "backbone": [backbone.arch, backbone.weights8, backbone.sha256, backbone.tag],
            "data": [job.task.dataset.fingerprint(job.data), dataclasses.asdict(layout), job.seed],
            "protocol": {name: getattr(protocol, name) for name in shared},
            "attention": dataclasses.asdict(_attention(protocol))["prefix_queries"],
            "features": _features(protocol),
            "software": [torch.__version__, timm.__version__, torch.device(job.device).type],
        }
    )


def _attention(protocol: Any) -> AttentionProtocol:
    """Return the job's protocol; for one of similarity, the default of attention."""
    if isinstance(protocol, AttentionProtocol):
        return protocol
    return AttentionProtocol(name="", source="")


def _features(protocol: Any) -> str:
    return protocol.features if isinstance(protocol, SimilarityProtocol) else "pooled"


def _pass(job: Job, layout: Layout, model: Any, report: LoadReport) -> WholeImages:
    drawn = sample.draw(job, layout)
    statistics, similarity = AttentionStatistics(_attention(job.protocol)), CKA()
    reader, grams = LayerReader(model), []
    try:
        watch = AttentionReader(model, job.backbone.arch, statistics.see)
    except UserError:  # no attention, which only evaluate_attention needs
        watch = None
    started = time.perf_counter()
    for batch, _ in sample.batches(drawn.images, job, "whole images"):
        layers, _ = reader(batch, watch=watch)
        own = centred_grams([_vectors(layer, _features(job.protocol)) for layer in layers])
        similarity.update(own)
        grams.append(own.float().cpu())
    return WholeImages(
        heads=statistics.by_head() if watch else None,
        cka=similarity.value().cpu(),
        grams=grams,
        images=similarity.images,
        seconds=time.perf_counter() - started,
        load_report=report,
    )


def _vectors(layer: Layer, features: str) -> Tensor:
    """Return a layer's features by the protocol's choice, [b, d]."""
    if features == "class":
        if layer.class_token is None:
            raise UserError(
                "frozen-class compares class tokens, and this architecture has none. Use --protocol frozen, which "
                "compares the mean of all patches."
            )
        return layer.class_token
    return layer.pooled if features == "pooled" else layer.tokens.flatten(1)


def _save(path: Path, found: WholeImages) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    values["load_report"] = dataclasses.asdict(found.load_report)
    with replacing(path) as temporary:
        torch.save(values, temporary)
