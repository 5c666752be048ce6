"""Processes of one group, over gloo."""

import os
import signal
from typing import Any

import pytest

from bench.errors import UserError
from bench.runs.ranks import call


def summed(rank: int) -> dict[str, Any]:
    import torch

    mine = torch.tensor(float(rank + 1))
    torch.distributed.all_reduce(mine)
    return {"rank": rank, "sum": float(mine)}


def complaining(rank: int) -> None:
    if rank == 1:
        raise UserError("no such image")
    summed(rank)  # would wait for rank 1 for ever


def failing(rank: int) -> None:
    if rank == 1:
        raise ZeroDivisionError("by hand")
    summed(rank)


def killed(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    summed(rank)


@pytest.mark.long
def test_ranks_meet_and_the_first_one_answers() -> None:
    assert call(summed, 3) == {"rank": 0, "sum": 6.0}


@pytest.mark.long
def test_what_one_rank_says_ends_all() -> None:
    with pytest.raises(UserError, match=r"^no such image$"):
        call(complaining, 2)
    with pytest.raises(RuntimeError, match="rank 1: ZeroDivisionError: by hand"):
        call(failing, 2)
    with pytest.raises(RuntimeError, match="rank 1 was killed"):
        call(killed, 2)
