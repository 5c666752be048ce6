"""The analyses as tasks: each on the embedded world, on folders, and on ImageNet's samples."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path

from adapters.analysis.protocol import (
    DARK_SECRETS,
    DATASETS,
    DEBIASED,
    OCCLUSION_INVARIANT,
    SAMPLE,
    Analysis,
    AttentionProtocol,
    Layout,
    OcclusionProtocol,
    ReceptiveFieldProtocol,
    SimilarityProtocol,
    name,
    upstream,
)
from adapters.analysis.shape_bias_tasks import SHAPE_BIAS
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.datasets.items import Items
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
ANALYSES: dict[str, tuple[tuple[Analysis, ...], tuple[str, ...]]] = {
    "attention": ((ATTENTION, WITH_PREFIX), ATTENTION_METRICS),
    "receptive-field": ((RECEPTIVE_FIELD,), ("ERF", "ERF_distance")),
    "similarity": ((SIMILARITY, TOKENS, CLASS), ("CKA", "CKA_neighbours", "CKA_first_last")),
    "occlusion": ((OCCLUSION, TOKEN_DROP, MASK_TOKEN, OCCLUDERS), ("CKA", "cosine", "CKA_visible", "cosine_visible")),
}


def task(analysis: str, dataset: Dataset, layout: Layout) -> Task:
    """Make `analysis/<analysis>` on a data set; the way to add one of one's own."""
    protocols, metrics = ANALYSES[analysis]
    module = f"adapters.analysis.{analysis.replace('-', '_')}"
    return Task(
        name=name(analysis, dataset),
        version=1,
        dataset=dataset,
        protocols=tuple(_fitted(p, dataset) for p in protocols if _fits(p, dataset)),
        metrics=tuple(Metric(name=metric) for metric in metrics),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, module=module, layout=layout),
        imports=("torch", module, "adapters.analysis.pictures"),
        items=functools.partial(items, dataset=dataset),
    )


def items(folder: Path, split: str, dataset: Dataset) -> Items:
    """What a split holds, image by image."""
    from adapters.analysis.sample import pictures

    return pictures(folder, split, dataset)


def _fits(protocol: Analysis, dataset: Dataset) -> bool:
    """Only of the embedded world is it known what hides what."""
    return getattr(protocol, "by", "") != "occluders" or isinstance(dataset, EmbeddedWorld)


def _fitted(protocol: Analysis, dataset: Dataset) -> Analysis:
    """Photographs are cropped as in evaluation; the embedded world's crops are seen whole."""
    scenes = isinstance(dataset, EmbeddedWorld)
    return protocol if scenes else dataclasses.replace(protocol, crop_pct=0.875)


def evaluate(job: Job, *, module: str, layout: Layout) -> Outcome:
    """Measure the job's backbone; raises UserError where the analysis does not apply to it."""
    measure: Callable[[Job, Layout], Outcome] = importlib.import_module(module).evaluate
    return measure(job, layout)


TASKS = (*(task(analysis, *each) for each in DATASETS for analysis in ANALYSES), *SHAPE_BIAS)


# Analyses of backbones: tasks without a head.
#
#
# Nothing is trained. A seed draws the images and where they are hidden (and the weights of a backbone from
# scratch). A record's `metrics` have a headline, and "<what>/<layer>" for every layer; its `curves` the
# values of every head, layer or ratio; pictures lie beside it.

__all__ = ["TASKS"]
