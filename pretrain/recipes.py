"""The training recipes: the papers' at full scale, and small ones for two CPU cores.

A recipe defines the schedule, the optimiser and the image size; the method defines what is learnt. The numbers are
those of each method's own code if `source` names it; `expected` is a published result, or states that there is none.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from bench.errors import UserError, unknown

Precision = Literal["fp32", "bf16"]
PROSE = ("source", "cost", "expected")  # fields that affect no number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a backbone is pretrained.

    Attributes:
        source, cost, expected: its origin, its computing time, and a published result.
        img_size: height and width of a crop, in pixels.
        epochs, warmup_epochs: passes over the data, and those in which the rate rises linearly.
        batch_size: images per update, over all processes and accumulated parts.
        base_lr: the learning rate for 256 images per update; the actual one is proportional to the batch size.
        schedule: a half cosine down to `min_lr`, or a tenth of the rate after each of `milestones` (epochs).
        min_lr: the final rate, not scaled by the batch size.
        weight_decay: of matrices and kernels; vectors and positions have none.
        betas: AdamW's.
        clip_norm: largest norm of the gradient.
        ema: decay of a moving average of the weights over updates, which is exported instead of the weights.
        drop_path: the last block's rate of stochastic depth.
        precision: of the forward pass; bf16 is autocast, with weights in fp32.
        picture_epochs: epochs between two pictures of reconstructions.
        augmentation: one of `pretrain.augment.AUGMENTATIONS` instead of the views' default; "": the default.
    """

    name: str
    source: str
    cost: str
    expected: str
    img_size: int
    epochs: int
    warmup_epochs: float
    batch_size: int
    base_lr: float
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    min_lr: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = None
    ema: float | None = None
    drop_path: float = 0.0
    precision: Precision = "bf16"
    picture_epochs: int = 10
    augmentation: str = ""

    @property
    def peak_lr(self) -> float:
        """Return the rate after warm-up: base_lr * batch_size / 256 (Goyal et al., arXiv 1706.02677)."""
        return self.base_lr * self.batch_size / 256

    def learning_rate(self, epoch: float) -> float:
        """Return the rate at a fractional `epoch`, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.peak_lr * epoch / self.warmup_epochs
        if self.schedule == "step":
            return self.peak_lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done))

    def settings(self) -> dict[str, Any]:
        """Return the fields that affect numbers, as JSON values."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            # Without the default augmentation, so that runs from before this field existed can be resumed.
            if name not in PROSE and (name != "augmentation" or value)
        }


IMAGENET = 1_281_167  # training images of ImageNet-1k, to which the costs below refer


def _hours(epochs: int, rate: int) -> str:
    return f"{epochs * IMAGENET / rate / 3600:.0f} device-hours at {rate} images/s on ImageNet-1k"


MAE = Recipe(
    name="mae-1600",
    source="MAE (He et al. 2022), its code.",
    cost=_hours(1600, 5000),
    expected="ViT-B on ImageNet-1k 83.5 fine-tuned, 67.1 linear (mmpretrain's run of it)",
    img_size=224,
    epochs=1600,
    warmup_epochs=40,
    batch_size=4096,
    base_lr=1.5e-4,
)
RELAXMIM = dataclasses.replace(
    MAE,
    name="relaxmim-100",
    source="RelaxMIM (Kong & Zhang 2023) follows MAE; 100 epochs for its ablations are remembered, not verified.",
    cost=_hours(100, 5000),
    expected="not published where we could read it",
    epochs=100,
)
SIMMIM = Recipe(
    name="simmim-800",
    source="SimMIM (Xie et al. 2022), its code, for ViT-B: 1e-4 x batch / 512, a tenth after epoch 700.",
    cost=_hours(800, 2500),
    expected="ViT-B on ImageNet-1k 83.8 fine-tuned",
    img_size=224,
    epochs=800,
    warmup_epochs=10,
    batch_size=2048,
    base_lr=5e-5,
    schedule="step",
    milestones=(700,),
    betas=(0.9, 0.999),
    clip_norm=5.0,
    drop_path=0.1,
)
SIMMIM_SWIN = dataclasses.replace(
    SIMMIM,
    name="simmim-swin-800",
    source="SimMIM (Xie et al. 2022), its code, for Swin-B: at 192 pixels, without drop path.",
    expected="Swin-B on ImageNet-1k 84.0 fine-tuned",
    img_size=192,
    drop_path=0.0,
)
SIMMIM_SWINV2 = dataclasses.replace(
    SIMMIM,
    name="simmim-swinv2-800",
    source="SimMIM (Xie et al. 2022), Swin's code, for SwinV2-B: at 192 pixels.",
    expected="SwinV2-B on ImageNet-1k 85.04 fine-tuned, of 500 thousand iterations",
    img_size=192,
)
MOCO = Recipe(
    name="moco-v3-300",
    source="MoCo v3 (Chen et al. 2021), its code for ViT-B; these values are remembered, not verified.",
    cost=_hours(300, 1200),
    expected="ViT-B on ImageNet-1k 83.2 fine-tuned, 76.7 linear",
    img_size=224,
    epochs=300,
    warmup_epochs=40,
    batch_size=4096,
    base_lr=1.5e-4,
    weight_decay=0.1,
    betas=(0.9, 0.999),
)
DEIT = Recipe(
    name="deit-300",
    source="DeiT (Touvron et al. 2021), its code; these values are remembered, not verified. Without distillation "
    "and repeated augmentation.",
    cost=_hours(300, 1800),
    expected="ViT-B on ImageNet-1k 81.8",
    img_size=224,
    epochs=300,
    warmup_epochs=5,
    batch_size=1024,
    base_lr=2.5e-4,
    min_lr=1e-5,
    betas=(0.9, 0.999),
    drop_path=0.1,
    augmentation="deit",
)
SCENES = Recipe(
    name="scenes",
    source="This project: MAE's, scaled to the embedded world and two CPU cores. Not tuned.",
    cost="MAE on ViT-Ti/16, decoder 128 wide and 2 deep: 15 minutes of a CPU core (230 images/s, measured)",
    expected="nothing published: the recipe is this project's own",
    img_size=64,
    epochs=100,
    warmup_epochs=10,
    batch_size=64,
    base_lr=1e-3,
    clip_norm=5.0,
)
TEST_VIT = dataclasses.replace(
    SCENES,
    name="test-vit",
    source="This project: `scenes` at four times its rate. With it, and `--augmentation simmim`, supervised "
    "pretraining of test_vit learns the species (linear probe 23.0 after 100 epochs, 18.5 after 60, chance 10). Chosen "
    "by that alone, on seed 100.",
    cost="any method on test_vit: 4 minutes of a CPU core, decoding included",
    base_lr=4e-3,
)
PHOTOGRAPHS = dataclasses.replace(
    SCENES,
    name="photographs",
    source="This project: MAE's, scaled to a thousand photographs and two CPU cores. Not tuned.",
    cost="MAE on ViT-Ti/16, decoder 128 wide and 2 deep: a quarter of an hour of a CPU core on 1000 images",
    img_size=96,
)
SMOKE = dataclasses.replace(
    SCENES,
    name="smoke",
    source="This project: does it run at all?",
    cost="seconds on a CPU core with test_vit",
    epochs=2,
    warmup_epochs=1,
    batch_size=16,
    picture_epochs=1,
)
_ALL = (MAE, RELAXMIM, SIMMIM, SIMMIM_SWIN, SIMMIM_SWINV2, MOCO, DEIT, SCENES, TEST_VIT, PHOTOGRAPHS, SMOKE)
RECIPES: Mapping[str, Recipe] = {entry.name: entry for entry in _ALL}


def recipe(
    name: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    precision: Precision | None = None,
    augmentation: str | None = None,
) -> Recipe:
    """Return a recipe by name, with changes; other `epochs` scale its warm-up and milestones. Raises UserError."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    found = RECIPES[name]
    for option, value in (("--epochs", epochs), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise UserError(
                f"{option} {value}: give at least 1. {name} has {found.epochs} epochs with a batch of "
                f"{found.batch_size}."
            )
    stretch = (epochs or found.epochs) / found.epochs
    return dataclasses.replace(
        found,
        epochs=epochs or found.epochs,
        warmup_epochs=found.warmup_epochs * stretch,
        milestones=tuple(milestone * stretch for milestone in found.milestones),
        batch_size=batch_size or found.batch_size,
        precision=precision or found.precision,
        augmentation=augmentation or found.augmentation,
    )
