"""Pictures of pretraining: what the network was shown, what it made of it, what it should have."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from PIL import Image
from torch import Tensor

from pretrain.data import Batch
from pretrain.training import trained

GAP = 2  # pixels


class Pictures(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Every few epochs, the first images of the batch at hand: a PNG in `out/pictures`, and TensorBoard's.

    A method without pixels has none. Nothing of training depends on them: each step seeds anew.
    """

    def __init__(self, images: int = 8) -> None:
        """Show so many `images`, one a column."""
        self.images = images

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """At the end of every `picture_epochs`-th epoch, and of the last."""
        schedule, done = runner.train_loop.schedule, runner.iter + 1
        each = schedule.recipe.picture_epochs * schedule.updates_per_epoch * schedule.accumulate
        if runner.rank or (done % each and done != runner.max_iters):
            return
        model = trained(runner)
        shown = _first(data_batch, self.images)
        was_training = model.training
        model.eval()
        with torch.no_grad(), model.autocast(shown.images.device):
            panels = model.siamese.picture(shown)
        model.train(was_training)
        if panels is not None:
            picture = grid(panels.float())
            path = Path(runner.work_dir) / "pictures" / f"epoch-{round(schedule.epoch(done)):04d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(path)
            runner.visualizer.add_image("masked, reconstructed, target", picture, step=done)


def grid(panels: Tensor) -> np.ndarray:
    """[N, K, 3, H, W] in 0-1 as one uint8 picture [K (H + GAP) - GAP, N (W + GAP) - GAP, 3], white between."""
    pixels = (panels.clamp(0, 1) * 255).round().byte().cpu().permute(1, 0, 3, 4, 2).numpy()
    rows, columns, height, width, _ = pixels.shape
    whole = np.full((rows, height + GAP, columns, width + GAP, 3), 255, np.uint8)
    whole[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
    return whole.reshape(rows * (height + GAP), columns * (width + GAP), 3)[:-GAP, :-GAP]


def _first(batch: Batch, images: int) -> Batch:
    parts = {
        field.name: value[:images]
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    return dataclasses.replace(batch, **parts)
