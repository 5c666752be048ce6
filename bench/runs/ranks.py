"""One run on several GPUs: a process for each, joined by torch.distributed.

On one machine the run starts them itself (`call`); a cluster has started them, on every node (`joined`).
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

Function = Callable[[int], Any]  # of the rank


def started(world_size: int) -> bool:
    """Whether something outside has started `world_size` processes, of which this is one."""
    return world_size > 1 and int(os.environ.get("WORLD_SIZE", 1)) == world_size


def on_this_machine(world_size: int) -> int:
    """How many of them share this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started(world_size) else world_size


@contextmanager
def joined() -> Iterator[int]:
    """Meet the processes that were started outside, as their environment says; gives this one's rank."""
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        # A site may show each process its own GPU alone.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def told(value: bool | None = None) -> bool:
    """What rank 0 says to all; the others give None."""
    import torch

    said = [value]
    torch.distributed.broadcast_object_list(said)
    assert said[0] is not None
    return said[0]


def call(function: Function, world_size: int) -> Any:
    """Call `function(rank)` in `world_size` processes of one process group; return rank 0's value.

    The group is nccl over CUDA, gloo without. The first process that fails ends the others; what it
    raised is raised here as UserError, or as RuntimeError with its last words.
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
    """Wait for all ranks; raise what the first to fail says."""
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
    # What this process starts (data loaders' workers) is forked, as in any process on Linux.
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
