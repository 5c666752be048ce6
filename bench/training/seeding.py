"""Randomness as a function of position: (seed, epoch, image) for data, (seed, iteration) for the model.

No generator's state has to be saved, so a resumed run draws what the undisturbed one would have
drawn, and the number of worker processes changes nothing.
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

MODEL, DATA = 0, 1  # streams: what is drawn for one never depends on the other


def seed_everything(*position: int) -> None:
    """Seed Python, numpy and torch (every device) by a tuple of non-negative integers."""
    low, high = (int(word) for word in np.random.SeedSequence(position).generate_state(2))
    random.seed(low)
    np.random.seed(low)
    # As torch.manual_seed does, which costs half a millisecond where CUDA has not been used yet.
    torch.default_generator.manual_seed(high << 32 | low)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(high << 32 | low)


@DATASETS.register_module()
class SeededDataset(Dataset):  # type: ignore[misc]  # torch is not followed
    """A data set whose item is a function of (seed, epoch, index), augmentation included."""

    def __init__(self, dataset: Mapping[str, Any], seed: int) -> None:
        """Build the inner data set from its config."""
        self.dataset = DATASETS.build(dataset)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers see it change

    @property
    def metainfo(self) -> Mapping[str, Any]:
        """What the inner data set says of itself."""
        return getattr(self.dataset, "metainfo", {})

    def get_data_info(self, index: int) -> Any:
        """The annotation of an item, unloaded; batch samplers ask for it."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Seed, then load and augment."""
        seed_everything(self.seed, DATA, int(self.epoch), index)
        return self.dataset[index]


@DATA_SAMPLERS.register_module()
class WholeBatchSampler(DefaultSampler):  # type: ignore[misc]  # mmengine is untyped
    """Shuffles by (seed, epoch), and leaves out what does not fill the last batch.

    Ranks share each batch: taken together they see the batches that one process would.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int | None = None) -> None:
        """Fill batches of `batch_size` over all ranks."""
        super().__init__(dataset, shuffle=True, seed=seed)
        self.whole = len(dataset) // batch_size * batch_size

    def __iter__(self) -> Iterator[int]:
        """This rank's part of the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        indices = torch.randperm(len(self.dataset), generator=generator)[: self.whole].tolist()
        return iter(indices[self.rank :: self.world_size])

    def __len__(self) -> int:
        """Number of items of this rank."""
        return int(self.whole // self.world_size)


@HOOKS.register_module()
class SeedingHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Tells the data its epoch before an item of it is asked for, and seeds each step of the model."""

    def __init__(self, seed: int) -> None:
        """Seed by `seed` and what the runner counts."""
        self.seed = seed

    def before_train_epoch(self, runner: Any) -> None:
        """Workers have nothing left to do of the epoch before: the next batches are asked for after this."""
        runner.train_dataloader.dataset.epoch.fill_(runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Drop path, dropout and the like then depend on the iteration alone."""
        seed_everything(self.seed, MODEL, runner.iter, *([runner.rank] if runner.rank else []))
