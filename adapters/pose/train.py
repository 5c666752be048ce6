"""Train and test mmpose on a timm backbone: persons and boxes bound, crop and heatmap head sized to its stride."""

import math
from pathlib import Path
from typing import Any

from adapters.openmmlab import runner  # first: prepares the process for OpenMMLab  # isort: skip

import mmpose.datasets  # registers the data sets and transforms
import mmpose.models
import mmpose.visualization  # slow; every run imports it, so do it once before the runs fork
import torch
from mmpose.registry import DATASETS

from adapters.openmmlab import backbone, coco
from adapters.openmmlab.backbone import TimmBackbone
from adapters.pose import data, metric  # noqa: F401  registers the metrics
from adapters.pose.protocol import Layout, PoseProtocol
from bench.tasks import Job, Outcome

HEATMAP_STRIDE = 4
INSTALLED_NAMES = Path(mmpose.__file__).parent / ".mim/configs/_base_/datasets"


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test once on the layout's `tested` split."""
    return runner.run(bind(job, layout), job, reported_on=layout.tested)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """Check the data; return the upstream config with data filled in, and crop and head sized to the backbone."""
    p: PoseProtocol = job.protocol
    config = backbone.upstream_config(job)
    trained = p.transfer.layout if p.transfer else layout
    _bind_persons(config["train_dataloader"]["dataset"], job.train_data, job, trained)
    _bind_test(config, job, layout)
    _size(config, job.backbone.arch)
    batches = backbone.schedule_by_iteration(config)
    if p.steps:
        config["param_scheduler"][-1]["milestones"] = [step * batches for step in p.steps]
    return config


def _bind_persons(dataset: dict[str, Any], folder: Path, job: Job, layout: Layout) -> Any:
    """Check a split, and limit it to the persons of the first `limit` images; return its annotations."""
    file, limit = folder / dataset["ann_file"], job.protocol.limit
    coco.check(
        file,
        folder / dataset["data_prefix"]["img"],
        job.cache,
        num_keypoints=layout.num_keypoints,
        points_may_leave=layout.points_may_leave,
    )
    content = data.read(file)
    # The full path: mmpose finds its file of keypoint names without it too, but warns each time.
    names = Path(DATASETS.get(layout.upstream).METAINFO["from_file"]).name
    dataset |= {
        "data_root": str(folder),
        "metainfo": {"from_file": str(INSTALLED_NAMES / names)},
        "indices": data.num_persons(content, limit, file),
    }
    return content


def _bind_test(config: dict[str, Any], job: Job, layout: Layout) -> None:
    """Check and limit the tested split, and bind the boxes of the protocol's `bbox_source`."""
    p: PoseProtocol = job.protocol
    dataset, keypoints = config["test_dataloader"]["dataset"], config["test_evaluator"][0]
    content = _bind_persons(dataset, job.data, job, layout)
    file = job.data / dataset["ann_file"]
    data.check_scored(content, file, has_area=layout.has_area, crowded=layout.has_crowding)
    keypoints |= {"ann_file": str(file), "limit": p.limit}
    if p.bbox_source == "detector":
        boxes = job.data / layout.detections
        chosen = data.detections(boxes, data.images(content, None), p.limit)
        dataset |= {"bbox_file": str(boxes), "indices": chosen}


def _size(config: dict[str, Any], arch: str) -> None:
    """Size the head to deconvolve the backbone's last map to heatmaps of stride 4 (3.5 from patches of 14).

    The crop is rounded up to whole patches: a padded edge would shift the heatmaps against the crop.
    """
    head, settings = config["model"]["head"], config["model"]["backbone"]
    with torch.device("meta"):  # at the architecture's own size: the crop may not be whole patches yet
        maps = TimmBackbone(arch=arch, out_indices=settings["out_indices"])
    stride = maps.strides[-1]
    num_deconvs = max(round(math.log2(stride / HEATMAP_STRIDE)), 0)
    head["in_channels"] = maps.channels[-1]
    head["deconv_out_channels"] = (head["deconv_out_channels"],) * num_deconvs
    head["deconv_kernel_sizes"] = (head["deconv_kernel_sizes"],) * num_deconvs
    cells = [math.ceil(side / stride) for side in settings["img_size"]]
    settings["img_size"] = tuple(stride * count for count in cells)
    crop = {"input_size": tuple(stride * count for count in reversed(cells))}
    codec = crop | {"heatmap_size": tuple(2**num_deconvs * count for count in reversed(cells))}
    head["decoder"] |= codec
    for loader in ("train_dataloader", "test_dataloader"):
        for step in config[loader]["dataset"]["pipeline"]:
            if step["type"] == "TopdownAffine":
                step |= crop
            if step["type"] == "GenerateTarget":
                step["encoder"] |= codec
