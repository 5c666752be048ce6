"""The three protocols of classification, with what each hyper-parameter means."""

import dataclasses

from bench.tasks import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen(Protocol):
    """Multinomial logistic regression on standardised features of un-augmented images.

    Learning rate and weight decay are chosen on a stratified part of train, held out by
    `selection_seed`, and the head is trained again on all of train. A run's seed orders the images of
    that last training, and draws a scratch backbone's weights; it never moves the selection.

    Args:
        crop_pct: side of the centre crop as a part of the resized image's short side.
        lrs, weight_decays: the grid; for features of variance 1/d, so they mean the same at every width.
        held_out_one_in: one image of so many, within each class, is held out of train.
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
    """Nearest neighbours in train vote for a val image's class: nothing is trained, nothing chosen.

    Train is passed over once; `batch_size` is but the measure of a smoke run.

    Args:
        crop_pct: as in `Frozen`; with the same one, both read the same features.
        neighbours: how many train images vote.
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
        blr: AdamW's learning rate for 256 images a batch; the real one is blr * batch_size / 256.
        layer_decay: factor from each layer to the one before it.
        warmup_epochs: of linear warm-up, before a cosine to zero.
        randaug: timm's string for RandAugment; "" for none.
        reprob: probability of random erasing.
        mixup, cutmix: alphas of their Beta distributions; 0 for none.
        scale_min: smallest part of the image's area that a random crop keeps.
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
        """The last layer's peak learning rate."""
        return self.blr * self.batch_size / 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot(Frozen):
    """`Frozen` on a few images of each class of train, which the run's seed draws.

    Learning rate and weight decay are chosen by heads trained on as many images of what is not held
    out, and scored on all that is: the same for every number of images.

    Args:
        shots: images a class; all of a class that has fewer.
    """

    shots: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(Protocol):
    """MAE's linear probe (`main_linprobe.py`), names as there: augmented images, a frozen backbone.

    Args:
        crop_pct: as in `Frozen`.
        blr: the learning rate of LARS for 256 images a batch.
        momentum, trust_coefficient: of LARS, which adapts the rate of the weights, not of the biases.
        warmup_epochs: of linear warm-up, before a cosine to zero.
        scale_min: smallest part of the image's area that a random crop keeps.
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
        """The peak learning rate."""
        return self.blr * self.batch_size / 256
