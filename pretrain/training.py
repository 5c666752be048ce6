"""A siamese network trained through mmengine's Runner, such that a killed run goes on bit for bit.

Whatever a step draws or is set to follows from its position: the images and the masks from (seed,
iteration), the learning rate from the iteration. So a checkpoint holds weights and the optimiser's state,
no generator's, and nothing is replayed on resuming.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.training.hooks import newest_checkpoint
from bench.training.runner import DeviceRunner
from bench.training.seeding import MODEL, seed_everything
from pretrain.data import Batch
from pretrain.encoder import choose_attention
from pretrain.recipes import Recipe
from pretrain.siamese import Siamese

CHECKPOINTS = "checkpoint-*.pth"  # * is the number of iterations done, in nine digits


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
        """All of them."""
        return self.recipe.epochs * self.updates_per_epoch * self.accumulate

    def epoch(self, iteration: int) -> float:
        """The epochs done before an iteration; within an update it stands still."""
        return iteration // self.accumulate / self.updates_per_epoch

    def learning_rate(self, iteration: int) -> float:
        """Of the update that the iteration is part of: the first one's is not 0, it would be lost."""
        return self.recipe.learning_rate(self.epoch(iteration) + 1 / self.updates_per_epoch)


class Pretraining(BaseModel):  # type: ignore[misc]  # mmengine is untyped
    """The siamese network as mmengine trains it: in the recipe's precision, and averaged if it says so."""

    def __init__(self, siamese: Siamese, recipe: Recipe) -> None:
        """Wrap, without a change of weights."""
        super().__init__()
        self.siamese = siamese
        self.bf16 = recipe.precision == "bf16"
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            average = get_ema_multi_avg_fn(recipe.ema)
            self.average = AveragedModel(siamese.encoder, multi_avg_fn=average)
            self.average.requires_grad_(False)

    def init_weights(self) -> None:
        """Leave the weights: mmengine would call timm's own `init_weights`."""

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:
        """The losses by name."""
        assert mode == "loss"
        with self.autocast(batch.images.device):
            losses: dict[str, Tensor] = self.siamese(batch)
        return losses

    def autocast(self, device: torch.device) -> torch.autocast:
        """The recipe's precision. bf16 has fp32's range, so its gradients need no scaling."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Their sum, whatever their names; mmengine's own sums those with "loss" in them."""
        total = torch.stack([value.float() for value in losses.values()]).sum()
        return total, {**losses, "loss": total}

    def after_step(self, progress: float) -> None:
        """After an update of the weights, at `progress` of all training."""
        self.siamese.after_step(progress)
        if self.average is not None:
            self.average.update_parameters(self.siamese.encoder)

    def encoder(self) -> nn.Module:
        """What is exported: the average where there is one."""
        return self.siamese.encoder if self.average is None else self.average.module


@LOOPS.register_module()
class PositionLoop(BaseLoop):  # type: ignore[misc]  # mmengine is untyped
    """Trains from the iteration that the runner is at; a step is a function of it and the weights."""

    max_epochs = 1  # mmengine asks

    def __init__(self, runner: Any, dataloader: BatchStream, schedule: Schedule, seed: int) -> None:
        """Take what each step follows from."""
        super().__init__(runner, dataloader)
        self.schedule, self.seed = schedule, seed
        self.waited = 0.0  # seconds, for batches
        self._epoch = self._iter = 0  # mmengine sets both on resuming

    @property
    def epoch(self) -> int:
        """mmengine's; ours is `schedule.epoch(iter)`."""
        return self._epoch

    @property
    def iter(self) -> int:
        """The iteration at work, or to come."""
        return self._iter

    @property
    def max_iters(self) -> int:
        """All of them."""
        return self.schedule.iterations

    def run(self) -> nn.Module:
        """Train to the end; returns the model."""
        self.runner.call_hook("before_train")
        self.runner.model.train()
        if self._iter < self.max_iters:  # else no worker need start
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
        seed_everything(self.seed, MODEL, self._iter, *rank)  # masks and the like
        runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
        outputs = runner.model.train_step({"batch": batch}, optim_wrapper=runner.optim_wrapper)
        if (self._iter + 1) % self.schedule.accumulate == 0:
            trained(runner).after_step((self._iter + 1) / self.max_iters)
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)


def trained(runner: Any) -> Pretraining:
    """The model inside of what distributes it."""
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
    """Train `siamese`, from `out`'s newest whole checkpoint if there is one; returns the encoder.

    `hooks` are those of `pretrain.hooks`: without NumberedCheckpoints and FiniteTrainingHook, nothing is saved
    before the end and divergence goes unnoticed. They raise UserError.
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
        default_hooks=dict.fromkeys(
            ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
        ),
        custom_hooks=list(hooks),
        visualizer=_visualizer(wandb, out),
        randomness={"seed": seed},
        experiment_name=str(out),  # mmengine's global loggers go by this name
        resume=checkpoint is not None,
        load_from=str(checkpoint) if checkpoint else None,
        cfg=Config({"device": str(device)}),
    )
    with contextlib.suppress(OSError):
        Path(runner.log_dir).rmdir()  # mmengine's, empty: the log lies beside the checkpoints
    runner.train()
    runner.visualizer.close()
    return trained(runner).encoder()


def optimiser(siamese: Siamese, schedule: Schedule) -> OptimWrapper:
    """The recipe's, over the network's parameters; vectors, positions and tokens are not decayed."""
    recipe = schedule.recipe
    groups = param_groups_weight_decay(siamese, recipe.weight_decay, no_weight_decay_list=siamese.no_weight_decay())
    return OptimWrapper(
        torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True),
        accumulative_counts=schedule.accumulate,
        clip_grad={"max_norm": recipe.clip_norm} if recipe.clip_norm else None,
    )


def _visualizer(wandb: bool, out: Path) -> dict[str, Any]:
    """TensorBoard's writer, and W&B's, which goes on with its own run where ours was killed."""
    run = {"project": "mim-bench", "name": out.resolve().name, "resume": "auto"}
    writers: list[dict[str, Any]] = [{"type": "TensorboardVisBackend"}]
    writers += [{"type": "WandbVisBackend", "init_kwargs": run}] if wandb else []
    return {"type": "Visualizer", "vis_backends": writers, "save_dir": str(out)}


def compile_in_place(siamese: Siamese) -> None:
    """torch.compile: the keys of the weights stay, and masks are drawn as without it."""
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    siamese.compile()


def place() -> torch.device:
    """This process's device; joins the process group that torchrun or Slurm's launcher says it is of."""
    if torch.cuda.is_available():
        # A site may show each process its own GPU alone.
        local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if "RANK" in os.environ and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def ranks() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
