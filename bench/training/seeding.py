"""Random numbers as a function of position: (seed, epoch, image) for data, (seed, iteration) for the model.

So no generator state has to be saved: a resumed run draws the same numbers as an uninterrupted one, with any
number of worker processes.
"""

import random
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from torch.utils.data import Dataset

MODEL, DATA = 0, 1  # independent streams of random numbers; pretraining has more, see their modules


def seed_everything(*position: int) -> None:
    """Seed Python, numpy and torch (every device) by a tuple of non-negative integers."""
    low, high = (int(word) for word in np.random.SeedSequence(position).generate_state(2))
    random.seed(low)
    np.random.seed(low)
    # The same as torch.manual_seed, which takes half a millisecond where CUDA is not initialised.
    torch.default_generator.manual_seed(high << 32 | low)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(high << 32 | low)


@DATASETS.register_module()
class SeededDataset(Dataset):  # type: ignore[misc]  # torch is not followed
    """A data set whose items, augmentation included, are a function of (seed, epoch, index)."""

    def __init__(self, dataset: Mapping[str, Any], seed: int) -> None:
        """Build the inner data set from its config."""
        self.dataset = DATASETS.build(dataset)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with the loader's workers

    @property
    def metainfo(self) -> Mapping[str, Any]:
        """Return the inner data set's metainfo."""
        return getattr(self.dataset, "metainfo", {})

    def get_data_info(self, index: int) -> Any:
        """Return an item's annotation without loading the image; batch samplers call this."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Seed, then load and augment an item."""
        seed_everything(self.seed, DATA, int(self.epoch), index)
        return self.dataset[index]


@DATA_SAMPLERS.register_module()
class WholeBatchSampler(DefaultSampler):  # type: ignore[misc]  # mmengine is untyped
    """Shuffles by (seed, epoch) and drops an incomplete last batch.

    Ranks share each batch: together they see the batches that a single process would.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int | None = None) -> None:
        """Fill batches of `batch_size` over all ranks."""
        super().__init__(dataset, shuffle=True, seed=seed)
        self.whole = len(dataset) // batch_size * batch_size

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's indices of the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        indices = torch.randperm(len(self.dataset), generator=generator)[: self.whole].tolist()
        return iter(indices[self.rank :: self.world_size])

    def __len__(self) -> int:
        """Return the number of items of this rank."""
        return int(self.whole // self.world_size)


@HOOKS.register_module()
class SeedingHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Sets the data's epoch, and seeds each step of the model."""

    def __init__(self, seed: int) -> None:
        """Seed by `seed` and the runner's counters."""
        self.seed = seed

    def before_train_epoch(self, runner: Any) -> None:
        """Set the epoch; no worker is busy, since the epoch's batches are requested after this."""
        runner.train_dataloader.dataset.epoch.fill_(runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed, so that drop path and dropout depend on the iteration and the rank only."""
        seed_everything(self.seed, MODEL, runner.iter, *([runner.rank] if runner.rank else []))
