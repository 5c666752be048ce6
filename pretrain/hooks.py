"""mmengine hooks of pretraining: numbered checkpoints, divergence, progress, pictures and snapshots.

What evaluation shares with them is in `bench.training.hooks`.
"""

import datetime
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from PIL import Image
from torch import Tensor

from bench.errors import UserError
from bench.training.hooks import FiniteLossHook, ProgressHook, newest_checkpoint, write_checkpoint
from pretrain.data import Batch
from pretrain.training import CHECKPOINTS, export, trained

GAP = 2  # pixels between the images of a picture
SNAPSHOTS = "snapshots"  # folder


class NumberedCheckpoints(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Writes the training state every `interval` seconds and at the end; deletes all but the last `keep` files.

    It writes only after an update of the weights. Resuming is exact, so the time of writing changes no number.
    """

    priority = "VERY_LOW"  # after everything else that an iteration does

    def __init__(self, interval: float, keep: int = 2) -> None:
        """Start counting the `interval` now."""
        assert keep >= 2, "if the newest file is damaged, training resumes from the one before"
        self.interval, self.keep = interval, keep
        self.written = time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Delete the partial file of a process that was killed while it wrote."""
        if runner.rank == 0:
            for path in Path(runner.work_dir).glob(f".{CHECKPOINTS}"):
                path.unlink()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write when the interval has passed. Raises UserError when the file cannot be written."""
        done, loop = runner.iter + 1, runner.train_loop
        if runner.rank or done % loop.schedule.accumulate:
            return
        if done == loop.max_iters or time.monotonic() - self.written >= self.interval:
            folder = Path(runner.work_dir)
            path = folder / CHECKPOINTS.replace("*", f"{done:09d}")
            write_checkpoint(runner, path, f"iteration {done}", by_epoch=False, save_param_scheduler=False)
            for old in sorted(folder.glob(CHECKPOINTS), reverse=True)[self.keep :]:
                old.unlink()
            self.written = time.monotonic()


class FiniteTrainingHook(FiniteLossHook):
    """Stops at a loss or, before a checkpoint is written, at weights that are NaN or infinite."""

    def __init__(self, interval: int = 10) -> None:
        """Read losses from a GPU every `interval` iterations."""
        super().__init__(interval)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Raise UserError before bad weights are saved: a finite loss can have a gradient that is not."""
        self.after_train(runner)
        weights = checkpoint["state_dict"]
        bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
        if bad:
            raise self._error(runner, f"{len(bad)} weights ({bad[0]}, ...) are NaN or infinite after", runner.iter)

    def error(self, runner: Any, iteration: int, outputs: Mapping[str, Tensor]) -> UserError:
        """Return the message for a loss that diverged at `iteration`."""
        return self._error(runner, "The loss is NaN or infinite in", iteration)

    def _error(self, runner: Any, problem: str, iteration: int) -> UserError:
        schedule = runner.train_loop.schedule
        last = newest_checkpoint(Path(runner.work_dir), CHECKPOINTS)
        return UserError(
            f"Training diverged: {problem} iteration {iteration + 1} of {schedule.iterations} (epoch "
            f"{schedule.epoch(iteration):.2f}, learning rate {schedule.learning_rate(iteration):.3g}). "
            f"{f'The last good checkpoint is {last}.' if last else 'No checkpoint was written before.'} Rerunning the "
            f"same command will diverge again: check the images, or use --precision fp32 or a recipe with a lower "
            f"learning rate, with another --out."
        )


class PretrainingProgress(ProgressHook):
    """A bar on a terminal, lines elsewhere, and always scalars for TensorBoard; on rank 0 only.

    Losses are summed on their device and read every `interval` iterations, since reading makes a GPU wait.
    """

    def __init__(self, title: str, images: int, *, interval: int = 10, seconds: float = 10.0) -> None:
        """Count `images` an iteration, over all processes; write a line every `seconds` at most."""
        super().__init__(title)
        self.images, self.interval, self.seconds = images, interval, seconds
        self.sums: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Start the bar at the resumed iteration."""
        super().before_train(runner)
        self.begin = self.since = self.line_written = time.perf_counter()
        self.first = self.last = runner.iter
        self.waited = 0.0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Sum the losses, and report their means when it is time."""
        for name, value in outputs.items():
            seen = value.detach().float()
            self.sums[name] = self.sums[name] + seen if name in self.sums else seen
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters or done == self.first + 1:
            self._report(runner, done)

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen, and write a line about the whole training."""
        self.close()
        iterations = runner.iter - self.first
        if not iterations:
            return
        seconds = time.perf_counter() - self.begin
        waited = runner.train_loop.waited / seconds
        rate = iterations * self.images / seconds
        self._line(runner, f"{iterations} iterations in {_clock(seconds)}: {rate:.0f} images/s, waited {waited:.1%}")

    def _report(self, runner: Any, done: int) -> None:
        losses = {name: float(value) / (done - self.last) for name, value in self.sums.items()}
        now, loop = time.perf_counter(), runner.train_loop
        rate = (done - self.last) * self.images / (now - self.since)
        waited = (loop.waited - self.waited) / (now - self.since)
        scalars = {
            **{f"train/{name}": value for name, value in losses.items()},
            "train/learning_rate": loop.schedule.learning_rate(runner.iter),
            "speed/images_per_second": rate,
            "speed/waited": waited,
        }
        runner.visualizer.add_scalars(scalars, step=done)
        note = (
            f"epoch {loop.schedule.epoch(done):.2f}/{loop.schedule.recipe.epochs} loss {losses['loss']:.4f} "
            f"{rate:.0f} images/s, waited {waited:.0%}"
        )
        self._advance(runner, done, note=note)
        if not self.drawn and (now - self.line_written >= self.seconds or done == self.first + 1):
            left = (now - self.begin) / (done - self.first) * (runner.max_iters - done)
            self._line(runner, f"iteration {done}/{runner.max_iters} {note}, {_clock(left)} left")
            self.line_written = now
        self.sums, self.since, self.last, self.waited = {}, now, done, loop.waited

    def _line(self, runner: Any, text: str) -> None:
        if runner.rank == 0:
            runner.logger.info(text)
            sys.stderr.write(f"{self.title}: {text}\n")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


class Pictures(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Every few epochs, a PNG in `out/pictures` and TensorBoard: masked input, reconstruction and target.

    It shows the first images of the current batch. A method that predicts no pixels has no pictures. Each step of
    training seeds its own random numbers, so the ones drawn here change nothing.
    """

    def __init__(self, images: int = 8) -> None:
        """Show that many `images`, one a column."""
        self.images = images

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw at the end of every `picture_epochs`-th epoch, and of the last."""
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
    """Tile [N, K, 3, H, W] in 0-1 into a uint8 picture [K (H + GAP) - GAP, N (W + GAP) - GAP, 3] with white gaps."""
    pixels = (panels.clamp(0, 1) * 255).round().byte().cpu().permute(1, 0, 3, 4, 2).numpy()
    rows, columns, height, width, _ = pixels.shape
    whole = np.full((rows, height + GAP, columns, width + GAP, 3), 255, np.uint8)
    whole[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
    return whole.reshape(rows * (height + GAP), columns * (width + GAP), 3)[:-GAP, :-GAP]


def _first(batch: Batch, images: int) -> Batch:
    return Batch(**{name: None if value is None else value[:images] for name, value in vars(batch).items()})


class Snapshots(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Exports the encoder every `epochs` epochs, for `bench.run --watch OUT`; the last one is the run's own result.

    A file's content follows from the weights of its epoch, so a file left by a killed process is valid.
    """

    def __init__(self, epochs: int, header: Mapping[str, str]) -> None:
        """`header` is the final file's; a snapshot replaces its name and epochs."""
        self.epochs, self.header = epochs, header

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Export at the end of every `epochs`-th epoch but the last."""
        schedule, done = runner.train_loop.schedule, runner.iter + 1
        each = self.epochs * schedule.updates_per_epoch * schedule.accumulate
        if runner.rank or done % each or done == runner.max_iters:
            return
        epoch = str(done // each * self.epochs)
        path = Path(runner.work_dir) / SNAPSHOTS / f"epoch-{epoch.zfill(4)}.safetensors"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            model = trained(runner)
            header = {**self.header, "name": f"{self.header['name']}-epoch-{epoch}", "epochs": epoch}
            export(model.encoder(), path, header, model.siamese.mask_token)
