"""A job that trains a linear head on test_vit to segment a bright and a dark part of an image."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from bench.backbones.backbone import Backbone
from bench.tasks import Job

EPOCHS, IMAGES, BATCH = 4, 9, 2


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("img", "seg"):
        (folder / name).mkdir(parents=True)
    for index in range(IMAGES):
        mask = np.zeros((40, 56), np.uint8)
        mask[:, rng.integers(10, 40) :] = 1
        image = 120 * mask[..., None] + rng.integers(0, 120, (40, 56, 3), np.uint8)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"img/{index}.png")
        Image.fromarray(mask).save(folder / f"seg/{index}.png")


def model() -> dict[str, Any]:
    """A linear head on test_vit, with drop path and dropout."""
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "bgr_to_rgb": True, "size": (64, 64), "seg_pad_val": 255},
        "backbone": {"type": "TimmBackbone", "out_indices": (3,), "img_size": 64, "drop_path_rate": 0.2},
        "decode_head": {
            "type": "FCNHead",
            "in_channels": 64,
            "channels": 64,
            "num_convs": 0,
            "concat_input": False,
            "dropout_ratio": 0.1,
            "num_classes": 3,
            "align_corners": False,
            "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
        },
        "test_cfg": {"mode": "whole"},
    }


def config(data: Path, lr: float = 1e-3, epochs: int = EPOCHS) -> dict[str, Any]:
    """The whole config; random numbers are drawn by the data and by the model."""
    augment = [
        {"type": "RandomResize", "scale": (64, 64), "ratio_range": (0.8, 1.5), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (64, 64)},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
    ]
    return {
        "default_scope": "mmseg",
        "model": model(),
        "train_dataloader": {"batch_size": BATCH, "dataset": dataset(data, augment)},
        "test_dataloader": {"batch_size": 1, "dataset": dataset(data, [])},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": epochs},
        "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": lr}},
        "param_scheduler": [
            {
                "type": "PolyLR",
                "eta_min": 0.0,
                "by_epoch": True,
                "convert_to_iter_based": True,
                "begin": 0,
                "end": epochs,
            }
        ],
        "test_evaluator": {"type": "IoUMetric"},
    }


def dataset(data: Path, augment: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "BaseSegDataset",
        "data_root": str(data),
        "data_prefix": {"img_path": "img", "seg_map_path": "seg"},
        "img_suffix": ".png",
        "metainfo": {"classes": ("dark", "bright", "none"), "palette": [[0] * 3] * 3},
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, *augment, {"type": "PackSegInputs"}],
    }


def job(work_dir: Path, *, seed: int = 0, workers: int = 0, device: str = "cpu") -> Job:
    return Job(
        backbone=Backbone(name="test_vit", arch="test_vit"),
        task=SimpleNamespace(name="segmentation/test"),  # type: ignore[arg-type]
        protocol=None,
        seed=seed,
        data=work_dir,
        train_data=work_dir,
        work_dir=work_dir,
        cache=work_dir,
        device=device,
        num_workers=workers,
    )
