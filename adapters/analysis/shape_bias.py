"""Whether a backbone decides by shape or by texture, where they belong to different classes (arXiv 1811.12231).

    python -m bench.run --backbone test_vit --task analysis/shape-bias
    python -m bench.run --backbone tf_efficientnet_lite0@FILE --task analysis/shape-bias-geirhos --data-root DIR

`shape-bias`, for any backbone, trains a linear probe on the embedded world's six classes, each in its own texture, and
tests it on the same classes with swapped textures. `shape-bias-geirhos` tests the ImageNet-1k classifier of the weights
on the 1,200 stimuli of Geirhos et al. Shape bias is 0 to 1 (see `cue_conflict`). Neither end is better; people have
0.959.
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

# Geirhos's sixteen classes in ImageNet-1k: 207 indices, from 0 in the order of WordNet ids; a-b includes b. From
# rgeirhos/texture-vs-shape@ccd0c01d42c0, human_categories.py (`get_imagenet_indices_for_category`; the classes of
# Geirhos et al., arXiv 1808.08750 and 1811.12231).
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
    """Return the ImageNet-1k indices of one of the sixteen classes."""
    ends = [span.partition("-") for span in SPANS[name].split()]
    return [i for first, _, last in ends for i in range(int(first), int(last or first) + 1)]


CLASSES = tuple(SPANS)
SHOWN = "cue_conflict/images"  # names of splits in the feature cache, different from classification's
SEEN = "cue_conflict/train"
UNSWAPPED = "cue_conflict/val"


def by_classifier(job: Job) -> Outcome:
    """Test the ImageNet-1k classifier of the backbone's weights on Geirhos's stimuli."""
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
    """Return the index [n], among the sixteen classes, of the highest probability for logits [n, 1000].

    `aggregation` ("mean" or "sum") combines the probabilities of the ImageNet classes of one of the sixteen.
    """
    probabilities = logits.double().softmax(1)
    columns = [probabilities[:, indices(name)] for name in CLASSES]
    return torch.stack([getattr(c, aggregation)(1) for c in columns], 1).argmax(1)


def _with_classifier(job: Job) -> tuple[nn.Module, LoadReport]:
    """Build the backbone with its 1,000 outputs; raises UserError where the weights do not contain them."""
    protocol, backbone = job.protocol, job.backbone
    if job.world_size > 1:
        raise UserError(f"{job.task.name} runs on one GPU, and {job.world_size} are requested. Omit --gpus.")
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
            f"outputs, and {without}. Use weights that contain their classifier, or --task "
            f"analysis/shape-bias, which trains a linear probe on the embedded world."
        )
    return model, report


def by_probe(job: Job) -> Outcome:
    """Test a linear probe, trained on the embedded world's unswapped images, on those with swapped textures."""
    folder = job.data / "cue_conflict"
    frozen = frozen_backbone(job, folder)
    splits, shown = frozen.splits, cue_conflict.stimuli(folder, job.protocol.limit)
    classes = splits["train"].classes
    named = {SEEN: splits["train"], UNSWAPPED: splits["val"], SHOWN: _split(shown, classes)}
    frozen = dataclasses.replace(frozen, splits=named)
    seen = frozen.features(SEEN)
    started = time.perf_counter()
    trials, heads = probe.search_and_train(job, seen)
    trained = time.perf_counter()
    swapped, apart = frozen.features(SHOWN), frozen.features(UNSWAPPED)
    chosen = heads.logits(swapped.features)[:, 0].argmax(1)
    unswapped = accuracies(heads.logits(apart.features)[:, 0].cpu(), apart.labels)
    return _outcome(
        job,
        cue_conflict.scores(shown, [[classes[i]] for i in chosen.tolist()]),
        {},
        also={"unswapped_top1": unswapped["top1"]},
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
    """Return stimuli as a split, labelled by shape; raises UserError for a class that is not in `classes`."""
    if strange := {name for s in shown for name in (s.shape, s.texture)} - set(classes):
        raise UserError(
            f"The list of stimuli names the classes {', '.join(sorted(strange))}. Known are {', '.join(classes)}. "
            f"Restore {cue_conflict.LIST}."
        )
    labels = [list(classes).index(s.shape) for s in shown]
    return data.Split(paths=[s.path for s in shown], labels=labels, classes=list(classes))


def _outcome(
    job: Job, found: Scores, references: Mapping[str, Scores], also: Mapping[str, float] | None = None, **fields: Any
) -> Outcome:
    shape_bias(found, references, job)
    return Outcome(metrics={**metrics(found, references), **(also or {})}, **fields)


def metrics(found: Scores, references: Mapping[str, Scores]) -> dict[str, float]:
    """Return a record's metrics: shape bias with its interval, overall and by class, and that of the references."""
    biases = {"": found.bias} | {f"/{name}": bias for name, bias in found.by_class.items()}
    numbers = {"shape_top1": found.shape, "texture_top1": found.texture}
    for suffix, bias in biases.items():
        numbers |= {
            f"shape_bias{suffix}": bias.value,
            f"shape_bias_low{suffix}": bias.low,
            f"shape_bias_high{suffix}": bias.high,
        }
    return numbers | {f"reference/{name}": other.bias.value for name, other in references.items()}
