"""mmsegmentation's config of a segmentation protocol: UPerNet or a linear head, losses, transforms.

Pure: no torch, no paths, no backbone. `train.bind` fills in the data, the classes and the channels.
"""

from typing import Any

from adapters.openmmlab.config import resize_short_side, runner_config, seg_preprocessor, timm_backbone
from adapters.segmentation.protocol import Layout, SegmentationProtocol
from bench.tasks import Task

IGNORED = 255  # mask value of a pixel without a class, in every data set


def upstream(task: Task, protocol: SegmentationProtocol, layout: Layout) -> dict[str, Any]:
    """Return the mmsegmentation config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    warm = min(p.warmup_epochs, p.epochs / 2)
    return runner_config(
        p,
        scope="mmseg",
        model=_model(p),
        train=_dataset(layout, p, "train", _train_pipeline(p)),
        test=_dataset(layout, p, "val", _test_pipeline(p)),
        schedule=[
            {"type": "LinearLR", "start_factor": 1e-6, "begin": 0, "end": warm},
            {"type": "PolyLR", "eta_min": 0.0, "power": 1.0, "begin": warm, "end": p.epochs},
        ],
        evaluator={"type": "ClassIoUMetric"},
    )


def _model(p: SegmentationProtocol) -> dict[str, Any]:
    crop = (p.img_size, p.img_size)  # mmsegmentation accepts tuples only
    window = {"mode": "slide", "crop_size": crop, "stride": (p.stride, p.stride)}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": seg_preprocessor(size=crop, seg_pad_val=IGNORED),
        "backbone": timm_backbone(p),
        **(_upernet(p) if p.channels else {"decode_head": _head("LinearHead", 1.0)}),
        "test_cfg": window if p.stride else {"mode": "whole"},
    }


def _upernet(p: SegmentationProtocol) -> dict[str, Any]:
    """Return neck, decode head and auxiliary head (on the third map); `bind` drops the neck above a hierarchy."""
    norm = {"type": "BN"}
    common = {"dropout_ratio": 0.1, "norm_cfg": norm}
    decode = {"channels": p.channels, "in_index": (0, 1, 2, 3), "pool_scales": (1, 2, 3, 6)}
    auxiliary = {"channels": max(p.channels // 3, 32), "in_index": 2, "num_convs": 1}
    return {
        "neck": {"type": "Feature2Pyramid", "rescales": (4, 2, 1, 0.5), "norm_cfg": norm},
        "decode_head": _head("UPerHead", 1.0) | common | decode,
        "auxiliary_head": _head("FCNHead", 0.4) | common | auxiliary | {"concat_input": False},
    }


def _head(kind: str, weight: float) -> dict[str, Any]:
    loss = {"type": "CrossEntropyLoss", "loss_weight": weight, "avg_non_ignore": True}
    return {"type": kind, "align_corners": False, "ignore_index": IGNORED, "loss_decode": loss}


def _dataset(layout: Layout, p: SegmentationProtocol, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    name = getattr(layout, split)
    return {
        "type": layout.upstream,
        "ann_file": layout.listing.format(split=name),
        "data_prefix": {"img_path": layout.images.format(split=name), "seg_map_path": layout.masks.format(split=name)},
        "img_suffix": layout.image_suffix,
        "seg_map_suffix": layout.mask_suffix,
        "reduce_zero_label": layout.reduce_zero_label,
        "indices": p.limit,
        "pipeline": pipeline,
    }


def _train_pipeline(p: SegmentationProtocol) -> list[dict[str, Any]]:
    return [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {**resize_short_side(p), "type": "RandomResize", "ratio_range": p.ratio_range},
        {"type": "RandomCrop", "crop_size": (p.img_size, p.img_size), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]


def _test_pipeline(p: SegmentationProtocol) -> list[dict[str, Any]]:
    return [
        {"type": "LoadImageFromFile"},
        resize_short_side(p),
        {"type": "LoadAnnotations"},  # after the resize: predictions are compared at the image's own size
        {"type": "PackSegInputs"},
    ]
