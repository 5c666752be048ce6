"""squeue is asked seldom, and believed with care. A script in its place counts calls and prints a recorded answer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.slurm import queue as queues

ROOT = Path(__file__).parents[3]
ANSWER = """\
7_0|COMPLETED|None
7_1|RUNNING|None
7_2|PENDING|JobArrayTaskLimit
8|NODE_FAIL|NodeDown
9|OUT_OF_MEMORY|OutOfMemory
10|PENDING|BeginTime
11|COMPLETING|None
12|CANCELLED|None
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each call."""
    script, calls = tmp_path / "squeue", tmp_path / "calls"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\ncat {tmp_path / "answer"}\n')
    script.chmod(0o755)
    (tmp_path / "answer").write_text(ANSWER)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return calls


def test_states_are_slurm_s_in_three_words(calls: Path) -> None:
    now = queues.queue()
    long_ago = time.time() - 1000
    jobs = ("7_0", "7_1", "7_2", "8", "9", "10", "11", "12", "99")
    assert [now.state(job, long_ago) for job in jobs] == [
        *("ended", "running", "queued", "queued", "ended", "queued", "running", "ended", "ended")
    ]
    assert now.reason("7_2") == "JobArrayTaskLimit"
    assert now.reason("9") == "OUT_OF_MEMORY"
    assert now.reason("99") == ""


def test_a_job_younger_than_the_answer_is_not_dead(calls: Path) -> None:
    now = queues.queue()
    assert now.state("99", time.time() + 1) == "queued"
    assert now.state("9", time.time() + 1) == "ended"


def test_one_call_in_ten_seconds_however_many_ask(calls: Path) -> None:
    code = "from bench.slurm.queue import queue\nfor _ in range(100): assert len(queue().jobs) == 8"
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    asking = [subprocess.Popen([sys.executable, "-c", code], env=given) for _ in range(8)]
    began = time.monotonic()
    assert [process.wait() for process in asking] == [0] * 8
    assert len(calls.read_text().splitlines()) <= 1 + (time.monotonic() - began) / queues.INTERVAL


def test_an_old_answer_is_asked_again(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queues.queue()
    monkeypatch.setattr(queues, "INTERVAL", 0.0)
    (calls.parent / "answer").write_text("")
    assert not queues.queue().jobs
    assert len(calls.read_text().splitlines()) == 2


def test_silence_is_no_empty_queue(calls: Path) -> None:
    (calls.parent / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        queues.queue()
