"""Mask R-CNN over a plain ViT: kernels, backbone, pyramid and layer decay in one real detector."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from adapters.detection import heads  # noqa: F401  registers them
from adapters.openmmlab import backbone, layer_decay  # noqa: F401  registers them
from adapters.openmmlab.compatibility import prepare

prepare()

import mmdet.models  # noqa: E402, F401  registers the heads
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402

STRIDES = [4, 8, 16, 32, 64]
MATCH = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.3}
SAMPLE = {"type": "RandomSampler", "num": 32, "pos_fraction": 0.5, "neg_pos_ub": -1}
CODER = {"type": "DeltaXYWHBBoxCoder"}


def roi_extractor(size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 16,
        "featmap_strides": STRIDES[:4],
    }


CONFIG: dict[str, Any] = {
    "type": "MaskRCNN",
    "data_preprocessor": {"type": "DetDataPreprocessor", "pad_mask": True},
    "backbone": {"type": "TimmBackbone", "arch": "test_vit", "out_indices": [-1], "seed": 0},
    "neck": {"type": "SimpleFeaturePyramid", "in_channels": 64, "out_channels": 16},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {"type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": STRIDES},
        "bbox_coder": CODER,
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": roi_extractor(7),
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": 16,
            "fc_out_channels": 32,
            "roi_feat_size": 7,
            "num_classes": 1,
            "bbox_coder": CODER,
        },
        "mask_roi_extractor": roi_extractor(14),
        "mask_head": {
            "type": "FCNMaskHead",
            "in_channels": 16,
            "conv_out_channels": 16,
            "num_convs": 1,
            "num_classes": 1,
        },
    },
    "train_cfg": {
        "rpn": {
            "assigner": {**MATCH, "pos_iou_thr": 0.7, "neg_iou_thr": 0.3},
            "sampler": {**SAMPLE, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": {
            "nms_pre": 200,
            "max_per_img": 50,
            "nms": {"type": "nms", "iou_threshold": 0.7},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "assigner": MATCH,
            "sampler": {**SAMPLE, "add_gt_as_proposals": True},
            "mask_size": 28,
            "pos_weight": -1,
        },
    },
    "test_cfg": {
        "rpn": {"nms_pre": 200, "max_per_img": 50, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0},
        "rcnn": {"score_thr": 0.0, "max_per_img": 10, "mask_thr_binary": 0.5},
    },
}


def batch() -> dict[str, Any]:
    """One 96x120 image with one bright box."""
    image = torch.zeros(3, 96, 120)
    image[:, 20:70, 30:90] = 200
    mask = np.zeros((1, 96, 120), np.uint8)
    mask[:, 20:70, 30:90] = 1
    sample = DetDataSample(metainfo={"img_shape": (96, 120), "ori_shape": (96, 120), "scale_factor": (1, 1)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[30.0, 20, 90, 70]]), labels=torch.tensor([0]), masks=BitmapMasks(mask, 96, 120)
    )
    return {"inputs": [image], "data_samples": [sample]}


@pytest.mark.long
@pytest.mark.parametrize("suppression", ["nms", "soft_nms"])
def test_mask_rcnn_learns_a_box_and_finds_it(suppression: str) -> None:
    torch.manual_seed(0)
    rcnn = {**CONFIG["test_cfg"]["rcnn"], "nms": {"type": suppression, "iou_threshold": 0.5}}
    config = {**CONFIG, "test_cfg": {**CONFIG["test_cfg"], "rcnn": rcnn}}
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(Config(config))
    model.init_weights()
    wrapper = build_optim_wrapper(
        model,
        {
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": 0.9},
            "optimizer": {"type": "AdamW", "lr": 3e-3},
        },
    )
    model.train()
    losses = []
    for step in range(160):
        if step == 120:  # a constant rate ends anywhere about the box, by the processor's last bits
            for group in wrapper.param_groups:
                group["lr"] /= 10
        losses.append(float(model.train_step(batch(), wrapper)["loss"]))
    assert losses[-1] < losses[0] / 3
    model.eval()
    found = model.test_step(batch())[0].pred_instances
    best = found.scores.argmax()
    assert (found.bboxes[best] - torch.tensor([30.0, 20, 90, 70])).abs().max() < 8
    assert found.masks[best].sum() == pytest.approx(60 * 50, rel=0.3)
