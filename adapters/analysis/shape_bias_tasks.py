"""Whether a backbone goes by shape or by texture, where the two are of different classes.

    python -m bench.run --backbone test_vit --task analysis/shape-bias
    python -m bench.run --backbone tf_efficientnet_lite0@FILE --task analysis/shape-bias-geirhos --data-root DIR

`shape-bias` trains a linear probe on the embedded world's six classes, each in its own texture, and shows
it the same classes in one another's: for any backbone. `shape-bias-geirhos` shows the 1,200 stimuli of
Geirhos et al. to a backbone that still has its ImageNet-1k classifier. Shape bias is 0 to 1: of the
decisions for one of a stimulus's two classes, the part that goes by shape (`cue_conflict`). Neither end
is better; higher is nearer to people, who have 0.959.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from adapters.analysis.protocol import Analysis, name
from adapters.classification import config
from adapters.classification.protocol import Frozen
from bench.datasets.dataset import Dataset, EmbeddedWorld, Facts
from bench.datasets.items import Items
from bench.tasks import Job, Metric, Outcome, Task

PAPER = "Geirhos et al., ImageNet-trained CNNs are biased towards texture (arXiv 1811.12231)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeirhosProtocol(Analysis):
    """Decisions of an ImageNet-1k classifier among sixteen classes.

    Args:
        aggregation: of the probabilities of the ImageNet classes that one of the sixteen stands for.
    """

    batch_size: int = 64
    limit: int | None = None
    aggregation: Literal["mean", "sum"] = "mean"


GEIRHOS_SOURCE = (
    f"{PAPER}: the stimuli whole at 224 pixels, the probabilities of ImageNet's classes {{}} over each of sixteen "
    f"(the mapping of rgeirhos/texture-vs-shape), the highest decides. Interval: percentile bootstrap over stimuli."
)
MEAN = GeirhosProtocol(
    name="frozen",
    source=GEIRHOS_SOURCE.format("averaged")
    + " Averaged, as the published mapping does and its authors recommend over summing.",
    expected="ResNet-50 of torchvision: shape bias 0.221; people: 0.959 (the authors' response files)",
    command="python -m bench.run --backbone resnet50.tv_in1k --task analysis/shape-bias-geirhos --data-root DIR",
)
SUM = GeirhosProtocol(
    name="frozen-sum",
    source=GEIRHOS_SOURCE.format("summed")
    + " Summed: a class that stands for more of ImageNet's is decided for more often.",
    aggregation="sum",
)
PROBE = Frozen(
    name="frozen",
    source=f"After {PAPER}, for backbones without ImageNet's classes: classification's linear probe on images whose "
    "classes have each their own texture, shown the same classes with textures swapped. Interval: percentile "
    "bootstrap over stimuli.",
    img_size=128,
    crop_pct=1.0,
)
GEIRHOS = Dataset(
    name="geirhos",
    source="https://github.com/rgeirhos/texture-vs-shape (stimuli/style-transfer-preprocessed-512), with a list "
    "cue_conflict.csv: path,shape,texture",
    licence="CC BY 4.0",
    root="cue_conflict",
    splits={"test": ("cue_conflict.csv", "images")},
    facts=Facts(
        counts={"test": 1_200},
        classes=16,
        gigabytes=0.136,
        known_from="rgeirhos/texture-vs-shape: 1,280 stimuli, of which 80 have shape and texture of one class",
    ),
)
METRICS = ("shape_bias", "shape_top1", "texture_top1")


def upstream(task: Task, protocol: GeirhosProtocol | Frozen) -> dict[str, Any]:
    """What no field of the protocol says."""
    if isinstance(protocol, GeirhosProtocol):
        return {"model": "timm num_classes=1000", "mapping": 16, "interpolation": "bicubic"}

    return {"probe": config.upstream(task, protocol), "stimuli": "cue_conflict"}


def evaluate(job: Job) -> Outcome:
    """Let the backbone decide; raises UserError where it has no classifier, or none of the classes is known to it."""
    from adapters.analysis import shape_bias

    if isinstance(job.protocol, GeirhosProtocol):
        return shape_bias.by_classifier(job)
    return shape_bias.by_probe(job)


def items(folder: Path, split: str) -> Items:
    """What the list of stimuli names."""
    from adapters.analysis.sample import cue_conflicts

    return cue_conflicts(folder)


def _task(dataset: Dataset, protocols: tuple[Any, ...], metrics: tuple[str, ...]) -> Task:
    return Task(
        name=name("shape-bias", dataset),
        version=1,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=metric) for metric in metrics),
        upstream=upstream,
        evaluate=evaluate,
        imports=("adapters.analysis.shape_bias_tasks",),
        items=items if dataset is GEIRHOS else None,
    )


SHAPE_BIAS = (_task(EmbeddedWorld(), (PROBE,), (*METRICS, "unswapped_top1")), _task(GEIRHOS, (MEAN, SUM), METRICS))
