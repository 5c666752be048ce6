"""Processes of runs: what they may do on a machine with GPUs, and how many there are at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.runs import launch

ROOT = Path(__file__).parents[3]
# A run that needs mmengine, which asks for CUDA when it is imported, tells whether CUDA may still be used.
SCRIPT = """
from types import SimpleNamespace
from bench.runs import launch
from bench.errors import UserError

def tell():
    import torch
    raise UserError(f"bad fork: {torch._C._cuda_isInBadFork()}")

if __name__ == "__main__":
    launch._preload([SimpleNamespace(imports=("mmengine.runner",))])
    print(launch._in_process(tell))
"""


@pytest.mark.long
@pytest.mark.skipif(torch.version.cuda is None, reason="a torch without CUDA")
@pytest.mark.parametrize(("gpus", "told"), [("0", "bad fork: False"), ("", "bad fork: True")])
def test_cuda_works_in_a_run_where_there_is_a_gpu(tmp_path, gpus, told):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": gpus}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == told, done.stderr


@pytest.mark.parametrize(
    ("visible", "jobs", "size", "expected"),
    [
        ("", 1, 1, [()]),
        ("", 3, 1, [(), (), ()]),
        ("-1", 2, 1, [(), ()]),
        ("GPU-8f1c,MIG-2b7d", 1, 1, [("GPU-8f1c",), ("MIG-2b7d",)]),
        ("0,1,2,3", 1, 1, [("0",), ("1",), ("2",), ("3",)]),
        ("0,1,2,3,4", 1, 2, [("0", "1"), ("2", "3")]),
    ],
)
def test_slots_are_gpus_or_as_many_as_were_asked_for(monkeypatch, visible, jobs, size, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launch.slots(jobs, size) == expected


@pytest.mark.parametrize(("visible", "cluster", "jobs"), [("", "inline", 2), ("", "local", 0), ("0", "local", 2)])
def test_jobs_are_of_the_local_cluster_without_a_gpu(monkeypatch, visible, cluster, jobs):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"--jobs {jobs}: --jobs is the number of runs"):
        launch.check(cluster, 1, jobs)


def test_jobs_share_the_cores_unless_the_user_shared_them_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launch.share_cores(4)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    launch.share_cores(4)
    assert os.environ["OMP_NUM_THREADS"] == "2"
