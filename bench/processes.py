"""Processes that end with their parent or reuse freed memory, and work on many items in parallel."""

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = 2**31 - 1  # bytes


def end_with_parent() -> None:
    """End this process as soon as its `multiprocessing` parent ends, even by SIGKILL."""
    # A fork server does not do this: it lives as long as its children.
    threading.Thread(target=_wait_and_end, daemon=True).start()


def keep_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system; no effect with other C libraries.

    The process stays at its peak memory until it ends. Fresh pages for each pass cost up to a fifth of its time.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, LARGEST)


def worker_ends_with_run(worker_id: int) -> None:
    """End a data loader's worker with its run (a `worker_init_fn`)."""
    # torch's own watchdog hangs when a batch fills the pipe to a dead run.
    end_with_parent()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


T = TypeVar("T")
CHUNK = 32  # numbers that a process takes at once
_work: Callable[[int], Any]  # set before the fork, so that it need not be pickled


def spread(work: Callable[[int], T], numbers: range, what: str = "") -> Iterator[T]:
    """Yield `work(number)` for every number, in order, from forked processes; raises what `work` raises.

    `what` labels a progress bar on a terminal; without it there is none.
    """
    global _work
    from rich.console import Console  # here, so that `--help` does not import it
    from rich.progress import track

    _work = work
    console = Console(stderr=True)
    chunk = max(1, min(CHUNK, len(numbers) // (4 * cores())))  # several chunks a process: none is idle at the end
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(cores(), context, initializer=end_with_parent)
    try:
        done = pool.map(_call, numbers, chunksize=chunk)  # forks here, before the progress bar starts a thread
        hidden = not (what and console.is_terminal)
        yield from track(done, what, len(numbers), console=console, transient=True, disable=hidden)
    finally:
        pool.shutdown(cancel_futures=True)


def _call(number: int) -> Any:
    return _work(number)


def each(jobs: Sequence[Callable[[], T]], *, alone: bool = False) -> list[T]:
    """Return what each job returns, from forked processes; `alone`: from this process."""
    if alone:
        return [job() for job in jobs]
    return list(spread(lambda number: jobs[number](), range(len(jobs))))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
