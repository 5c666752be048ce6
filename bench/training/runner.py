"""mmengine's Runner, kept to one device and one log file: under evaluation and pretraining alike."""

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
    """A Runner that keeps to its config's `device` and writes its log to a file, not to the terminal."""

    def load_checkpoint(self, filename: str, **settings: Any) -> Any:
        """Refuse a checkpoint of another model; mmengine would only log what does not fit."""
        with contextlib.redirect_stdout(None):  # it prints where from
            return super().load_checkpoint(filename, **{**settings, "strict": True})

    def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **kwargs: Any) -> Any:
        """One `run.log` a run, resumed parts appended; the terminal hears of errors alone."""
        name = "run.log" if self.rank == 0 else f"run-rank{self.rank}.log"
        log = super().build_logger(log_level, str(Path(self.work_dir) / name), **kwargs)
        for handler in log.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return log

    def dump_config(self) -> None:
        """Under one name, so that a resumed run leaves one."""
        if self.rank == 0:
            self.cfg.dump(Path(self.work_dir) / "config.py")

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """mmengine takes CUDA wherever there is one; a single process has no batches to synchronise."""
        assert model_wrapper_cfg is None
        device = torch.device(self.cfg.device)
        if self.world_size == 1:
            return revert_sync_batchnorm(model).to(device)
        cuda = device.type == "cuda"
        # Statistics of the whole batch, as one process has them.
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm if cuda else gather_batch_norm
        model = synchronised(model)
        return MMDistributedDataParallel(
            module=model.to(device),
            device_ids=[device.index] if cuda else None,
            broadcast_buffers=not cuda,
            find_unused_parameters=True,  # a batch without an object trains no mask head
        )


# Batch normalisation over the images of all ranks, on a CPU: torch has such a layer for CUDA alone.

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Sum(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """Of all ranks' values; each rank's loss depends on each value, so gradients are summed too."""

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
    """Batch normalisation with the mean and the variance of all ranks' batches together."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [n, c, ...]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, c, ...]; in training by the whole batch's statistics, which it keeps a mean of."""
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = _Sum.apply(input.new_tensor(input.numel() / input.shape[1]))
        mean = _Sum.apply(input.sum(dims)) / count
        centred = input - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if not self.affine:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, new)
        self.running_var.lerp_(variance, new)


def gather_batch_norm(model: nn.Module) -> nn.Module:
    """Make the plain batch normalisations of a model those of all ranks, in place."""
    for module in model.modules():
        if type(module) in PLAIN:
            module.__class__ = GatheredBatchNorm
    return model
