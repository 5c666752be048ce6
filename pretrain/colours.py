"""Changes of colour and blur, of batches of RGB images in 0-1 [N, 3, H, W], by an amount for each image [N]."""

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's greyscale
BLUR_RADIUS = 6  # pixels: three times the widest blur


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
