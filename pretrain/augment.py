"""Augmentation of whole batches on their device: flips, colours, blur, RandAugment, normalisation, mixing.

`AUGMENTATIONS` lists what the methods use; `Augment` applies one. Below it are the random numbers (`Draws`), the
changes of colour, and RandAugment's changes.

All random numbers are drawn on the CPU for every slot of the step's batch. So an image's augmentation depends on
(seed, iteration, slot) only: not on the device, the number of processes or the worker that decoded it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as torchvision

from bench.errors import unknown
from pretrain.data import Batch, RawBatch

AUGMENT = 8  # this module's stream of random numbers, see bench.training.seeding
FIRST, SECOND, MIXING = 0, 1, 2  # independent draws of a step: for each crop, and for mixing


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Settings of RandAugment (Cubuk et al., arXiv 1909.13719); the defaults are timm's rand-m9-mstd0.5-inc1.

    Args:
        magnitude, std: mean and deviation of an image's magnitude, which is cut to 0-10.
        layers: number of changes drawn for an image, one after the other.
        prob: probability that a drawn change is applied.
    """

    magnitude: float = 9.0
    std: float = 0.5
    layers: int = 2
    prob: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """The changes of a crop, each with its probability, in the order of the fields.

    Args:
        jitter: largest change of brightness, contrast, saturation (factor less 1) and hue (turns of the circle).
        sigma: range of the blur's standard deviation in pixels.
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
        source: the paper and code it follows, and how it differs from them.
        scale: range of a crop's share of the image's area, for `pretrain.data.CropBatches`.
        first, second: changes of the first crop, and of the second if the method has one.
        mixup, cutmix: alpha of the beta distribution of an image's share in the mixture; 0 turns it off. With
            both, each is used for half of the batches. Labels become shares.
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
        """Return whether images are mixed, which needs labels."""
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
        "Differs: no repeated augmentation; RandAugment as in `rand_augment`.",
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


def seed_of(position: tuple[int, ...], what: int) -> int:
    """Return a 32-bit seed for one of a step's draws: FIRST, SECOND or MIXING."""
    seed = np.random.SeedSequence([AUGMENT, what, *position, len(position)])
    return int(seed.generate_state(1)[0])


class Draws:
    """Random numbers for one crop of each image of a step's batch, of which this process gets its slots."""

    def __init__(self, position: tuple[int, ...], crop: int, raw: RawBatch) -> None:
        """Seed by the position, (seed, iteration), and the crop's number."""
        self.generator = torch.Generator().manual_seed(seed_of(position, crop))
        self.slots, self.batch_size = raw.slots, raw.batch_size

    def uniform(self, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Tensor:
        """Draw one number for each image, float32 [N]; with a count, [N, count]."""
        shape = (self.batch_size,) if count is None else (self.batch_size, count)
        return torch.rand(shape, generator=self.generator)[self.slots] * (high - low) + low

    def normal(self, mean: float, std: float) -> Tensor:
        """Draw one normally distributed number for each image, float32 [N]."""
        return torch.randn(self.batch_size, generator=self.generator)[self.slots] * std + mean

    def order(self, count: int) -> list[int]:
        """Draw a permutation of `count` elements, the same for all images."""
        return [int(k) for k in torch.randperm(count, generator=self.generator)]

    def noise(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, the same for all images."""
        return torch.randn(shape, generator=self.generator)


class Augment(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Turns a RawBatch into a normalised Batch on the device of its images."""

    def __init__(
        self, augmentation: Augmentation, *, mean: Sequence[float], std: Sequence[float], num_classes: int = 0
    ) -> None:
        """Normalise by mean and std (RGB, of images in 0-1) after augmenting; mixing needs the number of classes."""
        super().__init__()
        self.augmentation = augmentation
        # The loss smooths the labels (`similarity.CrossEntropy`), so mixing must not.
        self.mixup = Mixup(augmentation.mixup, augmentation.cutmix, label_smoothing=0.0, num_classes=num_classes)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, raw: RawBatch, position: tuple[int, ...]) -> Batch:
        """Augment a batch; `position` is (seed, iteration)."""
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

        timm pairs the first image with the last, which would depend on how many processes share the batch.
        """
        assert labels is not None, "the loader was not asked for labels"
        first, second = torch.arange(len(images), device=images.device).chunk(2)
        order = torch.cat([first, second.flip(0)])
        np.random.seed(seed)  # timm's Mixup draws from it; the training step seeds its own numbers again
        images, shares = self.mixup(images[order], labels[order])
        return images[order], shares[order]

    def _augmented(self, crops: Tensor, what: CropAugmentation, draws: "Draws") -> tuple[Tensor, Tensor]:
        """Return the normalised images, and which were flipped, bool [N] on the CPU."""
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
    """Mirror the flipped ones of images [N, ..., W]."""
    where = flipped.view(-1, *[1] * (images.ndim - 1)).to(images.device)
    return torch.where(where, images.flip(-1), images)


def jitters(most: Sequence[float], draws: Draws) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return a function that changes the colours of images by amounts [N, 4], and the drawn amounts."""
    ways = (brightness, contrast, saturation, hue)
    amounts = draws.uniform(-1.0, 1.0, count=4) * torch.tensor(most)
    order = [k for k in draws.order(4) if most[k]]

    def change(images: Tensor, amounts: Tensor) -> Tensor:
        return functools.reduce(lambda x, k: ways[k](x, amounts[:, k]), order, images)

    return change, amounts


def _erase(images: Tensor, chosen: Tensor, draws: Draws) -> None:
    """Fill a box of each chosen image with normal noise, in place, as timm's RandomErasing does.

    A box has 2 % to a third of the area and an aspect ratio of 0.3 to 1 / 0.3: the first of ten drawn that fits.
    All images of a batch share the noise.
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


def change_some(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *numbers: Tensor) -> None:
    """Apply `change` to the chosen images (bool [N]), in place; `numbers` [N, ...] are its further arguments."""
    rows = chosen.nonzero().flatten()
    if not len(rows):
        return
    device = images.device
    there = rows.to(device)
    images[there] = change(images[there], *(n[rows].to(device) for n in numbers))


# Changes of RGB images in 0-1 [N, 3, H, W] by an amount for each image [N].

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's greyscale
BLUR_RADIUS = 6  # pixels: three times the widest blur


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def grey(images: Tensor) -> Tensor:
    """Return the luma of RGB images, [N, 1, H, W]."""
    weights = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def brightness(images: Tensor, amounts: Tensor) -> Tensor:
    """Multiply images by 1 + amounts."""
    return (images * (1 + _per_image(amounts))).clamp_(0, 1)


def contrast(images: Tensor, amounts: Tensor) -> Tensor:
    """Multiply the difference of each image from its mean luma by 1 + amounts."""
    mean = grey(images).mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, 1 + _per_image(amounts)).clamp_(0, 1)


def saturation(images: Tensor, amounts: Tensor) -> Tensor:
    """Multiply the difference of each image from its greyscale version by 1 + amounts."""
    return torch.lerp(grey(images), images, 1 + _per_image(amounts)).clamp_(0, 1)


def hue(images: Tensor, amounts: Tensor) -> Tensor:
    """Rotate the hue (HSV) of images by `amounts` turns of the circle."""
    value, lead = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    sixths = torch.cat([green - blue, blue - red, red - green], 1).gather(1, lead)
    angle = sixths / chroma.clamp_min(1e-8) + 2 * lead + 6 * _per_image(amounts)
    # RGB from HSV: a channel is the value minus chroma times a trapezium of its distance from the hue.
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
    """Invert the values of 128 of 255 and above."""
    return torch.where(images < 127.5 / 255, images, 1 - images)


# RandAugment. Each change takes `amounts` [N] in -1 to 1, which is a magnitude of -10 to 10.

LARGEST = 10.0  # magnitude
# At the largest magnitude: angle, factor less 1, slope, and shift as a share of the side.
TURN, ENHANCE, SHEAR, TRANSLATE = math.radians(30), 0.9, 0.3, 0.45

Change = Callable[..., Tensor]  # images [N, 3, S, S], amounts [N] in -1 to 1, fill [3, 1, 1]


def rand_augment(images: Tensor, what: RandAugment, draws: Draws, fill: Tensor) -> None:
    """Change images in 0-1 [N, 3, S, S], in place; `fill` [3, 1, 1] is the colour outside the image.

    timm changes one PIL image after another; here all images that drew the same change get it at once, each by its
    own amount. Differs from timm: values are not rounded to bytes between two changes, and torch's bicubic
    interpolation has the coefficient -0.75 where PIL's has -0.5.
    """
    for _ in range(what.layers):
        drawn = draws.uniform(0, len(CHANGES)).long()
        made = draws.uniform() < what.prob
        part = draws.normal(what.magnitude, what.std).clamp(0, LARGEST) / LARGEST
        amounts = torch.where(draws.uniform() < 0.5, part, -part)
        for k, change in enumerate(CHANGES.values()):
            change_some(images, made & (drawn == k), functools.partial(change, fill=fill), amounts)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round()


def autocontrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Stretch each channel to the range 0-1."""
    return torchvision.autocontrast(images)


def equalize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Flatten each channel's histogram."""
    return torchvision.equalize(_bytes(images).to(torch.uint8)).float() / 255


def invert(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Invert the colours."""
    return 1 - images


def rotate(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Rotate anticlockwise about the centre, by at most 30 degrees."""
    turn = TURN * amounts
    cos, sin, none = turn.cos(), turn.sin(), torch.zeros_like(turn)
    return _warped(images, torch.stack([cos, -sin, none, sin, cos, none], 1).view(-1, 2, 3), fill)


def posterize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Keep the 4 highest bits of a byte, down to none at the largest magnitude."""
    step = 2 ** (4 + (4 * _per_image(amounts).abs()).floor())
    values = _bytes(images)
    return (values - values % step) / 255


def rand_solarize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Invert the values above a threshold, which falls from 256 to 0 as the magnitude grows."""
    threshold = 256 - (256 * _per_image(amounts).abs()).floor()
    return torch.where(_bytes(images) < threshold, images, 1 - images)


def solarize_add(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Brighten the values below 128 by at most 110 of 255."""
    more = (110 * _per_image(amounts).abs()).floor() / 255
    return torch.where(_bytes(images) < 128, (images + more).clamp(max=1), images)


def enhance(images: Tensor, amounts: Tensor, fill: Tensor, *, way: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change colour, contrast, brightness or sharpness (`way`) by a factor of 0.1 to 1.9."""
    return way(images, ENHANCE * amounts)


def sharpness(images: Tensor, amounts: Tensor) -> Tensor:
    """Multiply the difference of each image from its smoothed version by 1 + amounts; the border stays."""
    taps = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    smooth = images.clone()
    inner = functional.conv2d(images, taps.expand(3, 1, 3, 3), groups=3)
    smooth[:, :, 1:-1, 1:-1] = inner
    return torch.lerp(smooth, images, 1 + _per_image(amounts)).clamp_(0, 1)


def slide(images: Tensor, amounts: Tensor, fill: Tensor, *, places: tuple[tuple[int, int], ...], most: float) -> Tensor:
    """Shear or shift: set `places` of the affine map [2, 3] to `most` * amounts."""
    theta = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for row, column in places:
        theta[:, row, column] = most * amounts
    return _warped(images, theta, fill)


def _warped(images: Tensor, theta: Tensor, fill: Tensor) -> Tensor:
    """Sample each pixel where the map [N, 2, 3] sends it, in half sides from the centre; `fill` outside."""
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    found = functional.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(3)[:, None]
    return torch.where(inside, found.clamp_(0, 1), fill)


# A shear leaves the first row or column in place, so it also shifts by half a side times its slope.
CHANGES: dict[str, Change] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": rand_solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": functools.partial(enhance, way=saturation),
    "ContrastIncreasing": functools.partial(enhance, way=contrast),
    "BrightnessIncreasing": functools.partial(enhance, way=brightness),
    "SharpnessIncreasing": functools.partial(enhance, way=sharpness),
    "ShearX": functools.partial(slide, places=((0, 1), (0, 2)), most=SHEAR),
    "ShearY": functools.partial(slide, places=((1, 0), (1, 2)), most=SHEAR),
    "TranslateXRel": functools.partial(slide, places=((0, 2),), most=2 * TRANSLATE),
    "TranslateYRel": functools.partial(slide, places=((1, 2),), most=2 * TRANSLATE),
}
