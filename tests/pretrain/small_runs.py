"""A few random pictures and a tiny ViT: what tests of training share."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from PIL import Image

from pretrain import data, training
from pretrain.augment import Augment, augmentation
from pretrain.hooks import FiniteTrainingHook, NumberedCheckpoints
from pretrain.methods import method
from pretrain.recipes import RECIPES, Recipe
from pretrain.siamese import Siamese, build
from pretrain.sources import source

Weights = dict[str, torch.Tensor]
SMALL = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
RECIPE = dataclasses.replace(RECIPES["smoke"], batch_size=4, epochs=2, base_lr=0.1, picture_epochs=1, ema=0.5)


def pictures(folder: Path, count: int = 12) -> Path:
    """So many random PNGs in two class folders."""
    random = np.random.default_rng(0)
    for k in range(count):
        path = folder / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 80)).save(path)
    return folder


def network(name: str = "mae", seed: int = 0, **changes: Any) -> Siamese:
    classes = 2 if name == "supervised" else 0
    chosen = method(name, **{**SMALL, **changes})
    return build(chosen, "test_vit", img_size=64, num_classes=classes, seed=seed)


def batches(images: Path, recipe: Recipe, accumulate: int = 1) -> training.BatchStream:
    """Of the folder's pictures, read by this process."""
    found = source(images)
    augment = Augment(augmentation("mae"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def starting_at(iteration: int) -> Any:
        size = recipe.batch_size // accumulate
        crops = data.CropBatches(found, batch_size=size, img_size=64, seed=0)
        return data.loader(crops, start_iteration=iteration)

    return training.BatchStream(dataset=found, starting_at=starting_at, augment=augment)


def train(
    images: Path,
    out: Path,
    *,
    siamese: Siamese | None = None,
    recipe: Recipe = RECIPE,
    accumulate: int = 1,
    seconds: float = 0.0,
    keep: int = 2,
    hooks: Sequence[Hook] = (),
    change: Callable[[training.BatchStream], training.BatchStream] = lambda given: given,
) -> Weights:
    """Train the tiny ViT on the CPU, a checkpoint every so many seconds; returns the encoder's weights."""
    schedule = training.Schedule(recipe=recipe, updates_per_epoch=3, accumulate=accumulate)
    encoder = training.train(
        network() if siamese is None else siamese,
        change(batches(images, recipe, accumulate)),
        schedule,
        seed=0,
        out=out,
        device=torch.device("cpu"),
        hooks=[FiniteTrainingHook(), *hooks, NumberedCheckpoints(seconds, keep)],
    )
    return encoder.state_dict()


def moved_apart(one: Weights, two: Weights, start: Weights) -> float:
    """How far two runs' weights are from each other, in parts of the way that one has come."""
    keys = [key for key in one if one[key].is_floating_point()]

    def distance(a: Weights, b: Weights) -> float:
        return float(sum(((a[key] - b[key]) ** 2).sum() for key in keys)) ** 0.5

    assert distance(one, start) > 0
    return distance(one, two) / distance(one, start)


def equal(one: Weights, two: Weights) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
