"""A pose protocol as mmpose's config: heatmap head, UDP codec, transforms, metrics.

Pure: no torch, no path of a machine, no backbone; what is missing is bound by `pose_estimators`.
"""

from typing import Any

from adapters.pose.protocol import Layout, PoseProtocol
from bench.tasks import Task


def upstream(task: Task, protocol: PoseProtocol, layout: Layout) -> dict[str, Any]:
    """The mmpose config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    train_layout = p.transfer.layout if p.transfer else layout
    return {
        "default_scope": "mmpose",
        "model": _model(p, layout),
        "train_dataloader": {
            "batch_size": p.batch_size,
            "dataset": _dataset(train_layout, "train", _train_pipeline(p, layout)),
        },
        "test_dataloader": {
            "batch_size": p.test_batch_size,
            "dataset": _dataset(layout, layout.tested, _test_pipeline(p)) | {"test_mode": True},
        },
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": p.lr, "weight_decay": p.weight_decay},
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": p.layer_decay},
            "clip_grad": {"max_norm": p.clip_grad} if p.clip_grad else None,
        },
        "param_scheduler": _schedule(p),
        "test_evaluator": _metrics(p, layout),
    }


def codec(p: PoseProtocol) -> dict[str, Any]:
    """Heatmaps at a quarter of the input, width first as mmpose has it; bound to the backbone later."""
    return {
        "type": "UDPHeatmap",
        "input_size": (p.img_width, p.img_size),
        "heatmap_size": (p.img_width // 4, p.img_size // 4),
        "sigma": p.sigma,
    }


def _model(p: PoseProtocol, layout: Layout) -> dict[str, Any]:
    return {
        "type": "TopdownPoseEstimator",
        "data_preprocessor": {"type": "PoseDataPreprocessor", "bgr_to_rgb": True},
        "backbone": {
            "type": "TimmBackbone",
            "out_indices": (-1,),
            "img_size": (p.img_size, p.img_width),
            "drop_path_rate": p.drop_path,
            "frozen": p.frozen,
            **p.dropping,
        },
        "head": {
            "type": "HeatmapHead",
            "out_channels": layout.num_keypoints,
            "deconv_out_channels": p.channels,  # of each; their number follows from the stride
            "deconv_kernel_sizes": p.kernel_size,
            "loss": {"type": "KeypointMSELoss", "use_target_weight": True},
            "decoder": codec(p),
        },
        "train_cfg": {"compute_acc": False},  # on the heatmaps of a training batch: costs time, says little
        "test_cfg": {"flip_test": p.flip_test, "flip_mode": "heatmap", "shift_heatmap": False},
    }


def _dataset(layout: Layout, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    annotations, images = layout.paths(split)
    return {"type": layout.upstream, "ann_file": annotations, "data_prefix": {"img": images}, "pipeline": pipeline}


def _train_pipeline(p: PoseProtocol, layout: Layout) -> list[dict[str, Any]]:
    """Flips and half bodies know the joints of the data trained on, so the conversion comes after them."""
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
    """Warm up, then drop tenfold at the steps, or without any fall to zero as a cosine does."""
    warm = min(p.warmup_epochs, p.epochs / 2)
    fall: dict[str, Any] = {"type": "CosineAnnealingLR", "eta_min": 0.0, "begin": warm}
    if p.steps:  # counted from `begin`
        fall = {"type": "MultiStepLR", "milestones": p.steps, "gamma": 0.1, "begin": 0}
    rise = {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warm}
    return [rise, {**fall, "end": p.epochs}]


def _metrics(p: PoseProtocol, layout: Layout) -> list[dict[str, Any]]:
    """PCK needs the person that a box belongs to, which a detector does not say."""
    keypoints = {"type": "KeypointAPMetric", "use_area": layout.has_area, "by_crowding": layout.has_crowding}
    pck = {"type": "PCKMetric", "thr": 0.1, "norm_item": "bbox"}
    return [keypoints] if p.bbox_source == "detector" else [keypoints, pck]
