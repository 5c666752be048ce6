"""mmpose's config of a pose protocol: heatmap head, UDP codec, transforms, metrics.

Pure: no torch, no paths, no backbone. `train.bind` fills in the data, the channels and the sizes of crop and head.
"""

from typing import Any

from adapters.openmmlab.config import runner_config, timm_backbone
from adapters.pose.protocol import Layout, PoseProtocol
from bench.tasks import Task


def upstream(task: Task, protocol: PoseProtocol, layout: Layout) -> dict[str, Any]:
    """Return the mmpose config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    train_layout = p.transfer.layout if p.transfer else layout
    config = runner_config(
        p,
        scope="mmpose",
        model=_model(p, layout),
        train=_dataset(train_layout, "train", _train_pipeline(p, layout)),
        test=_dataset(layout, layout.tested, _test_pipeline(p)) | {"test_mode": True},
        schedule=_schedule(p),
        evaluator=_metrics(p, layout),
    )
    config["optim_wrapper"]["clip_grad"] = {"max_norm": p.clip_grad} if p.clip_grad else None
    return config


def codec(p: PoseProtocol) -> dict[str, Any]:
    """Return the codec: heatmaps at a quarter of the input, (width, height); `bind` fits its sizes to the backbone."""
    size = (p.img_width, p.img_size)
    heatmap_size = (p.img_width // 4, p.img_size // 4)
    return {"type": "UDPHeatmap", "input_size": size, "heatmap_size": heatmap_size, "sigma": p.sigma}


def _model(p: PoseProtocol, layout: Layout) -> dict[str, Any]:
    return {
        "type": "TopdownPoseEstimator",
        "data_preprocessor": {"type": "PoseDataPreprocessor", "bgr_to_rgb": True},
        "backbone": timm_backbone(p, out_indices=(-1,), img_size=(p.img_size, p.img_width)),
        "head": {
            "type": "HeatmapHead",
            "out_channels": layout.num_keypoints,
            "deconv_out_channels": p.channels,  # of each deconvolution; `bind` sets how many there are
            "deconv_kernel_sizes": p.kernel_size,
            "loss": {"type": "KeypointMSELoss", "use_target_weight": True},
            "decoder": codec(p),
        },
        "train_cfg": {"compute_acc": False},  # accuracy on each training batch would cost time
        "test_cfg": {"flip_test": p.flip_test, "flip_mode": "heatmap", "shift_heatmap": False},
    }


def _dataset(layout: Layout, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    annotations, images = layout.paths(split)
    return {"type": layout.upstream, "ann_file": annotations, "data_prefix": {"img": images}, "pipeline": pipeline}


def _train_pipeline(p: PoseProtocol, layout: Layout) -> list[dict[str, Any]]:
    convert = {"type": "KeypointConverter", "num_keypoints": layout.num_keypoints}
    box = {
        "type": "RandomBBoxTransform",
        "shift_factor": p.shift,
        "scale_factor": (1 - p.scale, 1 + p.scale),
        "rotate_factor": p.rotation,
    }
    return [
        {"type": "LoadImage"},
        {"type": "GetBBoxCenterScale"},
        {"type": "RandomFlip", "direction": "horizontal"},
        {"type": "RandomHalfBody", "prob": p.half_body},
        box,
        # After flips and half bodies, which go by the joints of the data set trained on.
        *([{**convert, "mapping": p.transfer.joints}] if p.transfer else []),
        _crop(p),
        {"type": "GenerateTarget", "encoder": codec(p)},
        {"type": "PackPoseInputs"},
    ]


def _test_pipeline(p: PoseProtocol) -> list[dict[str, Any]]:
    return [{"type": "LoadImage"}, {"type": "GetBBoxCenterScale"}, _crop(p), {"type": "PackPoseInputs"}]


def _crop(p: PoseProtocol) -> dict[str, Any]:
    return {"type": "TopdownAffine", "input_size": (p.img_width, p.img_size), "use_udp": True}


def _schedule(p: PoseProtocol) -> list[dict[str, Any]]:
    """Return a linear warm-up, then drops by 10 at the steps, or a cosine to zero where there are none."""
    warm = min(p.warmup_epochs, p.epochs / 2)
    fall: dict[str, Any] = {"type": "CosineAnnealingLR", "eta_min": 0.0, "begin": warm}
    if p.steps:  # MultiStepLR counts milestones from `begin`
        fall = {"type": "MultiStepLR", "milestones": p.steps, "gamma": 0.1, "begin": 0}
    rise = {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warm}
    return [rise, {**fall, "end": p.epochs}]


def _metrics(p: PoseProtocol, layout: Layout) -> list[dict[str, Any]]:
    """Return AP and PCK; AP alone with a detector's boxes, of which nobody knows whose they are."""
    keypoints = {"type": "KeypointAPMetric", "use_area": layout.has_area, "by_crowding": layout.has_crowding}
    pck = {"type": "PCKMetric", "thr": 0.1, "norm_item": "bbox"}
    return [keypoints] if p.bbox_source == "detector" else [keypoints, pck]
