"""Geirhos's sixteen classes as ImageNet-1k's: which of the 1,000 indices count as which (207 do).

The table is a fact of the published mapping: rgeirhos/texture-vs-shape@ccd0c01d42c0, human_categories.py
(`get_imagenet_indices_for_category`; the classes of Geirhos et al., arXiv 1808.08750 and 1811.12231).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters.analysis import cue_conflict
from adapters.analysis.cue_conflict import Scores, Stimulus
from adapters.analysis.pictures import shape_bias
from adapters.classification import data, probe
from adapters.classification.metric import accuracies
from adapters.classification.probe import FrozenBackbone, frozen_backbone
from bench.backbones.backbone import LoadReport
from bench.backbones.build import build
from bench.errors import UserError
from bench.tasks import Job, Outcome, Selection

# Indices of ILSVRC-2012 in the order of its WordNet ids, counted from 0; a-b is a to b inclusive.
SPANS = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}


def indices(name: str) -> list[int]:
    """The indices among ImageNet-1k's 1,000 of one of the sixteen classes."""
    ends = [span.partition("-") for span in SPANS[name].split()]
    return [i for first, _, last in ends for i in range(int(first), int(last or first) + 1)]


# What a backbone takes cue-conflict stimuli for: by its own ImageNet-1k classifier, or by a linear probe.

CLASSES = tuple(SPANS)
SHOWN = "cue_conflict/images"  # names of splits in the cache, which classification's are beside
SEEN = "cue_conflict/train"
KEPT_APART = "cue_conflict/val"


def by_classifier(job: Job) -> Outcome:
    """Geirhos's stimuli, decided by the classifier that the backbone's weights hold."""
    model, report = _with_classifier(job)
    shown = cue_conflict.stimuli(job.data, job.protocol.limit)
    frozen = FrozenBackbone(job=job, model=model, load_report=report, splits={"test": _split(shown, CLASSES)})
    found = frozen.features("test")
    started = time.perf_counter()
    chosen = decide(found.features, job.protocol.aggregation)
    return _outcome(
        job,
        cue_conflict.scores(shown, [[CLASSES[i]] for i in chosen.tolist()]),
        cue_conflict.references(shown, job.data),
        load_report=report,
        selection=Selection(selected_on=None, reported_on="test"),
        train_seconds=0.0,
        eval_seconds=found.seconds + time.perf_counter() - started,
        images_per_second=found.images_per_second,
    )


def decide(logits: Tensor, aggregation: str) -> Tensor:
    """The class [n], of the sixteen in their order, that ImageNet-1k's logits [n, 1000] are highest for.

    `aggregation` ("mean" or "sum") is of the probabilities of the classes that one of the sixteen stands for.
    """
    probabilities = logits.double().softmax(1)
    columns = [probabilities[:, indices(name)] for name in CLASSES]
    return torch.stack([getattr(c, aggregation)(1) for c in columns], 1).argmax(1)


def _with_classifier(job: Job) -> tuple[nn.Module, LoadReport]:
    """The backbone with its 1,000 outputs; raises UserError where they are not the weights'."""
    protocol, backbone = job.protocol, job.backbone
    if job.world_size > 1:
        raise UserError(f"{job.task.name} is measured by one GPU. Leave --gpus away.")
    model, report = build(
        backbone.arch,
        weights=backbone.weights,
        part=backbone.part,
        allow_partial=backbone.allow_partial,
        num_classes=1000,
        **data.size_argument(backbone.arch, protocol.img_size),
    )
    names = model.pretrained_cfg["classifier"] or ()
    owned = tuple(f"{n}." for n in ((names,) if isinstance(names, str) else names))
    drawn = [key for key in report.missing if key.startswith(owned)]
    if backbone.weights is None or not owned or drawn:
        without = f"its weights have none ({drawn[0]})" if drawn else "it has none trained"
        raise UserError(
            f"{backbone.name} cannot decide among Geirhos's classes: that takes an ImageNet-1k classifier of 1,000 "
            f"outputs, and {without}. Give weights that still have their classifier, or --task "
            f"analysis/shape-bias, which trains a linear probe on the embedded world."
        )
    return model, report


def by_probe(job: Job) -> Outcome:
    """The embedded world's swapped stimuli, decided by a linear probe that saw unswapped ones."""
    folder = job.data / "cue_conflict"
    frozen = frozen_backbone(job, folder)
    splits, shown = frozen.splits, cue_conflict.stimuli(folder, job.protocol.limit)
    classes = splits["train"].classes
    named = {SEEN: splits["train"], KEPT_APART: splits["val"], SHOWN: _split(shown, classes)}
    frozen = dataclasses.replace(frozen, splits=named)
    seen = frozen.features(SEEN)
    started = time.perf_counter()
    trials, heads = probe.search_and_train(job, seen)
    trained = time.perf_counter()
    swapped, apart = frozen.features(SHOWN), frozen.features(KEPT_APART)
    chosen = heads.logits(swapped.features)[:, 0].argmax(1)
    told = accuracies(heads.logits(apart.features)[:, 0].cpu(), apart.labels)
    return _outcome(
        job,
        cue_conflict.scores(shown, [[classes[i]] for i in chosen.tolist()]),
        {},
        also={"unswapped_top1": told["top1"]},
        load_report=frozen.load_report,
        selection=Selection(
            selected_on=f"train ({100 / job.protocol.held_out_one_in:.0f} % held out)",
            reported_on="swapped",
            trials=trials,
        ),
        train_seconds=seen.seconds + trained - started,
        eval_seconds=time.perf_counter() - trained,
        images_per_second=seen.images_per_second,
    )


def _split(shown: Sequence[Stimulus], classes: Sequence[str]) -> data.Split:
    """Stimuli as a split, labelled by shape; raises UserError for a class that is none of `classes`."""
    if strange := {name for s in shown for name in (s.shape, s.texture)} - set(classes):
        raise UserError(
            f"The list of stimuli names the classes {', '.join(sorted(strange))}. Known are {', '.join(classes)}. "
            f"Restore {cue_conflict.LIST}."
        )
    labels = [list(classes).index(s.shape) for s in shown]
    return data.Split(paths=[s.path for s in shown], labels=labels, classes=list(classes))


def _outcome(
    job: Job, found: Scores, references: Mapping[str, Scores], also: Mapping[str, float] | None = None, **told: Any
) -> Outcome:
    shape_bias(found, references, job)
    return Outcome(metrics={**metrics(found, references), **(also or {})}, **told)


def metrics(found: Scores, references: Mapping[str, Scores]) -> dict[str, float]:
    """A record's numbers: shape bias with its interval, over all and by class; others' for reference."""
    biases = {"": found.bias} | {f"/{name}": bias for name, bias in found.by_class.items()}
    numbers = {"shape_top1": found.shape, "texture_top1": found.texture}
    for suffix, bias in biases.items():
        numbers |= {
            f"shape_bias{suffix}": bias.value,
            f"shape_bias_low{suffix}": bias.low,
            f"shape_bias_high{suffix}": bias.high,
        }
    return numbers | {f"reference/{name}": other.bias.value for name, other in references.items()}
