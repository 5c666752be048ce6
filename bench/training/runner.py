"""mmengine's Runner on one device with one log file, for evaluation and pretraining."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DeviceRunner(Runner):  # type: ignore[misc]  # mmengine is untyped
    """A Runner that uses its config's `device` and writes its log to a file, not to the terminal."""

    def load_checkpoint(self, filename: str, **settings: Any) -> Any:
        """Load strictly: mmengine would only log keys that do not match."""
        with contextlib.redirect_stdout(None):  # mmengine prints the path
            return super().load_checkpoint(filename, **{**settings, "strict": True})

    def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **kwargs: Any) -> Any:
        """Write one `run.log` a run, appended to on resuming; only errors appear on the terminal."""
        name = "run.log" if self.rank == 0 else f"run-rank{self.rank}.log"
        log = super().build_logger(log_level, str(Path(self.work_dir) / name), **kwargs)
        for handler in log.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return log

    def dump_config(self) -> None:
        """Write the config under a fixed name, so that a resumed run overwrites its own."""
        if self.rank == 0:
            self.cfg.dump(Path(self.work_dir) / "config.py")

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Move the model to the config's device; with several ranks, distribute it and join their batch statistics.

        mmengine itself would use CUDA wherever it is available.
        """
        assert model_wrapper_cfg is None
        device = torch.device(self.cfg.device)
        if self.world_size == 1:
            return revert_sync_batchnorm(model).to(device)
        cuda = device.type == "cuda"
        # Normalise over the batches of all ranks, as a single process would; torch's layer works on CUDA only.
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if cuda else gather_batch_norm(model)
        return MMDistributedDataParallel(
            module=model.to(device),
            device_ids=[device.index] if cuda else None,
            broadcast_buffers=not cuda,
            find_unused_parameters=True,  # a batch without an object trains no mask head
        )


class _Sum(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """The sum of all ranks' values; every rank's loss depends on every value, so gradients are summed too."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class GatheredBatchNorm(_BatchNorm):  # type: ignore[misc]  # torch is not followed
    """Batch normalisation by mean and variance over the batches of all ranks, on a CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any [n, c, ...]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, c, ...]; in training by all ranks' statistics, which update the running ones."""
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = _Sum.apply(input.new_tensor(input.numel() / input.shape[1]))
        mean = _Sum.apply(input.sum(dims)) / count
        centred = input - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._update_running(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if not self.affine:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, new)
        self.running_var.lerp_(variance, new)


def gather_batch_norm(model: nn.Module) -> nn.Module:
    """Replace a model's batch normalisations by GatheredBatchNorm, in place; return the model."""
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = GatheredBatchNorm
    return model
