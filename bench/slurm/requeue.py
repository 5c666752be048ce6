"""What runs in a Slurm job: a call that is requeued after a preemption or a time-out."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

MOST_TIMEOUTS = 30  # of one job
END_SECONDS = 300.0  # more than Slurm waits between SIGTERM and SIGKILL (its KillWait is 30)

_ending = threading.Event()


@dataclasses.dataclass(frozen=True)
class Survivor:
    """A call whose state is on the disk only, so requeueing it is enough to checkpoint it.

    It therefore also resumes without Slurm's signal, after `scontrol requeue` or the loss of a node.
    """

    call: Callable[[], object]

    def __call__(self) -> None:
        """Set the signal handlers and the rank of this process, and call."""
        _handle_signals()
        _export_rank()
        self.call()  # the returned value, which submitit would pickle, is in the record already

    def checkpoint(self) -> Any:
        """Return what submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Survivor(self.call))


def await_end(notice: float = 0.0) -> None:
    """Wait for the end of this process if Slurm has signalled it, or does within `notice` seconds; else return.

    Errors after the signal (a missing rank, an ended worker) follow from it and must not be recorded as a failure of
    the run, which may be about to restart.
    """
    _ending.wait(notice)
    patience = time.monotonic() + END_SECONDS
    while _ending.is_set() and time.monotonic() < patience:
        time.sleep(0.1)


def _handle_signals() -> None:
    """Let only this process requeue, and let no signal end its `scontrol` before that has answered.

    Loaders' workers inherit submitit's handlers and get the same signals. A requeue sends SIGTERM, which would end
    `scontrol` itself, and a failure would be recorded for a job that restarts. `scontrol` inherits an ignored signal,
    but not a handler.
    """
    own, requeue = os.getpid(), signal.getsignal(signal.SIGUSR2)
    assert callable(requeue), "submitit handles the signal"

    def preempted(number: int, frame: Any) -> None:
        if os.getpid() == own:
            _ending.set()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                requeue(number, frame)
            except Exception:  # not requeued after too many time-outs: this is a failure
                _ending.clear()
                raise

    def ended(number: int, frame: Any) -> None:
        if os.getpid() == own:
            _ending.set()

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGUSR2, preempted)


def _export_rank() -> None:
    """Set torchrun's environment variables for this rank; for a single process, remove the submitter's."""
    from submitit.helpers import TorchDistributedEnvironment

    os.environ.pop("MASTER_PORT", None)
    ranks = TorchDistributedEnvironment()
    if ranks.world_size > 1:
        # Each process sees all GPUs of its node, and uses the one of its local rank.
        ranks.export(set_cuda_visible_devices=False, overwrite=True)
    else:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
            os.environ.pop(name, None)
