"""Batch normalisation over the images of all ranks, on a CPU: torch has such a layer for CUDA alone."""

from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        count = all_reduce(input.new_tensor(input.numel() / input.shape[1]))
        mean = all_reduce(input.sum(dims)) / count
        centred = input - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
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
