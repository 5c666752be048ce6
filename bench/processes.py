"""A process that ends with the one that started it, and one that keeps the memory it works in."""

import ctypes
import multiprocessing
import os
import threading

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
