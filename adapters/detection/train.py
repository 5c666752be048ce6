"""mmdetection on a timm backbone: pyramid, anchors and heads sized to its maps and the data's classes."""

import copy
import json
from typing import Any

from adapters.openmmlab import runner  # first: it readies the process for OpenMMLab  # isort: skip

import mmdet.datasets  # registers the data sets and transforms
import mmdet.models  # noqa: F401
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d

from adapters.detection import heads as pyramid
from adapters.detection import metric  # noqa: F401  registers the metric
from adapters.detection.config import LEVELS
from adapters.detection.protocol import Layout
from adapters.openmmlab import backbone, coco
from adapters.openmmlab.backbone import TimmBackbone
from bench.tasks import Job, Outcome

# mmcv's "LN" is nn.LayerNorm, which cannot normalise (N, C, H, W) over C.
MODELS.register_module(name="LN2d", module=LayerNorm2d)

CURVES = {
    "rpn": ("loss_rpn_cls", "loss_rpn_bbox"),
    "cls": ("loss_cls",),
    "bbox": ("loss_bbox",),
    "mask": ("loss_mask",),
}


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test on val once; see `adapters.detection.evaluate`."""
    return runner.run(bind(job, layout), job, curves=CURVES)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """The pure config with the data (checked), its classes, and the backbone's maps filled in."""
    config = copy.deepcopy(dict(job.task.upstream(job.task, job.protocol)))
    train, test = config["train_dataloader"], config["test_dataloader"]
    classes: list[str] | None = None
    for loader, folder, split in ((train, job.train_data, "train"), (test, job.data, "val")):
        file, images = (folder / path for path in layout.paths(split))
        coco.check(file, images, job.cache, classes=classes)
        content = json.loads(file.read_text("utf-8"))
        coco.check_masks(file, content)
        classes = classes or [category["name"] for category in content["categories"]]
        loader["dataset"] |= {
            "data_root": str(folder),
            "metainfo": {"classes": classes},
            "indices": min(len(content["images"]), job.protocol.limit or len(content["images"])),
        }
    config["test_evaluator"]["ann_file"] = str(file)
    _size_model(config["model"], backbone.maps_of(job), len(classes or ()))
    batches = train["dataset"]["indices"] // train["batch_size"]
    config["param_scheduler"] = backbone.by_iteration(config["param_scheduler"], max(batches, 1))
    return config


def _size_model(model: dict[str, Any], maps: TimmBackbone, num_classes: int) -> None:
    """ViTDet's pyramid above a plain backbone; anchors and RoIs at the strides of the pyramid."""
    neck, heads = model["neck"], model["roi_head"]
    if maps.plain:
        strides = list(pyramid.pyramid_strides(maps.strides[-1], LEVELS))
        model["neck"] = {
            "type": "SimpleFeaturePyramid",
            "in_channels": maps.channels[-1],
            "out_channels": neck["out_channels"],
            "num_outs": LEVELS,
        }
    else:
        coarser = [2 ** (i + 1) * maps.strides[-1] for i in range(LEVELS - len(maps.strides))]
        strides = [*maps.strides, *coarser]
        neck["in_channels"] = list(maps.channels)
    model["rpn_head"]["anchor_generator"]["strides"] = strides
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        # An object of 224 pixels belongs to stride 16, as in the FPN paper, one of half to half.
        heads[extractor] |= {"featmap_strides": strides[:-1], "finest_scale": 14 * strides[0]}
    heads["bbox_head"]["num_classes"] = heads["mask_head"]["num_classes"] = num_classes
