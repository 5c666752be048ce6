"""What attention and similarity need of a backbone, in one pass over whole images that both share.

Whichever of `analysis/attention` and `analysis/similarity` runs first measures both, and leaves what it
found in the cache of the runs; the other reads it there. Memory does not grow with the number of images,
but for the small Gram matrices that compare two backbones.
"""

import dataclasses
import os
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
from bench.files import digest
from bench.tasks import Job, Outcome, Selection

VERSION = 1  # raised whenever the same key would give other numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeImages:
    """What a pass found.

    Args:
        heads: every head's "distance", "entropy" and "KL", by block; None without attention.
        cka: between all layers [l, l].
        grams: of every minibatch, `centred_grams` [l, n * n] in float32.
        seconds: of the pass, whenever that was.
    """

    heads: dict[str, list[list[float]]] | None
    cka: Tensor
    grams: list[Tensor]
    images: int
    seconds: float
    load_report: LoadReport


def evaluate_attention(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for one without attention."""
    started = time.perf_counter()
    found = analysed(job, layout, attention=True)
    assert found.heads is not None
    pictures.heads(found.heads, job)
    return Outcome(
        metrics=attention.metrics(found.heads),
        load_report=found.load_report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=time.perf_counter() - started,
        images_per_second=found.images / found.seconds,
        curves={f"{what}/{block}": heads for what, blocks in found.heads.items() for block, heads in enumerate(blocks)},
    )


def evaluate_similarity(job: Job, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError for features that are the same for all images."""
    started = time.perf_counter()
    found = analysed(job, layout, attention=False)
    matrix = found.cka.numpy()
    pictures.similarity(matrix, job)
    grams = {f"batch{index}": batch.numpy() for index, batch in enumerate(found.grams)}
    np.savez_compressed(pictures.place(job, similarity.GRAMS), **grams)
    return Outcome(
        metrics=similarity.metrics(matrix),
        load_report=found.load_report,
        selection=Selection(selected_on=None, reported_on=layout.images),
        train_seconds=0.0,
        eval_seconds=time.perf_counter() - started,
        images_per_second=found.images / found.seconds,
        curves={f"CKA/{layer}": row.tolist() for layer, row in enumerate(matrix)},
    )


def analysed(job: Job, layout: Layout, *, attention: bool) -> WholeImages:
    """What a pass over the job's images finds, from the cache where it is.

    Args:
        attention: whether the backbone must have some; raises UserError if not.
    """
    path = job.cache / "analysis" / f"{_key(job, layout)}.pt"
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        found = WholeImages(**kept | {"load_report": LoadReport(**kept["load_report"])})
        if found.heads is not None or not attention:
            return found
    model, report = sample.load(job)
    if attention:
        check(model, job.backbone.arch)
    found = _pass(job, layout, model, report)
    _keep(path, found)
    return found


def _key(job: Job, layout: Layout) -> str:
    """The hash of everything that decides what is found."""
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
    """The job's own choices, or the default ones."""
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
    except UserError:  # said where attention is what was asked for
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
    """What a protocol calls a layer's features, an image each [b, d]."""
    if features == "class":
        if layer.class_token is None:
            raise UserError(
                "The features of frozen-class are a layer's class token, and this architecture has none. Use "
                "--protocol frozen, which takes the mean of all patches."
            )
        return layer.class_token
    return layer.pooled if features == "pooled" else layer.tokens.flatten(1)


def _keep(path: Path, found: WholeImages) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    values["load_report"] = dataclasses.asdict(found.load_report)
    torch.save(values, temporary)
    temporary.replace(path)
