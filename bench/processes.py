"""Processes: end with the parent, keep memory, and the same work on many items in parallel."""

import concurrent.futures
import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = 2**31 - 1  # bytes


def end_with_parent() -> None:
    """End this process, at once, when its `multiprocessing` parent ends, even by SIGKILL.

    A server that it was forked from cannot tell: that lives as long as its children do.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def keep_memory() -> None:
    """Have the C library keep what is freed: pages that come anew for each pass cost up to a fifth of it.

    Of glibc alone; elsewhere nothing changes. The process keeps its peak of memory until it ends.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, LARGEST)


def worker_ends_with_run(worker_id: int) -> None:
    """A data loader's `worker_init_fn`: torch's own watch hangs when a batch fills the pipe to a dead run."""
    end_with_parent()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


T = TypeVar("T")
CHUNK = 32
_work: Callable[[int], Any]  # what forked processes were born with, so that nothing is pickled


def spread(work: Callable[[int], T], numbers: range, what: str) -> Iterator[T]:
    """Give `work` of every number, in their order; what it raises is raised here.

    Processes are forked, and so know what `work` knows; they end with this one, even by SIGKILL.
    """
    global _work
    _work = work
    console = Console(stderr=True)
    chunk = max(1, min(CHUNK, len(numbers) // cores()))
    pool = concurrent.futures.ProcessPoolExecutor(
        cores(), multiprocessing.get_context("fork"), initializer=end_with_parent
    )
    try:
        done = pool.map(_one, numbers, chunksize=chunk)  # forks, before the bar has its thread
        yield from track(done, what, len(numbers), console=console, transient=True, disable=not console.is_terminal)
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """How many processes may work at once here."""
    return len(os.sched_getaffinity(0))


def _one(number: int) -> Any:
    return _work(number)


def each(jobs: Sequence[Callable[[], T]], *, alone: bool = False) -> list[T]:
    """Return what each job returns; `alone` does them one by one in this process."""
    if alone:
        return [job() for job in jobs]
    context = multiprocessing.get_context("fork")  # nothing here has threads
    cores = len(os.sched_getaffinity(0))
    # A worker is born with the jobs; only their numbers and results travel.
    with ProcessPoolExecutor(cores, context, initializer=_jobs.extend, initargs=(jobs,)) as pool:
        return list(pool.map(_do, range(len(jobs))))


_jobs: list[Callable[[], Any]] = []  # of a worker


def _do(number: int) -> Any:
    return _jobs[number]()
