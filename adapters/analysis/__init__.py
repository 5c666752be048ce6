"""Analyses of backbones: tasks without a head, in which nothing is trained.

    python -m bench.run --backbone A B --task analysis/attention analysis/similarity

Each analysis is a task on the embedded world, on image folders and on ImageNet's samples. The seed draws the
images, what is hidden of them, and a scratch backbone's weights. A record's `metrics` have the headline and
"<name>/<layer>" for every layer; its `curves` have every head, layer or ratio; pictures are its sidecars.
`shape-bias` alone trains a linear probe, on the embedded world; see `adapters.analysis.shape_bias`.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.analysis.protocol import (
    DARK_SECRETS,
    DATASETS,
    DEBIASED,
    GEIRHOS,
    MEAN,
    OCCLUSION_INVARIANT,
    PROBE,
    SAMPLE,
    SHAPE_BIAS_METRICS,
    SUM,
    Analysis,
    AttentionProtocol,
    GeirhosProtocol,
    Layout,
    OcclusionProtocol,
    ReceptiveFieldProtocol,
    SimilarityProtocol,
    name,
    shape_bias_upstream,
    upstream,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Metric, Outcome, Task

ATTENTION = AttentionProtocol(
    name="frozen",
    source=f"Attention distance, entropy and KL divergence between heads as {DARK_SECRETS} has them, and where it "
    f"leaves a choice: prefix tokens are no queries; the distance is over patches alone, renormalised; eps 1e-8. "
    f"{SAMPLE}",
)
WITH_PREFIX = dataclasses.replace(
    ATTENTION,
    name="frozen-with-prefix",
    source=f"{ATTENTION.source} Prefix tokens are queries for entropy and divergence.",
    prefix_queries=True,
)
SIMILARITY = SimilarityProtocol(
    name="frozen", source=f"CKA between layers after {DARK_SECRETS}: {DEBIASED}, of each layer's mean patch. {SAMPLE}"
)
TOKENS = dataclasses.replace(
    SIMILARITY,
    name="frozen-tokens",
    source=SIMILARITY.source.replace("mean patch", "patches, side by side"),
    features="tokens",
)
CLASS = dataclasses.replace(
    SIMILARITY, name="frozen-class", source=SIMILARITY.source.replace("mean patch", "class token"), features="class"
)
OCCLUSION = OcclusionProtocol(
    name="frozen",
    source=f"After {OCCLUSION_INVARIANT}: {DEBIASED}, between features of whole and occluded images. Cells of 32 "
    f"pixels, drawn by each image's own seed, are filled with the mean colour: out of distribution for MAE. {SAMPLE}",
)
TOKEN_DROP = dataclasses.replace(
    OCCLUSION,
    name="frozen-token-drop",
    source=f"{OCCLUSION.source.partition(' Cells')[0]} Patches are dropped before the first block: in distribution "
    f"for MAE alone. {SAMPLE}",
    by="token-drop",
    cell=0,
)
MASK_TOKEN = dataclasses.replace(
    OCCLUSION,
    name="frozen-mask-token",
    source=f"{OCCLUSION.source.partition(' Cells')[0]} Patches in cells of 32 pixels (SimMIM's) are the mask token "
    f"that the weights hold. {SAMPLE}",
    by="mask-token",
)
OCCLUDERS = dataclasses.replace(
    OCCLUSION,
    name="frozen-occluders",
    source=f"{OCCLUSION.source.partition(' Cells')[0]} Things of the embedded world's val scenes that others hide, at "
    "known fractions (the nearest tenth), and the same without those others; minibatches of 16.",
    by="occluders",
    batch_size=16,
    neighbours=0,
    limit=400,
)
RECEPTIVE_FIELD = ReceptiveFieldProtocol(
    name="frozen",
    source="Effective receptive field by the gradient, thresholded at 1 - 95.45 % (Luo et al. 2016, arXiv "
    f"1701.04128). {SAMPLE.replace('1,000', '128')}",
)

ATTENTION_METRICS = ("distance", "distance_last3", "entropy", "entropy_last3", "KL", "KL_last3")
SIMILARITY_METRICS = ("CKA", "CKA_neighbours", "CKA_first_last")
OCCLUSION_METRICS = ("CKA", "cosine", "CKA_visible", "cosine_visible")
# By analysis: the module and function that measure, the protocols, the headline metrics.
ANALYSES: dict[str, tuple[str, str, tuple[Analysis, ...], tuple[str, ...]]] = {
    "attention": ("whole_images", "evaluate_attention", (ATTENTION, WITH_PREFIX), ATTENTION_METRICS),
    "receptive-field": ("receptive_field", "evaluate", (RECEPTIVE_FIELD,), ("ERF", "ERF_distance")),
    "similarity": ("whole_images", "evaluate_similarity", (SIMILARITY, TOKENS, CLASS), SIMILARITY_METRICS),
    "occlusion": ("occlusion", "evaluate", (OCCLUSION, TOKEN_DROP, MASK_TOKEN, OCCLUDERS), OCCLUSION_METRICS),
}


def task(analysis: str, dataset: Dataset, layout: Layout) -> Task:
    """Make `analysis/<analysis>` on a data set, which may be your own."""
    file, function, protocols, metrics = ANALYSES[analysis]
    module = f"adapters.analysis.{file}"
    return Task(
        name=name(analysis, dataset),
        version=1,
        dataset=dataset,
        protocols=tuple(_fitted(p, dataset) for p in protocols if _fits(p, dataset)),
        metrics=tuple(Metric(name=metric) for metric in metrics),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, module=module, function=function, layout=layout),
        imports=("torch", module, "adapters.analysis.pictures"),
        items=functools.partial(items, dataset=dataset),
    )


def items(folder: Path, split: str, dataset: Dataset) -> Items:
    """Return the images of a split, for `bench.datasets`."""
    from adapters.analysis.sample import pictures

    return pictures(folder, split, dataset)


def _fits(protocol: Analysis, dataset: Dataset) -> bool:
    """Return whether a protocol applies: only in the embedded world is it known what occludes what."""
    return getattr(protocol, "by", "") != "occluders" or isinstance(dataset, EmbeddedWorld)


def _fitted(protocol: Analysis, dataset: Dataset) -> Analysis:
    """Return the protocol with the crop of the data: photographs are cropped, the embedded world's images are not."""
    scenes = isinstance(dataset, EmbeddedWorld)
    return protocol if scenes else dataclasses.replace(protocol, crop_pct=0.875)


def evaluate(job: Job, *, module: str, function: str, layout: Layout) -> Outcome:
    """Measure the job's backbone by a function of a module; raises UserError where that does not apply to it."""
    # Imported here, since the modules import torch, which `--list` must not.
    measure: Callable[[Job, Layout], Outcome] = getattr(importlib.import_module(module), function)
    return measure(job, layout)


def evaluate_shape_bias(job: Job) -> Outcome:
    """Measure the backbone's shape bias; raises UserError where it cannot decide among the classes."""
    from adapters.analysis import shape_bias

    if isinstance(job.protocol, GeirhosProtocol):
        return shape_bias.by_classifier(job)
    return shape_bias.by_probe(job)


def shape_bias_items(folder: Path, split: str) -> Items:
    """Return the listed stimuli, for `bench.datasets`."""
    from adapters.analysis.sample import cue_conflicts

    return cue_conflicts(folder)


def _shape_bias(dataset: Dataset, protocols: tuple[Any, ...], metrics: tuple[str, ...]) -> Task:
    return Task(
        name=name("shape-bias", dataset),
        version=1,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=metric) for metric in metrics),
        upstream=shape_bias_upstream,
        evaluate=evaluate_shape_bias,
        imports=("adapters.analysis.shape_bias",),
        items=shape_bias_items if dataset is GEIRHOS else None,
    )


SHAPE_BIAS = (
    _shape_bias(EmbeddedWorld(), (PROBE,), (*SHAPE_BIAS_METRICS, "unswapped_top1")),
    _shape_bias(GEIRHOS, (MEAN, SUM), SHAPE_BIAS_METRICS),
)
TASKS = (*(task(analysis, *each) for each in DATASETS for analysis in ANALYSES), *SHAPE_BIAS)
