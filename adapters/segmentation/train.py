"""mmsegmentation on a timm backbone: heads sized to its maps, a linear head, IoU of every class."""

from adapters.openmmlab import runner  # first: it readies the process for OpenMMLab  # isort: skip
import copy
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
    """Train on train, test on val once; see `adapters.segmentation.evaluate`."""
    return runner.run(bind(job, layout), job)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """The pure config with the data (checked), its classes, and the backbone's channels filled in."""
    config = copy.deepcopy(dict(job.task.upstream(job.task, job.protocol)))
    classes = class_names(job.data, layout)
    for folder, split in ((job.train_data, "train"), (job.data, "val")):
        both = data.pairs(folder, layout, split)[: job.protocol.limit]
        data.check(both, len(classes), layout, job.cache)
        loader = "train_dataloader" if split == "train" else "test_dataloader"
        config[loader]["dataset"] |= {"data_root": str(folder), "metainfo": {"classes": classes}, "indices": len(both)}
    _size_heads(config["model"], backbone.maps_of(job), len(classes))
    train = config["train_dataloader"]
    batches = train["dataset"]["indices"] // train["batch_size"]
    config["param_scheduler"] = backbone.by_iteration(config["param_scheduler"], max(batches, 1))
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
