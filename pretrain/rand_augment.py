"""RandAugment (Cubuk et al., arXiv 1909.13719) as timm's rand-m9-mstd0.5-inc1, of a batch on its device.

timm changes one PIL image after another; here all images that drew the same change get it at once, each
by its own amount. Differs: values are not rounded to bytes between two changes, and the cubic
interpolation is torch's, of coefficient -0.75 where PIL has -0.5.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as torchvision

from pretrain.colours import brightness, contrast, saturation
from pretrain.draws import Draws, change_some

LARGEST = 10.0  # magnitude
TURN = math.radians(30)  # of the changes by a magnitude of 10: the largest angle,
ENHANCE, SHEAR, TRANSLATE = 0.9, 0.3, 0.45  # factor less 1, slope, part of the side

Change = Callable[..., Tensor]  # images [N, 3, S, S], amounts [N] in -1 to 1, fill [3, 1, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """How much of it.

    Args:
        magnitude, std: of the normal distribution that an image's magnitude, 0 to 10, is drawn from.
        layers: changes drawn for an image, one after the other.
        prob: that one of them is then made.
    """

    magnitude: float = 9.0
    std: float = 0.5
    layers: int = 2
    prob: float = 0.5


def rand_augment(images: Tensor, what: RandAugment, draws: Draws, fill: Tensor) -> None:
    """Change images in 0-1 [N, 3, S, S], in place; `fill` [3, 1, 1] is what comes in from outside."""
    for _ in range(what.layers):
        drawn = draws.uniform(0, len(CHANGES)).long()
        made = draws.uniform() < what.prob
        part = draws.normal(what.magnitude, what.std).clamp(0, LARGEST) / LARGEST
        amounts = torch.where(draws.uniform() < 0.5, part, -part)
        for k, change in enumerate(CHANGES.values()):
            change_some(images, made & (drawn == k), functools.partial(change, fill=fill), amounts)


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round()


def autocontrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Stretch each channel to 0-1."""
    return torchvision.autocontrast(images)


def equalize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Make each channel's histogram flat."""
    return torchvision.equalize(_bytes(images).to(torch.uint8)).float() / 255


def invert(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Turn into the negative."""
    return 1 - images


def rotate(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Turn anticlockwise about the middle, by 30 degrees at most."""
    turn = TURN * amounts
    cos, sin, none = turn.cos(), turn.sin(), torch.zeros_like(turn)
    return _warped(images, torch.stack([cos, -sin, none, sin, cos, none], 1).view(-1, 2, 3), fill)


def posterize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Keep the 4 highest bits of a byte, or as few as none."""
    step = 2 ** (4 + (4 * _per_image(amounts).abs()).floor())
    values = _bytes(images)
    return (values - values % step) / 255


def solarize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Turn what is bright into its negative."""
    threshold = 256 - (256 * _per_image(amounts).abs()).floor()
    return torch.where(_bytes(images) < threshold, images, 1 - images)


def solarize_add(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Brighten what is dark, by 110 of 255 at most."""
    more = (110 * _per_image(amounts).abs()).floor() / 255
    return torch.where(_bytes(images) < 128, (images + more).clamp(max=1), images)


def enhance(
    images: Tensor, amounts: Tensor, fill: Tensor, *, way: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Increase or decrease colour, contrast, brightness or sharpness, by nine tenths at most."""
    return way(images, ENHANCE * amounts)


def sharpness(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images away from their smoothed ones by the factors 1 + amounts; the border stays."""
    taps = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    smooth = images.clone()
    inner = functional.conv2d(images, taps.expand(3, 1, 3, 3), groups=3)
    smooth[:, :, 1:-1, 1:-1] = inner
    return torch.lerp(smooth, images, 1 + _per_image(amounts)).clamp_(0, 1)


def slide(
    images: Tensor,
    amounts: Tensor,
    fill: Tensor,
    *,
    places: tuple[tuple[int, int], ...],
    most: float,
) -> Tensor:
    """Shear or shift: what is in some places of the affine map, other than the identity."""
    theta = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for row, column in places:
        theta[:, row, column] = most * amounts
    return _warped(images, theta, fill)


def _warped(images: Tensor, theta: Tensor, fill: Tensor) -> Tensor:
    """Each pixel from where the map [N, 2, 3] sends it, in half sides from the middle; else `fill`."""
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    found = functional.grid_sample(
        images, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    inside = (grid.abs() <= 1).all(3)[:, None]
    return torch.where(inside, found.clamp_(0, 1), fill)


# A shear leaves the first row or column where it is, so half a side is added to its slope.
CHANGES: dict[str, Change] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
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
