"""The protocols of classification as plain values, with the meaning of each hyper-parameter."""

import dataclasses

from bench.tasks import Protocol


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
