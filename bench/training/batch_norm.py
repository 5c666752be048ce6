"""Batch normalisation over the images of all ranks, on a CPU: torch has such a layer for CUDA alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
