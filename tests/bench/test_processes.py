"""What is left of a run that was killed: nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import os, sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from bench.files import locked_folder
from bench.processes import worker_ends_with_run

class Large:  # a pipe holds 64 KiB
    def __len__(self): return 10
    def __getitem__(self, index): return {"pid": os.getpid(), "mask": bytes(300_000)}

with locked_folder(Path(sys.argv[1])):
    loader = DataLoader(Large(), batch_size=None, num_workers=1, worker_init_fn=worker_ends_with_run,
                        multiprocessing_context="fork")
    batches = iter(loader)
    print(next(batches)["pid"], flush=True)
    time.sleep(60)
"""
LOCK = """
import sys
from pathlib import Path
from bench.files import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("mine")
"""


def start(code: str, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.long
def test_a_killed_run_leaves_no_worker_behind_and_no_lock(tmp_path: Path) -> None:
    run = start(RUN, tmp_path)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    run.wait()
    next_one = start(LOCK, tmp_path)
    assert next_one.communicate(timeout=30)[0] == "mine\n"

    deadline = time.monotonic() + 20
    while alive(worker):
        assert time.monotonic() < deadline, "the worker outlives its run"
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


FAULTS = """
import os, resource, sys
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # pages of 2 MB would be few enough to pass either way
import numpy
from bench.processes import keep_memory

if sys.argv[1].endswith("kept"):
    keep_memory()
for attempt in range(6):
    if attempt == 1:  # the first has to fetch its pages
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(16_000_000, numpy.float32)  # 64 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_fetched_again(tmp_path: Path) -> None:
    """Five times 64 MB are 78,125 pages of 4 KiB."""
    kept, given_back = (int(start(FAULTS, tmp_path / name).communicate()[0]) for name in ("kept", "given-back"))
    assert kept < 100 < given_back
