"""A process that ends with the one that started it."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process, at once, when its `multiprocessing` parent ends, even by SIGKILL.

    A server that it was forked from cannot tell: that lives as long as its children do.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def worker_ends_with_run(worker_id: int) -> None:
    """A data loader's `worker_init_fn`: torch's own watch hangs when a batch fills the pipe to a dead run."""
    end_with_parent()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
