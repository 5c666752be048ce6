"""Random numbers for a batch's images, drawn on the CPU by position, and a change of some of the images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pretrain.data import RawBatch

AUGMENT = 8  # a stream of random numbers, see bench.training.seeding


def seed_of(position: tuple[int, ...], what: int) -> int:
    """A seed of 32 bits for one of the things that are drawn for a step."""
    seed = np.random.SeedSequence([AUGMENT, what, *position, len(position)])
    return int(seed.generate_state(1)[0])


class Draws:
    """Random numbers of one crop of a step's batch: this process' share of them, on the CPU."""

    def __init__(self, position: tuple[int, ...], crop: int, raw: RawBatch) -> None:
        """Seed by the position, whatever was drawn before."""
        self.generator = torch.Generator().manual_seed(seed_of(position, crop))
        self.slots, self.batch_size = raw.slots, raw.batch_size

    def uniform(self, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Tensor:
        """One number for each image, float32 [N]; with a count [N, count]."""
        shape = (self.batch_size,) if count is None else (self.batch_size, count)
        return torch.rand(shape, generator=self.generator)[self.slots] * (high - low) + low

    def normal(self, mean: float, std: float) -> Tensor:
        """One normal number for each image, float32 [N]."""
        return torch.randn(self.batch_size, generator=self.generator)[self.slots] * std + mean

    def order(self, count: int) -> list[int]:
        """An order of so many things, the same for all images."""
        return [int(k) for k in torch.randperm(count, generator=self.generator)]

    def noise(self, *shape: int) -> Tensor:
        """Normal numbers, the same for all images."""
        return torch.randn(shape, generator=self.generator)


def change_some(
    images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *numbers: Tensor
) -> None:
    """Change the chosen images, in place; `numbers` [N, ...] are the change's arguments."""
    rows = chosen.nonzero().flatten()
    if not len(rows):
        return
    device = images.device
    there = rows.to(device)
    images[there] = change(images[there], *(n[rows].to(device) for n in numbers))
