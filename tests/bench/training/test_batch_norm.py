"""Two ranks' batch normalisation against torch's own over the whole batch."""

import pytest
import torch
from torch import nn

from bench.runs.ranks import call
from bench.training.runner import gather_batch_norm

BATCH = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
GOAL = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3))
    nn.init.uniform_(model[3].weight)
    return model


def step(model: nn.Module, part: slice) -> list[torch.Tensor]:
    """The gradients of a mean loss over a part of the batch, and the running statistics."""
    (model(BATCH[part]) - GOAL[part]).pow(2).mean().backward()
    return [p.grad for p in model.parameters()] + [b.float() for b in model.buffers()]


def shared(rank: int) -> list[list[float]]:
    # Unequal shares would be weighed unequally by the mean of gradients; the sampler makes them equal.
    found = step(gather_batch_norm(net()), slice(rank, None, 2))
    for value in found:
        torch.distributed.all_reduce(value)
    return [(value / 2).flatten().tolist() for value in found]


@pytest.mark.long
def test_two_ranks_normalise_and_learn_as_one_process() -> None:
    alone = step(net(), slice(None))
    for one, two in zip(alone, call(shared, 2), strict=True):
        torch.testing.assert_close(torch.tensor(two), one.flatten(), atol=1e-5, rtol=1e-4)


def test_testing_uses_what_was_kept() -> None:
    plain, gathered = net().eval(), gather_batch_norm(net().eval())
    assert torch.equal(plain(BATCH), gathered(BATCH))
    assert gathered.state_dict().keys() == plain.state_dict().keys()
