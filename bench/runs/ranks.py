"""One run on several GPUs: a process each, in one torch.distributed group.

On one machine the run starts the processes (`call`); on a cluster Slurm has started them (`process_group`).
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.processes import end_with_parent

Function = Callable[[int], Any]  # takes the rank


def started(world_size: int) -> bool:
    """Return whether a cluster or torchrun has started `world_size` processes, of which this is one."""
    return world_size > 1 and int(os.environ.get("WORLD_SIZE", 1)) == world_size


def on_this_machine(world_size: int) -> int:
    """Return the number of the run's processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started(world_size) else world_size


@contextmanager
def process_group() -> Iterator[int]:
    """Join the group of the processes that a cluster started, and give this one's rank."""
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        # A site may make only its own GPU visible to each process.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def broadcast_from_rank0(value: bool | None = None) -> bool:
    """Return rank 0's value in every rank; the others pass None."""
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values)
    assert values[0] is not None
    return values[0]


def call(function: Function, world_size: int) -> Any:
    """Call `function(rank)` in `world_size` processes of one process group; return rank 0's value.

    The backend is nccl with CUDA, else gloo. The first process that fails ends the others, and its error is
    raised here as UserError or RuntimeError.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        receivers, processes = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (sender, function, rank, world_size, meeting)
            process = context.Process(target=_rank, args=arguments)
            process.start()
            sender.close()
            receivers.append(receiver)
            processes.append(process)
        try:
            return _first_value(receivers)
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _first_value(receivers: Sequence[Connection]) -> Any:
    """Wait for all ranks; raise the error of the first that fails."""
    values: dict[int, Any] = {}
    while len(values) < len(receivers):
        waiting = [r for rank, r in enumerate(receivers) if rank not in values]
        for receiver in wait(waiting):
            assert isinstance(receiver, Connection)
            rank = receivers.index(receiver)
            try:
                problem, values[rank] = receiver.recv()
            except EOFError:
                raise RuntimeError(f"the process of rank {rank} was killed") from None
            if problem is not None:
                raise problem
    return values[0]


def _rank(sender: Connection, function: Function, rank: int, world_size: int, meeting: Path) -> None:
    import torch

    end_with_parent()
    # Processes that this one starts (data loaders' workers) are forked, as usual on Linux.
    multiprocessing.set_start_method("fork", force=True)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    try:
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
        )
        value = function(rank)
        torch.distributed.barrier()
        sender.send((None, value))
    except (UserError, OSError) as problem:
        sender.send((UserError(str(problem)), None))
    except Exception as problem:
        sender.send((RuntimeError(f"rank {rank}: {type(problem).__name__}: {problem}"), None))
