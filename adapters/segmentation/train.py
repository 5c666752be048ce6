"""Train and test mmsegmentation on a timm backbone: bind the data, and size the heads to the backbone's maps."""

from adapters.openmmlab import runner  # first: prepares the process for OpenMMLab  # isort: skip
from typing import Any

import mmseg.datasets  # registers the data sets and transforms
import mmseg.models  # noqa: F401

from adapters.openmmlab import backbone
from adapters.openmmlab.backbone import TimmBackbone
from adapters.segmentation import data, heads, metric  # noqa: F401  registered by import
from adapters.segmentation.data import class_names
from adapters.segmentation.protocol import Layout
from bench.tasks import Job, Outcome


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test on val once."""
    return runner.run(bind(job, layout), job)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """Check the data; return the upstream config with data, classes and the backbone's channels filled in."""
    config = backbone.upstream_config(job)
    classes = class_names(job.data, layout)
    for loader, folder, split in (("train_dataloader", job.train_data, "train"), ("test_dataloader", job.data, "val")):
        both = data.pairs(folder, layout, split)[: job.protocol.limit]
        data.check(both, len(classes), layout, job.cache)
        config[loader]["dataset"] |= {"data_root": str(folder), "metainfo": {"classes": classes}, "indices": len(both)}
    _size_heads(config["model"], backbone.maps_of(job), len(classes))
    backbone.schedule_by_iteration(config)
    return config


def _size_heads(model: dict[str, Any], maps: TimmBackbone, num_classes: int) -> None:
    channels = list(maps.channels)
    if "neck" in model and maps.plain:
        model["neck"]["embed_dim"] = channels[-1]
    else:
        model.pop("neck", None)
    model["decode_head"] |= {"in_channels": channels, "num_classes": num_classes}
    if head := model.get("auxiliary_head"):
        head |= {"in_channels": channels[head["in_index"]], "num_classes": num_classes}
