"""Plain values of classification: the meaning of every hyper-parameter, named protocols, data sets of image folders.

The real data sets and their protocols are in `adapters.classification.image_sets`.
"""

import dataclasses
from typing import Any

from bench.datasets.dataset import Dataset, Facts
from bench.tasks import UNPUBLISHED, Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen(Protocol):
    """Multinomial logistic regression on standardised features of un-augmented images.

    Learning rate and weight decay are chosen on a stratified part of train, drawn by `selection_seed`; the head
    is then trained on all of train. A run's seed orders the images of that final training and draws a scratch
    backbone's weights; it does not affect the selection.

    Args:
        crop_pct: side of the centre crop as a fraction of the resized image's short side.
        lrs, weight_decays: the grid; features have variance 1/d, so that it suits every width d.
        held_out_one_in: one in this many images of each class is held out of train.
    """

    frozen: bool = True
    epochs: int = 30
    batch_size: int = 256
    crop_pct: float
    lrs: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    weight_decays: tuple[float, ...] = (0.0, 1e-5, 1e-4, 1e-3)
    momentum: float = 0.9
    held_out_one_in: int = 5
    selection_seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn(Protocol):
    """Weighted vote of the nearest train images (arXiv 2104.14294); nothing is trained or selected.

    `batch_size` only sets the size of a smoke run.

    Args:
        crop_pct: as in `Frozen`; equal values share features.
        neighbours: number of train images that vote.
        temperature: a neighbour's vote is exp(cosine / temperature).
    """

    frozen: bool = True
    epochs: int = 1
    batch_size: int = 256
    crop_pct: float
    neighbours: int = 20
    temperature: float = 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Protocol):
    """MAE's fine-tuning recipe (`main_finetune.py`), names as there.

    Args:
        blr: AdamW's base learning rate; lr = blr * batch_size / 256.
        layer_decay: factor from each layer to the one before it.
        warmup_epochs: of linear warm-up, before a cosine decay to 0.
        randaug: timm's string for RandAugment; "" for none.
        reprob: probability of random erasing.
        mixup, cutmix: alphas of their Beta distributions; 0 for none.
        scale_min: smallest fraction of the image's area in a random crop.
    """

    frozen: bool = False
    crop_pct: float
    blr: float = 5e-4
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    drop_path: float = 0.1
    warmup_epochs: int = 5
    smoothing: float = 0.1
    randaug: str = "rand-m9-mstd0.5-inc1"
    reprob: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    scale_min: float = 0.08

    @property
    def lr(self) -> float:
        """Return the last layer's peak learning rate."""
        return self.blr * self.batch_size / 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot(Frozen):
    """`Frozen` on a few train images of each class, drawn by the run's seed.

    Learning rate and weight decay are selected with heads trained on `shots` images per class that are not held
    out, and scored on all images that are, so every number of shots is scored on the same images.

    Args:
        shots: images per class; all of a smaller class.
    """

    shots: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(Protocol):
    """MAE's linear probe (`main_linprobe.py`), names as there: augmented images, a frozen backbone.

    Args:
        crop_pct: as in `Frozen`.
        blr: base learning rate of LARS; lr = blr * batch_size / 256.
        momentum, trust_coefficient: of LARS, which scales the learning rate of weights, not of biases.
        warmup_epochs: of linear warm-up, before a cosine decay to 0.
        scale_min: smallest fraction of the image's area in a random crop.
    """

    frozen: bool = True
    epochs: int = 90
    batch_size: int = 16384
    crop_pct: float
    blr: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    warmup_epochs: int = 10
    scale_min: float = 0.08

    @property
    def lr(self) -> float:
        """Return the peak learning rate."""
        return self.blr * self.batch_size / 256


FROZEN_SOURCE = (
    "Linear probe after MAE (arXiv 2111.06377, A.1): features normalised without affine parameters, then a linear "
    "layer. Differs: no augmentation, so that features are extracted once; SGD with momentum in place of LARS; "
    "learning rate and weight decay chosen on held-out train images; the architecture's own pooling."
)
KNN_SOURCE = (
    "DINO's weighted nearest neighbours (arXiv 2104.14294, 4.1; eval_knn.py): 20 neighbours by cosine, votes of "
    "exp(cosine / 0.07). Differs: the architecture's own pooling, which is the class token only where timm has it so; "
    "the backbone's own mean and std."
)
FINETUNE_SOURCE = (
    "MAE's ViT-B fine-tuning (arXiv 2111.06377, A.1; main_finetune.py): AdamW, layer decay, drop path, RandAugment, "
    "random erasing, mixup, cutmix, label smoothing, cosine with warm-up. Differs: the architecture's own pooling."
)
SIZE: dict[str, Any] = {"img_size": 224, "crop_pct": 0.875}
FOLDER_COMMAND = (
    "python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth "
    "--task classification/folder --data-root IMAGENET"
)
DINO, MAE, DINOV2 = (
    "vit_base_patch16_224@dino_vitbase16_pretrain.pth",
    "vit_base_patch16_224@mae_pretrain_vit_base.pth",
    "vit_base_patch14_dinov2@dinov2_vitb14_pretrain.pth",
)

FULL_FROZEN = Frozen(
    name="frozen",
    source=FROZEN_SOURCE,
    expected="MAE ViT-B/16, 1600 epochs, linear probe on ImageNet-1k: top1 67.1 (mmpretrain)",
    command=f"{FOLDER_COMMAND} --protocol frozen",
    **SIZE,
)
FULL_KNN = Knn(
    name="frozen-knn",
    source=KNN_SOURCE,
    expected="DINO ViT-B/16, 20 nearest neighbours on ImageNet-1k: top1 76.1 (facebookresearch/dino)",
    command=f"python -m bench.run --backbone {DINO} "
    "--task classification/folder --data-root IMAGENET --protocol frozen-knn",
    **SIZE,
)
FULL_FINETUNE = Finetune(
    name="finetune",
    source=FINETUNE_SOURCE,
    expected="MAE ViT-B/16, 1600 epochs, fine-tuned on ImageNet-1k: top1 83.5 (mmpretrain)",
    command=f"{FOLDER_COMMAND} --gpus 8",
    epochs=100,
    batch_size=1024,
    **SIZE,
)
SHORT = " Shortened for two CPU cores: {epochs} epochs of batches of {batch_size} at {img_size} px, {also}."


def _short(protocol: Finetune, also: str) -> Finetune:
    """Add to a shortened recipe what differs from MAE's and what is published at full scale."""
    return dataclasses.replace(
        protocol,
        source=FINETUNE_SOURCE + SHORT.format(also=also, **dataclasses.asdict(protocol)),
        expected=f"{UNPUBLISHED}; at full scale {FULL_FINETUNE.expected}",
        command=FULL_FINETUNE.command,
    )


SMALL_FROZEN, SMALL_KNN = (
    dataclasses.replace(
        full,
        source=f"{full.source} At 128 px, uncropped: the images are that small.",
        expected=f"{UNPUBLISHED}; at full scale {full.expected}",
        img_size=128,
        crop_pct=1.0,
    )
    for full in (FULL_FROZEN, FULL_KNN)
)
SMALL_FINETUNE = _short(
    Finetune(
        name="finetune",
        source="",
        epochs=8,
        batch_size=32,
        img_size=64,
        crop_pct=1.0,
        blr=16e-3,
        layer_decay=1.0,
        drop_path=0.0,
        warmup_epochs=2,
        smoothing=0.0,
        randaug="",
        reprob=0.0,
        mixup=0.0,
        cutmix=0.0,
        scale_min=0.6,
    ),
    also="a higher blr for so few steps, and none of what slows learning from scratch: no layer decay, drop path, "
    "smoothing, RandAugment, erasing, mixup or cutmix, and wide crops",
)
TINY_FINETUNE = _short(
    Finetune(
        name="finetune",
        source="",
        epochs=8,
        batch_size=32,
        img_size=96,
        crop_pct=1.0,
        blr=4e-3,
        warmup_epochs=1,
        randaug="rand-m5-mstd0.5-inc1",
        reprob=0.0,
        mixup=0.2,
        cutmix=0.2,
        scale_min=0.35,
    ),
    also="a higher blr for so few steps, weaker augmentation, no erasing",
)

FOLDER = Dataset(
    name="folder",
    source="you: any image folders",
    licence="that of the images",
    root=".",
    splits={"train": ("train",), "val": ("val",)},
)
TINY_IMAGENET = Dataset(
    name="tiny-imagenet",
    source="tiny-imagenet-200.zip of Stanford's course CS231n",
    licence="ImageNet's terms: non-commercial research",
    root="tiny-imagenet-200",
    splits={"train": ("train",), "val": ("val",)},
    facts=Facts(
        counts={"train": 100_000, "val": 10_000},
        classes=200,
        gigabytes=0.248,
        known_from="huggingface.co/datasets/zh-plus/tiny-imagenet; size from a public log of its download (248,100,043 "
        "bytes)",
    ),
)
