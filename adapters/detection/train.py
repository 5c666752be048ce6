"""Train and test mmdetection on a timm backbone: pyramid, anchors and heads sized to its maps and the classes."""

import json
from typing import Any

from adapters.openmmlab import runner  # first: prepares the process for OpenMMLab  # isort: skip

import mmdet.datasets  # registers the data sets and transforms
import mmdet.models  # noqa: F401
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d

from adapters.detection import data, heads, metric  # noqa: F401  registers pyramid and metric
from adapters.detection.config import LEVELS
from adapters.detection.protocol import Layout
from adapters.openmmlab import backbone, coco
from adapters.openmmlab.backbone import TimmBackbone
from bench.tasks import Job, Outcome

# mmcv's "LN" is nn.LayerNorm, which cannot normalise (N, C, H, W) over C.
MODELS.register_module(name="LN2d", module=LayerNorm2d)

CURVES = {"rpn": ("loss_rpn_cls", "loss_rpn_bbox")} | {name: (f"loss_{name}",) for name in ("cls", "bbox", "mask")}


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test on val once."""
    return runner.run(bind(job, layout), job, curves=CURVES)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """Check the data; return the upstream config with data, classes and the backbone's channels and strides."""
    config = backbone.upstream_config(job)
    train, test = config["train_dataloader"], config["test_dataloader"]
    classes: list[str] | None = None
    for loader, folder, split in ((train, job.train_data, "train"), (test, job.data, "val")):
        file, images = (folder / path for path in layout.paths(split))
        coco.check(file, images, job.cache, classes=classes)
        content = json.loads(file.read_text("utf-8"))
        data.check_masks(file, content)
        classes = classes or [category["name"] for category in content["categories"]]
        loader["dataset"] |= {
            "data_root": str(folder),
            "metainfo": {"classes": classes},
            "indices": min(len(content["images"]), job.protocol.limit or len(content["images"])),
        }
    config["test_evaluator"]["ann_file"] = str(file)
    _size_model(config["model"], backbone.maps_of(job), len(classes or ()))
    backbone.schedule_by_iteration(config)
    return config


def _size_model(model: dict[str, Any], maps: TimmBackbone, num_classes: int) -> None:
    """Fit neck, anchors and RoI heads to the backbone's maps; a plain backbone gets ViTDet's pyramid."""
    neck, roi_head = model["neck"], model["roi_head"]
    if maps.plain:
        strides = list(heads.pyramid_strides(maps.strides[-1], LEVELS))
        widths = {"in_channels": maps.channels[-1], "out_channels": neck["out_channels"]}
        model["neck"] = {"type": "SimpleFeaturePyramid", **widths, "num_outs": LEVELS}
    else:
        coarser = [2 ** (i + 1) * maps.strides[-1] for i in range(LEVELS - len(maps.strides))]
        strides = [*maps.strides, *coarser]
        neck["in_channels"] = list(maps.channels)
    model["rpn_head"]["anchor_generator"]["strides"] = strides
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        # Objects of 224 pixels go to stride 16, as in the FPN paper (arXiv 1612.03144), of 112 to stride 8.
        roi_head[extractor] |= {"featmap_strides": strides[:-1], "finest_scale": 14 * strides[0]}
    roi_head["bbox_head"]["num_classes"] = roi_head["mask_head"]["num_classes"] = num_classes
