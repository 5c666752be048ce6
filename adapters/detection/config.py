"""mmdetection's config of a detection protocol: Mask R-CNN with ViTDet's heads, large-scale jitter.

Pure: no torch, no paths, no backbone. `train.bind` fills in the data, the classes, channels and strides.
"""

from typing import Any

from adapters.detection.protocol import DetectionProtocol, Layout
from adapters.openmmlab.config import runner_config, timm_backbone
from bench.tasks import Task

LEVELS = 5  # of the pyramid; the RoI heads use all but the coarsest
NORM = {"type": "LN2d", "eps": 1e-6}
MATCH = {"type": "MaxIoUAssigner", "ignore_iof_thr": -1}
SAMPLE = {"type": "RandomSampler", "neg_pos_ub": -1}


def upstream(task: Task, protocol: DetectionProtocol, layout: Layout) -> dict[str, Any]:
    """Return the mmdetection config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    return runner_config(
        p,
        scope="mmdet",
        model=_model(p),
        train=_dataset(layout, p, "train", _train_pipeline(p)),
        test=_dataset(layout, p, "val", _test_pipeline(p)) | {"test_mode": True},
        schedule=_schedule(p),
        evaluator={"type": "DetectionMetric", "metric": ["bbox", "segm"]},
    )


def _schedule(p: DetectionProtocol) -> list[dict[str, Any]]:
    warm = min(p.warmup_epochs, p.epochs / 2)
    drops = [p.epochs * 8 / 9, p.epochs * 26 / 27]
    # A ConstantLR restores the rate at its end, which therefore lies after the last epoch.
    return [
        {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warm},
        *({"type": "ConstantLR", "factor": 0.1, "begin": drop, "end": p.epochs + 1} for drop in drops),
    ]


def _model(p: DetectionProtocol) -> dict[str, Any]:
    """Return Mask R-CNN with the neck of hierarchical backbones; `bind` replaces the neck of plain ones."""
    padding = {"type": "BatchFixedSizePad", "size": (p.img_size, p.img_size), "pad_mask": True}
    preprocessor = {"type": "DetDataPreprocessor", "bgr_to_rgb": True, "pad_mask": True}
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {**preprocessor, "batch_augments": [padding]},
        "backbone": timm_backbone(p, window_size=p.window_size),
        "neck": {"type": "FPN", "out_channels": p.channels, "num_outs": LEVELS, "norm_cfg": NORM},
        "rpn_head": _rpn_head(p),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _roi_extractor(p, 7),
            "bbox_head": _bbox_head(p),
            "mask_roi_extractor": _roi_extractor(p, 14),
            "mask_head": _mask_head(p),
        },
        "train_cfg": _train_cfg(p),
        "test_cfg": _test_cfg(p),
    }


def _rpn_head(p: DetectionProtocol) -> dict[str, Any]:
    return {
        "type": "RPNHead",
        "in_channels": p.channels,
        "feat_channels": p.channels,
        "num_convs": 2,
        "anchor_generator": {"type": "AnchorGenerator", "scales": [p.anchor_scale], "ratios": [0.5, 1.0, 2.0]},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
    }


def _roi_extractor(p: DetectionProtocol, size: int) -> dict[str, Any]:
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": p.channels}


def _bbox_head(p: DetectionProtocol) -> dict[str, Any]:
    return {
        "type": "ConvFCBBoxHead",
        "num_shared_convs": p.head_convs,
        "num_shared_fcs": 1,
        "norm_cfg": NORM,
        "in_channels": p.channels,
        "conv_out_channels": p.channels,
        "fc_out_channels": 4 * p.channels,
        "roi_feat_size": 7,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": {"type": "CrossEntropyLoss"},
        "loss_bbox": {"type": "L1Loss"},
    }


def _mask_head(p: DetectionProtocol) -> dict[str, Any]:
    return {
        "type": "FCNMaskHead",
        "num_convs": p.head_convs,
        "norm_cfg": NORM,
        "in_channels": p.channels,
        "conv_out_channels": p.channels,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
    }


def _proposals(p: DetectionProtocol, per_level: int) -> dict[str, Any]:
    nms = {"type": "nms", "iou_threshold": 0.7}
    return {"nms_pre": per_level, "max_per_img": p.proposals, "nms": nms, "min_bbox_size": 0}


def _train_cfg(p: DetectionProtocol) -> dict[str, Any]:
    assigner = {**MATCH, "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5, "match_low_quality": False}
    return {
        "rpn": {
            "assigner": {**MATCH, "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
            "sampler": {**SAMPLE, "num": p.rois // 2, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": _proposals(p, 2 * p.proposals),
        "rcnn": {
            "assigner": assigner,
            "sampler": {**SAMPLE, "num": p.rois, "pos_fraction": 0.25, "add_gt_as_proposals": True},
            "mask_size": 28,
            "pos_weight": -1,
        },
    }


def _test_cfg(p: DetectionProtocol) -> dict[str, Any]:
    nms = {"type": "nms", "iou_threshold": 0.5}
    rcnn = {"score_thr": 0.05, "nms": nms, "max_per_img": 100, "mask_thr_binary": 0.5}
    return {"rpn": _proposals(p, p.proposals), "rcnn": rcnn}


def _dataset(layout: Layout, p: DetectionProtocol, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the data set's config; it includes images without objects, of which the jitter makes more."""
    return {
        "type": "CocoDataset",
        "ann_file": layout.annotations.format(split=split),
        "data_prefix": {"img": layout.images.format(split=split)},
        "indices": p.limit,
        "pipeline": pipeline,
    }


def _train_pipeline(p: DetectionProtocol) -> list[dict[str, Any]]:
    crop = (p.img_size, p.img_size)
    return [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "RandomResize", "scale": crop, "ratio_range": p.ratio_range, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": crop, "recompute_bbox": True, "allow_negative_crop": True},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2)},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]


def _test_pipeline(p: DetectionProtocol) -> list[dict[str, Any]]:
    """Return transforms of images alone: the metric reads the truth from its file."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (p.img_size, p.img_size), "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
    ]
