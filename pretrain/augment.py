"""Augmentation in batches, on the device of the images: flips, colours, blur, normalisation.

    batch = Augment(augmentation("moco"), mean=mean, std=std)(raw, (seed, iteration))

Every number is drawn on the CPU for all slots of the step's batch, so neither the device, nor how many
processes share the batch, nor which worker decoded an image changes what an image gets.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import unknown
from pretrain.data import Batch, RawBatch

AUGMENT = 8  # a stream of random numbers, see bench.training.seeding
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's greyscale
BLUR_RADIUS = 6  # pixels: three times the widest blur


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """What is done to a crop, each part of it to an image in so many.

    Args:
        jitter: largest change of brightness, contrast, saturation and hue (in turns of the circle).
        jitter_prob, grey_prob, blur_prob, solarize_prob, erase_prob, flip_prob: how often.
        sigma: the blur's standard deviation in pixels, from and to.
    """

    flip_prob: float = 0.5
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
    """

    name: str
    source: str
    scale: tuple[float, float]
    first: CropAugmentation
    second: CropAugmentation = CropAugmentation()


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
        self, augmentation: Augmentation, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Normalise by mean and std (RGB, of images in 0-1) after augmenting."""
        super().__init__()
        self.augmentation = augmentation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, raw: RawBatch, position: tuple[int, ...]) -> Batch:
        """Augment; `position`, (seed, iteration), and each image's slot say what is drawn."""
        draws = [Draws(position, crop, raw) for crop in (0, 1)]
        images, flipped = self._augmented(raw.images, self.augmentation.first, draws[0])
        others, occluders = raw.others, raw.occluders
        if others is not None:
            others, _ = self._augmented(others, self.augmentation.second, draws[1])
        if occluders is not None:
            occluders = _flip(occluders, flipped)
        return Batch(images=images, others=others, labels=raw.labels, occluders=occluders)

    def _augmented(
        self, crops: Tensor, what: CropAugmentation, draws: "Draws"
    ) -> tuple[Tensor, Tensor]:
        """The normalised images, and bool [N] on the CPU: which were flipped."""
        flipped = draws.uniform() < what.flip_prob
        images = _flip(crops, flipped).float().div_(255)
        _apply(images, draws.uniform() < what.jitter_prob, *jitters(what.jitter, draws))
        _apply(images, draws.uniform() < what.grey_prob, lambda x: grey(x).expand_as(x))
        _apply(images, draws.uniform() < what.blur_prob, blur, draws.uniform(*what.sigma))
        _apply(images, draws.uniform() < what.solarize_prob, solarize)
        images.sub_(self.mean).div_(self.std)
        _erase(images, draws.uniform() < what.erase_prob, draws)
        return images, flipped


class Draws:
    """Random numbers of one crop of a step's batch: this process' share of them, on the CPU."""

    def __init__(self, position: tuple[int, ...], crop: int, raw: RawBatch) -> None:
        """Seed by the position, whatever was drawn before."""
        seed = np.random.SeedSequence([AUGMENT, crop, *position, len(position)])
        self.generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        self.slots, self.batch_size = raw.slots, raw.batch_size

    def uniform(self, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Tensor:
        """One number for each image, float32 [N]; with a count [N, count]."""
        shape = (self.batch_size,) if count is None else (self.batch_size, count)
        return torch.rand(shape, generator=self.generator)[self.slots] * (high - low) + low

    def order(self, count: int) -> list[int]:
        """An order of so many things, the same for all images."""
        return [int(k) for k in torch.randperm(count, generator=self.generator)]

    def noise(self, *shape: int) -> Tensor:
        """Normal numbers, the same for all images."""
        return torch.randn(shape, generator=self.generator)


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror some images [N, ..., W]."""
    where = flipped.view(-1, *[1] * (images.ndim - 1)).to(images.device)
    return torch.where(where, images.flip(-1), images)


def _apply(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *numbers: Tensor) -> None:
    """Change the chosen images, in place; `numbers` [N, ...] are the change's arguments."""
    rows = chosen.nonzero().flatten()
    if not len(rows):
        return
    device = images.device
    there = rows.to(device)
    images[there] = change(images[there], *(n[rows].to(device) for n in numbers))


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


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def grey(images: Tensor) -> Tensor:
    """The luma of RGB images in 0-1; [N, 1, H, W]."""
    weights = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def brightness(images: Tensor, amounts: Tensor) -> Tensor:
    """Brighten images in 0-1 by the factors 1 + amounts."""
    return (images * (1 + _per_image(amounts))).clamp_(0, 1)


def contrast(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images in 0-1 away from their mean luma by the factors 1 + amounts."""
    mean = grey(images).mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, 1 + _per_image(amounts)).clamp_(0, 1)


def saturation(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images in 0-1 away from their own greys by the factors 1 + amounts."""
    return torch.lerp(grey(images), images, 1 + _per_image(amounts)).clamp_(0, 1)


def hue(images: Tensor, amounts: Tensor) -> Tensor:
    """Turn the hue of images in 0-1 by so many turns of the circle of hues (HSV)."""
    value, lead = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    sixths = torch.cat([green - blue, blue - red, red - green], 1).gather(1, lead)
    angle = sixths / chroma.clamp_min(1e-8) + 2 * lead + 6 * _per_image(amounts)
    # A channel of HSV is value less chroma times a trapezium of its distance from the hue.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(3, 1, 1)
    distance = (offsets + angle) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp_(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image [N, C, H, W] by a Gaussian of its own standard deviation [N] in pixels."""
    (n, c, h, w), radius = images.shape, min(BLUR_RADIUS, *(side - 1 for side in images.shape[2:]))
    steps = torch.arange(-radius, radius + 1.0, device=images.device)
    taps = torch.softmax(-(steps**2) / (2 * sigma.view(-1, 1) ** 2), 1).repeat_interleave(c, 0)
    x = functional.pad(images.reshape(1, n * c, h, w), [radius] * 4, mode="reflect")
    x = functional.conv2d(x, taps.view(n * c, 1, 1, -1), groups=n * c)
    x = functional.conv2d(x, taps.view(n * c, 1, -1, 1), groups=n * c)
    return x.view(n, c, h, w)


def solarize(images: Tensor) -> Tensor:
    """Turn what is bright, from 128 of 255 on, into its negative; images in 0-1."""
    return torch.where(images < 127.5 / 255, images, 1 - images)


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
