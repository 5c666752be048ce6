"""A detection protocol as mmdetection's config: Mask R-CNN with ViTDet's heads, large-scale jitter.

Pure: no torch, no path of a machine, no backbone; what is missing is bound by `detectors`.
"""

from typing import TYPE_CHECKING, Any

from bench.tasks import Task

if TYPE_CHECKING:
    from adapters.detection.protocol import DetectionProtocol, Layout

LEVELS = 5  # of the pyramid; the heads look at all but the coarsest
NORM = {"type": "LN2d", "eps": 1e-6}
MATCH = {"type": "MaxIoUAssigner", "ignore_iof_thr": -1}
SAMPLE = {"type": "RandomSampler", "neg_pos_ub": -1}


def upstream(task: Task, protocol: "DetectionProtocol", layout: "Layout") -> dict[str, Any]:
    """The mmdetection config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    return {
        "default_scope": "mmdet",
        "model": _model(p),
        "train_dataloader": {"batch_size": p.batch_size, "dataset": _dataset(layout, p, "train", _train_pipeline(p))},
        "test_dataloader": {
            "batch_size": p.test_batch_size,
            "dataset": {**_dataset(layout, p, "val", _test_pipeline(p)), "test_mode": True},
        },
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": p.lr, "weight_decay": p.weight_decay},
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": p.layer_decay},
        },
        "param_scheduler": _schedule(p),
        "test_evaluator": {"type": "DetectionMetric", "metric": ["bbox", "segm"]},
    }


def _schedule(p: "DetectionProtocol") -> list[dict[str, Any]]:
    """A ConstantLR gives the rate back at its end, which therefore lies behind the last epoch."""
    warm = min(p.warmup_epochs, p.epochs / 2)
    drops = [p.epochs * 8 / 9, p.epochs * 26 / 27]
    return [
        {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warm},
        *({"type": "ConstantLR", "factor": 0.1, "begin": drop, "end": p.epochs + 1} for drop in drops),
    ]


def _model(p: "DetectionProtocol") -> dict[str, Any]:
    """The neck is for hierarchical backbones, and gives way above a plain one."""
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "bgr_to_rgb": True,
            "pad_mask": True,
            "batch_augments": [{"type": "BatchFixedSizePad", "size": (p.img_size, p.img_size), "pad_mask": True}],
        },
        "backbone": {
            "type": "TimmBackbone",
            "img_size": p.img_size,
            "drop_path_rate": p.drop_path,
            "window_size": p.window_size,
            "frozen": p.frozen,
            **p.dropping,
        },
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


def _rpn_head(p: "DetectionProtocol") -> dict[str, Any]:
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


def _roi_extractor(p: "DetectionProtocol", size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": p.channels,
    }


def _bbox_head(p: "DetectionProtocol") -> dict[str, Any]:
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


def _mask_head(p: "DetectionProtocol") -> dict[str, Any]:
    return {
        "type": "FCNMaskHead",
        "num_convs": p.head_convs,
        "norm_cfg": NORM,
        "in_channels": p.channels,
        "conv_out_channels": p.channels,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
    }


def _proposals(p: "DetectionProtocol", of_a_level: int) -> dict[str, Any]:
    return {
        "nms_pre": of_a_level,
        "max_per_img": p.proposals,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": 0,
    }


def _train_cfg(p: "DetectionProtocol") -> dict[str, Any]:
    return {
        "rpn": {
            "assigner": {**MATCH, "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
            "sampler": {**SAMPLE, "num": p.rois // 2, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": _proposals(p, 2 * p.proposals),
        "rcnn": {
            "assigner": {
                **MATCH,
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.5,
                "min_pos_iou": 0.5,
                "match_low_quality": False,
            },
            "sampler": {**SAMPLE, "num": p.rois, "pos_fraction": 0.25, "add_gt_as_proposals": True},
            "mask_size": 28,
            "pos_weight": -1,
        },
    }


def _test_cfg(p: "DetectionProtocol") -> dict[str, Any]:
    return {
        "rpn": _proposals(p, p.proposals),
        "rcnn": {
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 100,
            "mask_thr_binary": 0.5,
        },
    }


def _dataset(layout: "Layout", p: "DetectionProtocol", split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """Images without objects are kept: the jitter makes some more of them."""
    return {
        "type": "CocoDataset",
        "ann_file": layout.annotations.format(split=split),
        "data_prefix": {"img": layout.images.format(split=split)},
        "indices": p.limit,
        "pipeline": pipeline,
    }


def _train_pipeline(p: "DetectionProtocol") -> list[dict[str, Any]]:
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


def _test_pipeline(p: "DetectionProtocol") -> list[dict[str, Any]]:
    """The truth stays in its file, from which the metric reads it."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (p.img_size, p.img_size), "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
    ]
