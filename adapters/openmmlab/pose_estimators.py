"""mmpose on a timm backbone: one heatmap head for every stride, boxes as the protocol says."""

import copy
import math
from pathlib import Path
from typing import Any

from adapters.openmmlab import runner  # first: it readies the process for OpenMMLab  # isort: skip

import mmpose.datasets  # registers the data sets and transforms
import mmpose.models  # noqa: F401
from mmpose.registry import DATASETS

from adapters.openmmlab import (
    binding,
    coco_annotations,
    pose_data,
    pose_metric,  # noqa: F401  registers the metrics
)
from adapters.openmmlab.backbone import TimmBackbone
from adapters.openmmlab.pose_protocol import Layout, PoseProtocol
from bench.tasks import Job, Outcome

HEATMAP_STRIDE = 4


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test once; see `adapters.pose.evaluate`."""
    return runner.run(bind(job, layout), job, reported_on=layout.tested)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """The pure config with the data (checked), and crop and head sized to the backbone."""
    config = copy.deepcopy(dict(job.task.upstream(job.task, job.protocol)))
    persons = _bind_train(config["train_dataloader"]["dataset"], job, layout)
    _bind_test(config, job, layout)
    _size(config, binding.maps_of(job))
    batches = max(persons // job.protocol.batch_size, 1)
    config["param_scheduler"] = [
        {**span, "milestones": [step * batches for step in span["milestones"]]}
        if "milestones" in span
        else span
        for span in binding.by_iteration(config["param_scheduler"], batches)
    ]
    return config


def _bind_train(dataset: dict[str, Any], job: Job, layout: Layout) -> int:
    """Check the split trained on and limit it; returns how many persons it has."""
    p: PoseProtocol = job.protocol
    layout = p.transfer.layout if p.transfer else layout
    file, content = _checked(dataset, job.train_data, job, layout)
    persons = pose_data.num_persons(content, p.limit, file)
    dataset |= _located(job.train_data, layout) | {"indices": persons}
    return persons


def _bind_test(config: dict[str, Any], job: Job, layout: Layout) -> None:
    """Check the split tested, limit it, and take the boxes that the protocol says."""
    p: PoseProtocol = job.protocol
    dataset = config["test_dataloader"]["dataset"]
    file, content = _checked(dataset, job.data, job, layout)
    keypoints = config["test_evaluator"][0]
    keypoints |= {"ann_file": str(file), "limit": p.limit}
    dataset |= {
        "data_root": str(job.data),
        "indices": pose_data.num_persons(content, p.limit, file),
    }
    if p.bbox_source == "detector":
        boxes = job.data / layout.detections
        known = pose_data.images(content, None)
        chosen = pose_data.detections(boxes, known, p.limit)
        dataset |= {"bbox_file": str(boxes), "indices": chosen}


def _located(folder: Path, layout: Layout) -> dict[str, Any]:
    """Where data and keypoint names lie; mmpose would find the latter too, with a warning each time."""
    names = Path(DATASETS.get(layout.upstream).METAINFO["from_file"]).name
    installed = Path(mmpose.__file__).parent / ".mim/configs/_base_/datasets" / names
    return {"data_root": str(folder), "metainfo": {"from_file": str(installed)}}


def _checked(
    dataset: dict[str, Any], folder: Path, job: Job, layout: Layout
) -> tuple[Path, dict[str, Any]]:
    """The annotations of a split, found good together with its images."""
    file = folder / dataset["ann_file"]
    coco_annotations.check(
        file, folder / dataset["data_prefix"]["img"], job.cache, num_keypoints=layout.num_keypoints
    )
    return file, pose_data.read(file)


def _size(config: dict[str, Any], maps: TimmBackbone) -> None:
    """Deconvolve the backbone's last map to heatmaps of stride 4 (3.5 from patches of 14).

    The crop is rounded up to whole patches: a padded edge would shift the heatmaps against the crop.
    """
    head, backbone = config["model"]["head"], config["model"]["backbone"]
    stride = maps.strides[-1]
    num_deconvs = max(round(math.log2(stride / HEATMAP_STRIDE)), 0)
    head["in_channels"] = maps.channels[-1]
    head["deconv_out_channels"] = (head["deconv_out_channels"],) * num_deconvs
    head["deconv_kernel_sizes"] = (head["deconv_kernel_sizes"],) * num_deconvs
    cells = [math.ceil(side / stride) for side in backbone["img_size"]]
    backbone["img_size"] = tuple(stride * count for count in cells)
    crop = {"input_size": tuple(stride * count for count in reversed(cells))}
    codec = crop | {"heatmap_size": tuple(2**num_deconvs * count for count in reversed(cells))}
    head["decoder"] |= codec
    for loader in ("train_dataloader", "test_dataloader"):
        for step in config[loader]["dataset"]["pipeline"]:
            if step["type"] == "TopdownAffine":
                step |= crop
            if step["type"] == "GenerateTarget":
                step["encoder"] |= codec
