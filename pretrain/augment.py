"""Augmentation in batches, on the device of the images: flips, colours, blur, normalisation, mixing.

    batch = Augment(augmentation("moco"), mean=mean, std=std)(raw, (seed, iteration))

Every number is drawn on the CPU for all slots of the step's batch, so neither the device, nor how many
processes share the batch, nor which worker decoded an image changes what an image gets.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn

from bench.errors import unknown
from pretrain.colours import blur, brightness, contrast, grey, hue, saturation, solarize
from pretrain.data import Batch, RawBatch
from pretrain.draws import Draws, change_some, seed_of
from pretrain.rand_augment import RandAugment, rand_augment

FIRST, SECOND, MIXING = 0, 1, 2  # of what is drawn for a step


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """What is done to a crop, each part of it to an image in so many.

    Args:
        rand_augment: before all that follows, if at all.
        jitter: largest change of brightness, contrast, saturation and hue (in turns of the circle).
        jitter_prob, grey_prob, blur_prob, solarize_prob, erase_prob, flip_prob: how often.
        sigma: the blur's standard deviation in pixels, from and to.
    """

    flip_prob: float = 0.5
    rand_augment: RandAugment | None = None
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_prob: float = 0.0
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    erase_prob: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a method's images are cropped and changed.

    Args:
        scale: the crops' part of the image's area, for `pretrain.data.loader`.
        first, second: what is done to the first crop, and to the second where there is one.
        mixup, cutmix: alpha of the beta distribution of an image's share in the mixture; 0: never. With
            both, either comes for half of the batches. Labels become shares.
    """

    name: str
    source: str
    scale: tuple[float, float]
    first: CropAugmentation
    second: CropAugmentation = CropAugmentation()
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which needs labels."""
        return self.mixup > 0 or self.cutmix > 0


_MOCO = CropAugmentation(jitter=(0.4, 0.4, 0.2, 0.1), jitter_prob=0.8, grey_prob=0.2)

AUGMENTATIONS = (
    Augmentation(
        name="mae",
        source="MAE (arXiv 2111.06377, A.1): random resized crops and flips alone",
        scale=(0.2, 1.0),
        first=CropAugmentation(),
    ),
    Augmentation(
        name="simmim",
        source="SimMIM (arXiv 2111.09886, microsoft/SimMIM): as MAE, of larger crops",
        scale=(0.67, 1.0),
        first=CropAugmentation(),
    ),
    Augmentation(
        name="moco",
        source="MoCo v3 (arXiv 2104.02057, facebookresearch/moco-v3), after BYOL: two asymmetric crops. Differs: the "
        "order of the four colour changes is drawn for each batch, not for each image.",
        scale=(0.08, 1.0),
        first=dataclasses.replace(_MOCO, blur_prob=1.0),
        second=dataclasses.replace(_MOCO, blur_prob=0.1, solarize_prob=0.2),
    ),
    Augmentation(
        name="supervised",
        source="DeiT (arXiv 2012.12877, table 9): random erasing as there. Differs: the jitter that DeiT has without "
        "RandAugment takes its place; no mixup, cutmix or repeated augmentation.",
        scale=(0.08, 1.0),
        first=CropAugmentation(jitter=(0.3, 0.3, 0.3, 0.0), jitter_prob=1.0, erase_prob=0.25),
    ),
    Augmentation(
        name="deit",
        source="DeiT (arXiv 2012.12877, table 9; facebookresearch/deit): RandAugment, mixup, cutmix, random erasing. "
        "Differs: no repeated augmentation; see pretrain.rand_augment.",
        scale=(0.08, 1.0),
        first=CropAugmentation(rand_augment=RandAugment(), erase_prob=0.25),
        mixup=0.8,
        cutmix=1.0,
    ),
)


def augmentation(name: str) -> Augmentation:
    """Look an augmentation up; raises UserError for an unknown name, with the nearest ones."""
    found = {a.name: a for a in AUGMENTATIONS}
    if name not in found:
        raise unknown("augmentation", name, found)
    return found[name]


class Augment(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Turns a RawBatch into a Batch, on the device of its images."""

    def __init__(
        self,
        augmentation: Augmentation,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int = 0,
    ) -> None:
        """Normalise by mean and std (RGB, of images in 0-1) after augmenting; classes are for mixing."""
        super().__init__()
        self.augmentation = augmentation
        # What smooths the labels is the cross-entropy, mixed or not.
        self.mixup = Mixup(
            augmentation.mixup, augmentation.cutmix, label_smoothing=0.0, num_classes=num_classes
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, raw: RawBatch, position: tuple[int, ...]) -> Batch:
        """Augment; `position`, (seed, iteration), and each image's slot say what is drawn."""
        draws = [Draws(position, crop, raw) for crop in (FIRST, SECOND)]
        images, flipped = self._augmented(raw.images, self.augmentation.first, draws[0])
        others, occluders = raw.others, raw.occluders
        if others is not None:
            others, _ = self._augmented(others, self.augmentation.second, draws[1])
        if occluders is not None:
            occluders = _flip(occluders, flipped)
        labels = raw.labels
        if self.augmentation.mixes:
            images, labels = self._mixed(images, labels, seed_of(position, MIXING))
        return Batch(images=images, others=others, labels=labels, occluders=occluders)

    def _mixed(self, images: Tensor, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        """Mix each image with the one half a batch further; labels become shares, float [N, classes].

        timm pairs a batch from its two ends. Half a batch further is the same image however many
        processes share the batch.
        """
        assert labels is not None, "the loader was not asked for labels"
        first, second = torch.arange(len(images), device=images.device).chunk(2)
        order = torch.cat([first, second.flip(0)])
        np.random.seed(seed)  # timm draws from no other; what the step itself draws is seeded anew
        images, shares = self.mixup(images[order], labels[order])
        return images[order], shares[order]

    def _augmented(
        self, crops: Tensor, what: CropAugmentation, draws: "Draws"
    ) -> tuple[Tensor, Tensor]:
        """The normalised images, and bool [N] on the CPU: which were flipped."""
        flipped = draws.uniform() < what.flip_prob
        images = _flip(crops, flipped).float().div_(255)
        if what.rand_augment:
            rand_augment(images, what.rand_augment, draws, self.mean)
        change_some(images, draws.uniform() < what.jitter_prob, *jitters(what.jitter, draws))
        change_some(images, draws.uniform() < what.grey_prob, lambda x: grey(x).expand_as(x))
        change_some(images, draws.uniform() < what.blur_prob, blur, draws.uniform(*what.sigma))
        change_some(images, draws.uniform() < what.solarize_prob, solarize)
        images.sub_(self.mean).div_(self.std)
        _erase(images, draws.uniform() < what.erase_prob, draws)
        return images, flipped


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror some images [N, ..., W]."""
    where = flipped.view(-1, *[1] * (images.ndim - 1)).to(images.device)
    return torch.where(where, images.flip(-1), images)


def jitters(
    most: Sequence[float], draws: Draws
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A function of images and [N, 4] amounts that changes their colours, and the amounts."""
    ways = (brightness, contrast, saturation, hue)
    amounts = draws.uniform(-1.0, 1.0, count=4) * torch.tensor(most)
    order = [k for k in draws.order(4) if most[k]]

    def change(images: Tensor, amounts: Tensor) -> Tensor:
        return functools.reduce(lambda x, k: ways[k](x, amounts[:, k]), order, images)

    return change, amounts


def _erase(images: Tensor, chosen: Tensor, draws: Draws) -> None:
    """Fill a box of each chosen image with normal noise, as timm's RandomErasing; in place.

    Boxes of 2 % to a third of the area, of an aspect ratio of 0.3 to 1 / 0.3: the first of ten that
    fits. One picture of noise serves the batch.
    """
    height, width = images.shape[2:]
    areas = draws.uniform(0.02, 1 / 3, count=10) * height * width
    ratios = draws.uniform(float(np.log(0.3)), -float(np.log(0.3)), count=10).exp()
    corners = draws.uniform(count=2)
    if not chosen.any():
        return
    noise = draws.noise(*images.shape[1:]).to(images.device)
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], 2).round().long()
    for k in chosen.nonzero().flatten().tolist():
        fitting = [(h, w) for h, w in sides[k].tolist() if 0 < h < height and 0 < w < width]
        for h, w in fitting[:1]:
            top, left = int(corners[k, 0] * (height - h + 1)), int(corners[k, 1] * (width - w + 1))
            area = (slice(None), slice(top, top + h), slice(left, left + w))
            images[k][area] = noise[area]
