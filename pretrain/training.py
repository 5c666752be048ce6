"""Training of a siamese network by mmengine's Runner; a killed run resumes bit for bit.

A step depends on the weights and its position only: the images and masks on (seed, iteration), the learning rate on
the iteration. So a checkpoint needs no generator's state, and nothing is replayed on resuming. The result is
the encoder's weights file: safetensors with timm's keys and a header of the architecture and the normalisation of
images, so `python -m bench.run --backbone OUT/backbone.safetensors` needs no further options.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner.base_loop import BaseLoop
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.errors import UserError
from bench.training.hooks import newest_checkpoint, replace_durably
from bench.training.runner import DeviceRunner
from bench.training.seeding import MODEL, seed_everything
from pretrain.data import Batch
from pretrain.encoder import choose_attention
from pretrain.recipes import Recipe
from pretrain.siamese import Siamese

# Keys of a weights file's header.
REQUIRED = ("arch", "method", "recipe", "data", "epochs", "mean", "std", "img_size", "commit")
CHECKPOINTS = "checkpoint-*.pth"  # * is the number of iterations done, in nine digits
# mmengine's default hooks, which are turned off: the loop and `pretrain.hooks` do their work.
UNUSED_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class BatchStream:
    """The training loop's batches, from any iteration on.

    Attributes:
        dataset: the images (mmengine asks for a loader's dataset).
        starting_at: gives the raw batches of iterations i, i + 1, ...
        augment: turns a raw batch and its position, (seed, iteration), into a method's batch on the device.
    """

    dataset: Any
    starting_at: Callable[[int], Iterable[Any]]
    augment: Callable[[Any, tuple[int, ...]], Batch]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recipe counted in iterations; an update has `accumulate` of them."""

    recipe: Recipe
    updates_per_epoch: int
    accumulate: int = 1

    @property
    def iterations(self) -> int:
        """Return the number of iterations of the whole training."""
        return self.recipe.epochs * self.updates_per_epoch * self.accumulate

    def epoch(self, iteration: int) -> float:
        """Return the epochs done before an iteration; constant within an update."""
        return iteration // self.accumulate / self.updates_per_epoch

    def learning_rate(self, iteration: int) -> float:
        """Return the rate at the end of the iteration's update: at its start, the first update's rate would be 0."""
        return self.recipe.learning_rate(self.epoch(iteration) + 1 / self.updates_per_epoch)


class Pretraining(BaseModel):  # type: ignore[misc]  # mmengine is untyped
    """The siamese network as an mmengine model, in the recipe's precision, with the moving average it may ask for."""

    def __init__(self, siamese: Siamese, recipe: Recipe) -> None:
        """Wrap the network without changing its weights."""
        super().__init__()
        self.siamese = siamese
        self.bf16 = recipe.precision == "bf16"
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            self.average = AveragedModel(siamese.encoder, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
            self.average.requires_grad_(False)

    def init_weights(self) -> None:
        """Do nothing: mmengine would call timm's `init_weights` and change the weights."""

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:
        """Return the losses by name."""
        assert mode == "loss"
        with self.autocast(batch.images.device):
            losses: dict[str, Tensor] = self.siamese(batch)
        return losses

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context of the recipe's precision; bf16 has fp32's range, so gradients need no scaling."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all losses, and the losses; mmengine's version sums only names that contain "loss"."""
        total = torch.stack([value.float() for value in losses.values()]).sum()
        return total, {**losses, "loss": total}

    def after_step(self, progress: float) -> None:
        """Update the target and the average after an update of the weights, at `progress` 0-1 of the training."""
        self.siamese.after_step(progress)
        if self.average is not None:
            self.average.update_parameters(self.siamese.encoder)

    def encoder(self) -> nn.Module:
        """Return the encoder to export: the average if there is one."""
        return self.siamese.encoder if self.average is None else self.average.module


@LOOPS.register_module()
class PositionLoop(BaseLoop):  # type: ignore[misc]  # mmengine is untyped
    """Trains from the runner's current iteration; a step is a function of the iteration and the weights."""

    max_epochs = 1  # mmengine reads it

    def __init__(self, runner: Any, dataloader: BatchStream, schedule: Schedule, seed: int) -> None:
        """Take what determines each step."""
        super().__init__(runner, dataloader)
        self.schedule, self.seed = schedule, seed
        self.waited = 0.0  # seconds spent waiting for batches
        self._epoch = self._iter = 0  # mmengine sets both on resuming

    @property
    def epoch(self) -> int:
        """Return mmengine's epoch, which is not used; the real one is `schedule.epoch(iter)`."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Return the current or next iteration."""
        return self._iter

    @property
    def max_iters(self) -> int:
        """Return the number of iterations of the whole training."""
        return self.schedule.iterations

    def run(self) -> nn.Module:
        """Train to the end; return the model."""
        self.runner.call_hook("before_train")
        self.runner.model.train()
        if self._iter < self.max_iters:  # a finished run starts no workers
            for raw in self._raw_batches():
                self._step(raw)
                self._iter += 1
                if self._iter == self.max_iters:
                    break
        assert self._iter == self.max_iters, "the data ended before training did"
        self.runner.call_hook("after_train")
        return self.runner.model

    def _raw_batches(self) -> Iterator[Any]:
        batches = iter(self.dataloader.starting_at(self._iter))
        while True:
            start = time.perf_counter()
            try:
                raw = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield raw

    def _step(self, raw: Any) -> None:
        runner, rank = self.runner, [self.runner.rank] if self.runner.rank else []
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = self.schedule.learning_rate(self._iter)
        batch = self.dataloader.augment(raw, (self.seed, self._iter))
        seed_everything(self.seed, MODEL, self._iter, *rank)  # for masks and stochastic depth
        runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
        outputs = runner.model.train_step({"batch": batch}, optim_wrapper=runner.optim_wrapper)
        if (self._iter + 1) % self.schedule.accumulate == 0:
            trained(runner).after_step((self._iter + 1) / self.max_iters)
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)


def trained(runner: Any) -> Pretraining:
    """Return the model without its distributed wrapper."""
    model = getattr(runner.model, "module", runner.model)
    assert isinstance(model, Pretraining)
    return model


def train(
    siamese: Siamese,
    batches: BatchStream,
    schedule: Schedule,
    *,
    seed: int,
    out: Path,
    device: torch.device,
    hooks: Sequence[Hook] = (),
    compiled: bool = False,
    wandb: bool = False,
) -> nn.Module:
    """Train `siamese`, from the newest undamaged checkpoint in `out` if there is one; return the encoder.

    `hooks` should have NumberedCheckpoints and FiniteTrainingHook of `pretrain.hooks`: without them no checkpoint is
    written and divergence is not noticed.
    """
    model = Pretraining(siamese, schedule.recipe).to(device)
    choose_attention(siamese, device, model.bf16)
    if compiled:
        compile_in_place(siamese)
    checkpoint = newest_checkpoint(out, CHECKPOINTS)
    runner = DeviceRunner(
        model=model,
        work_dir=str(out),
        train_dataloader=batches,
        train_cfg={"type": "PositionLoop", "schedule": schedule, "seed": seed},
        optim_wrapper=optimiser(siamese, schedule),
        default_hooks=dict.fromkeys(UNUSED_HOOKS),
        custom_hooks=list(hooks),
        visualizer=_visualizer(wandb, out),
        randomness={"seed": seed},
        experiment_name=str(out),  # mmengine's global loggers have this name
        resume=checkpoint is not None,
        load_from=str(checkpoint) if checkpoint else None,
        cfg=Config({"device": str(device)}),
    )
    with contextlib.suppress(OSError):
        Path(runner.log_dir).rmdir()  # mmengine's empty folder; the log is next to the checkpoints
    runner.train()
    runner.visualizer.close()
    return trained(runner).encoder()


def optimiser(siamese: Siamese, schedule: Schedule) -> OptimWrapper:
    """Return the recipe's AdamW over the network's parameters; vectors, positions and tokens have no weight decay."""
    recipe = schedule.recipe
    groups = param_groups_weight_decay(siamese, recipe.weight_decay, no_weight_decay_list=siamese.no_weight_decay())
    return OptimWrapper(
        torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True),
        accumulative_counts=schedule.accumulate,
        clip_grad={"max_norm": recipe.clip_norm} if recipe.clip_norm else None,
    )


def _visualizer(wandb: bool, out: Path) -> dict[str, Any]:
    """Return the config of TensorBoard's writer and optionally W&B's, which resumes its own run with ours."""
    run = {"project": "mim-bench", "name": out.resolve().name, "resume": "auto"}
    writers: list[dict[str, Any]] = [{"type": "TensorboardVisBackend"}]
    writers += [{"type": "WandbVisBackend", "init_kwargs": run}] if wandb else []
    return {"type": "Visualizer", "vis_backends": writers, "save_dir": str(out)}


def compile_in_place(siamese: Siamese) -> None:
    """Apply torch.compile without changing the keys of the weights or the masks that are drawn."""
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    siamese.compile()


def join_processes() -> torch.device:
    """Return this process's device; join the process group that torchrun or Slurm's launcher defines."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Some sites make only one GPU visible to each process.
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def export(encoder: nn.Module, path: Path, header: Mapping[str, str], mask_token: Tensor | None = None) -> None:
    """Write the encoder's weights in fp32, atomically.

    Args:
        encoder: a timm model; its state_dict's keys are the file's.
        header: strings by name; `bench` reads `arch`, `method`, `mean` and `std` (JSON lists, RGB of images
            in 0-1) and `img_size` ("[height, width]").
        mask_token: replaces hidden patches, [1, 1, D]; `mask_token` in the file, as in SimMIM's own files, for
            `analysis/occlusion`. It is the one of the last update, also if the encoder is a moving average.

    Raises UserError when the file cannot be written.
    """
    missing = [name for name in REQUIRED if name not in header]
    assert not missing, f"the header lacks {missing}"
    weights = encoder.state_dict()
    if mask_token is not None:
        weights["mask_token"] = mask_token
    state = {
        key: (value.detach().float() if value.is_floating_point() else value.detach()).cpu().contiguous()
        for key, value in weights.items()
    }
    temporary = path.with_name(f".{path.name}")
    try:
        save_file(state, temporary, metadata=dict(header))
        replace_durably(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The backbone {path} cannot be written ({error}). Training is done and its last checkpoint is in the same "
            f"folder: free disk space or fix the folder's permissions, and run the same command again."
        ) from None
