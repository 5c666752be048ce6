"""Tiny jobs of the analyses, and a small model of every family that they run on."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from contract_families import FAMILIES, lively
from torch import nn

from adapters.analysis import TASKS
from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.tasks import Job

BY_NAME = {task.name: task for task in TASKS}
TRANSFORMERS = {*("ViT", "DeiT", "ViT with registers", "EVA-02", "BEiT", "Swin", "SwinV2"), *("Hiera", "SAM 2")}
SIZES = {"EVA-02": (56, 56), "ViT with registers": (56, 56), "Swin": (112, 112), "SwinV2": (96, 96)}


def small(name: str, **changes: Any) -> tuple[Any, tuple[int, int]]:
    """A family's small model with all its parameters at work, and the size of image it takes."""
    family = FAMILIES[name]
    size = SIZES.get(name) or family.img_size or (96, 96)
    options = {**family.options, "img_size": size, **changes}
    if name not in TRANSFORMERS or name == "SAM 2":  # they take any size
        del options["img_size"]
    torch.manual_seed(0)
    model, _ = build(family.arch, num_classes=0, **options)
    return lively(model).requires_grad_(False), size


def job(analysis: str, data: Path, arch: str, protocol: str = "frozen", **changes: Any) -> Job:
    """A job on the CPU; what it writes lies beside the data's folder."""
    task = BY_NAME[f"analysis/{analysis}"]
    few = {"img_size": 64, "batch_size": 5, "limit": None, **changes}
    backbone = few.pop("backbone", Backbone(name=arch, arch=arch))
    seed = few.pop("seed", 0)
    return Job(
        backbone=backbone,
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **few),
        seed=seed,
        data=data,
        train_data=data,
        work_dir=data.parent / f"work-{analysis}-{arch}",
        cache=data.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def hooks(model: nn.Module) -> int:
    """How many hooks are left on a model."""
    modules = list(model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
