"""Status and cancellation from recorded files: what was submitted, squeue's answer, logs as Slurm writes them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.records import Store
from bench.runs import progress
from bench.runs.state import Watch, summary, table
from bench.slurm import diagnose
from bench.slurm.jobs import submitted

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_records import KEY, result

ROOT = Path(__file__).parents[3]


class Place:
    """A store, a work folder, and a queue of which a test says what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "results")
        self.work_dir = folder / "runs"
        (self.work_dir / "slurm").mkdir(parents=True)
        (folder / "results").mkdir()

    def submit(self, array: int, seeds: int, when: float = 1000.0) -> None:
        runs = [{"job": f"{array}_{i}", "key": self.key(i), "title": f"toy seed {i}"} for i in range(seeds)]
        told = {"when": when, "resources": "", "runs": runs, "cancelled": []}
        (self.work_dir / "slurm" / f"{array}.json").write_text(json.dumps(told))

    def key(self, seed: int) -> str:
        return replace(KEY, seed=seed).path.as_posix()

    def queue(self, **states: str) -> None:
        lines = [f"{job.lstrip('j')}|{state}|None" for job, state in states.items()]
        (self.folder / "answer").write_text("".join(f"{line}\n" for line in lines))

    def rows(self) -> dict[str, tuple[str, str]]:
        rows = Watch(store=self.store, work_dir=self.work_dir).rows()
        return {row.title: (row.state, row.detail) for row in rows}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("squeue", "scancel"):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path / "calls"}\ncat {tmp_path / "answer"}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


def test_every_state_and_what_is_said_of_it(place: Place) -> None:
    place.submit(7, seeds=6)
    place.queue(j7_2="RUNNING", j7_3="PENDING")
    place.store.write(replace(KEY, seed=0), result(seed=0))
    finished = {"finished": "2026-01-01T00:01:00+00:00", "status": "failed", "error": "a bug"}
    place.store.write(replace(KEY, seed=1), result(seed=1, metrics={}, **finished))
    running = (place.work_dir / place.key(2)).with_suffix("")
    running.mkdir(parents=True)
    steps = progress.ProgressFile(running, "train", total=100, done=40)
    steps.began -= 60
    steps.update(60)
    (place.work_dir / "slurm/7_5").mkdir()
    assert place.rows() == {
        "toy seed 0": ("done", "AP 71.50"),
        "toy seed 1": ("failed", "a bug"),
        "toy seed 2": ("running", "job 7_2, train 60/100, 0:02:00 left"),
        "toy seed 3": ("queued", "job 7_3, PENDING"),
        "toy seed 4": ("lost", "job 7_4: neither the queue nor a log has the reason"),
        "toy seed 5": ("lost", "job 7_5: neither the queue nor a log has the reason"),
    }
    rows = Watch(store=place.store, work_dir=place.work_dir).rows()
    assert summary(rows) == "1 done, 1 queued, 1 running, 2 lost, 1 failed"
    assert [row.state for row in rows] == ["failed", "lost", "lost", "running", "queued", "done"]
    assert "5 rows not shown" in str(table(rows, 1).renderables[1])


def test_a_failure_of_an_earlier_try_is_not_this_job_s(place: Place) -> None:
    place.submit(7, seeds=1, when=time.time() - 1000)
    place.queue()
    place.store.write(replace(KEY, seed=0), result(seed=0, metrics={}, status="failed", error="old"))
    assert place.rows()["toy seed 0"][0] == "lost"
    place.submit(8, seeds=1, when=time.time())
    assert place.rows()["toy seed 0"] == ("queued", "job 8_0")


def test_the_last_submission_of_a_run_counts(place: Place) -> None:
    place.submit(7, seeds=2, when=1000.0)
    place.submit(9, seeds=1, when=2000.0)
    jobs = submitted(place.work_dir)
    assert [jobs[place.key(i)].job for i in range(2)] == ["9_0", "7_1"]


def test_a_record_that_cannot_be_read_hides_no_other(place: Place) -> None:
    for seed in range(2):
        place.store.write(replace(KEY, seed=seed), result(seed=seed))
    (place.store.root / place.key(1)).write_text("{")
    rows = Watch(store=place.store, work_dir=place.work_dir).rows()
    assert [row.state for row in rows] == ["failed", "done"]
    assert "cannot be read: not JSON" in rows[0].detail


def test_records_alone_need_no_slurm(place: Place) -> None:
    place.store.write(replace(KEY, seed=0), result(seed=0))
    assert place.rows() == {"pose/coco frozen a/b seed 0": ("done", "AP 71.50")}
    assert not (place.folder / "calls").exists()


def command(place: Place, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=place.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_and_its_exit_status(place: Place) -> None:
    place.submit(7, seeds=2)
    place.queue(j7_0="RUNNING", j7_1="PENDING")
    fine = command(place, "bench.status")
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "1 queued, 1 running" in fine.stdout
    place.queue(j7_0="RUNNING")
    (place.folder / "cache").rename(place.folder / "another")
    assert command(place, "bench.status").returncode == 1
    wrong = command(place, "bench.status", "--work-dir", "nowhere")
    assert wrong.returncode == 2
    assert "--work-dir nowhere is not a folder" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_cancellation_is_of_what_lives_and_matches(place: Place) -> None:
    place.submit(7, seeds=4)
    place.queue(j7_0="COMPLETED", j7_1="RUNNING", j7_2="PENDING", j7_3="PENDING")
    wrong = command(place, "bench.cancel", "seed 0")
    assert wrong.returncode == 2
    assert "matches seed 0. There are: toy seed 1; toy seed 2; toy seed 3." in wrong.stderr
    assert command(place, "bench.cancel", "seed 1", "seed 3").returncode == 0
    assert (place.folder / "calls").read_text().splitlines()[-1] == "scancel 7_1 7_3"
    jobs = submitted(place.work_dir)
    assert [jobs[place.key(i)].cancelled for i in range(4)] == [False, True, False, True]
    elsewhere = command(place, "bench.cancel", "--work-dir", "nowhere")
    assert elsewhere.returncode == 2
    assert "Nothing was submitted from the work folder" in elsewhere.stderr


# What slurmstepd and srun 22.05 wrote.
@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("slurmstepd: error: Exceeded job memory limit\nsrun: error: n1: task 0: Killed", "out of memory"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=3.0.", "out of memory"),
        ("slurmstepd-n1: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-20T15:58:50 DUE TO TIME LIMIT ***", "time was up"),
        ("slurmstepd-n1: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-20T15:58:50 ***", "it was cancelled"),
        (
            "srun: error: n2: task 1: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=4.0\n"
            "srun: error: n1: task 0: Killed",
            "killed, or crashed (srun: error: n2: task 1: Killed | srun: error: n1: task 0: Killed)",
        ),
        ("Traceback\n  File x\nRuntimeError: odd\n", "log ends with: Traceback | File x | RuntimeError: odd"),
        ("", "its log has no error"),
    ],
)
def test_what_a_log_says_of_the_end(tmp_path: Path, log: str, says: str) -> None:
    path = tmp_path / "7_0_log.err"
    path.write_text(log)
    assert says in (diagnose.cause_in_log(path) or "")


def test_no_log_says_nothing(tmp_path: Path) -> None:
    assert diagnose.cause_in_log(tmp_path / "none") is None
