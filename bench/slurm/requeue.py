"""What runs inside of a Slurm job: a call that a preemption or a time-out queues again."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

MOST_TIMEOUTS = 30  # of one job, each after all of its time
END_SECONDS = 300.0  # more than Slurm waits between SIGTERM and SIGKILL (its KillWait is 30)

_told_to_end = threading.Event()


@dataclasses.dataclass(frozen=True)
class Survivor:
    """A call whose state lies on the disk alone: to checkpoint it is to queue it again.

    So it does not matter whether Slurm's signal came: after `scontrol requeue` or the loss of a node the
    same call starts, and goes on from its folder just as well.
    """

    call: Callable[[], object]

    def __call__(self) -> None:
        """Make this process a rank of its job, and call."""
        _listen()
        _name_ranks()
        self.call()  # what it returns is in its record: nothing that cannot be pickled is lost

    def checkpoint(self) -> Any:
        """What submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Survivor(self.call))


def await_end(notice: float = 0.0) -> None:
    """Return, unless Slurm has told this process to end, or does within `notice` seconds; then wait for that.

    What goes wrong from then on (a rank that is gone, a worker that was ended) follows from it and is no
    failure of the run's: it may be about to start again.
    """
    _told_to_end.wait(notice)
    patience = time.monotonic() + END_SECONDS
    while _told_to_end.is_set() and time.monotonic() < patience:
        time.sleep(0.1)


def _listen() -> None:
    """Let this process alone requeue, and let nothing end its `scontrol` before that has answered.

    Loaders' workers inherit submitit's handlers and hear the same signals. The SIGTERM that a requeue
    brings would end `scontrol` itself, and a failure be written for a job that starts again; to be ignored
    is inherited, a handler is not.
    """
    own, requeue = os.getpid(), signal.getsignal(signal.SIGUSR2)
    assert callable(requeue), "submitit handles the signal"

    def preempted(number: int, frame: Any) -> None:
        if os.getpid() == own:
            _told_to_end.set()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                requeue(number, frame)
            except Exception:  # it is not queued again, after too many time-outs: that is a failure
                _told_to_end.clear()
                raise

    def ended(number: int, frame: Any) -> None:
        if os.getpid() == own:
            _told_to_end.set()

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGUSR2, preempted)


def _name_ranks() -> None:
    """Say to this process which rank it is, in torchrun's words; what leaked from the submitter goes."""
    from submitit.helpers import TorchDistributedEnvironment

    os.environ.pop("MASTER_PORT", None)
    ranks = TorchDistributedEnvironment()
    if ranks.world_size > 1:
        # Each process sees its node's GPUs, and takes the one of its local rank.
        ranks.export(set_cuda_visible_devices=False, overwrite=True)
    else:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
            os.environ.pop(name, None)
