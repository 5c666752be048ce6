"""Whatever befalls a job: the numbers of an undisturbed run, or a record that says what happened."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import CONTENDED, FAILING, PATIENCE, Desk, ask, until
from PIL import Image
from slurm_entries import norm

LONG, LONGEST = 100, 400


def submit(desk: Desk, *words: str, protocol: str = "long", slurm: tuple[str, ...] = ()) -> str:
    """One run on the cluster; its job's id."""
    asked = ("--slurm", *slurm) if slurm else ()
    ended = desk.run("--protocol", protocol, *words, *asked)
    assert ended.returncode == 0, ended.stderr
    return desk.jobs()[-1]


def assert_undisturbed(desk: Desk, steps: int = LONG) -> None:
    """One record, with the number of a run that nothing befell, though it went on from where it was."""
    (record,) = desk.await_end()
    assert record["status"] == "done", record["error"] + desk.logs()
    assert record["metrics"]["norm"] == pytest.approx(norm(0, steps), rel=1e-12)
    first, *later = desk.starts()
    assert first == 0
    assert later, "nothing befell it"
    assert all(0 < step < steps for step in later)


def failure(desk: Desk) -> str:
    """The error of the only record."""
    (record,) = desk.await_end()
    assert record["status"] == "failed"
    assert record["metrics"] == {}
    return str(record["error"])


def test_preemption(desk: Desk, private: None) -> None:
    submit(desk, slurm=("partition=low", f"nodelist={CONTENDED}", f"exclude={FAILING}"))
    desk.await_step(5)
    ask(
        "sbatch",
        "--partition=high",
        f"--nodelist={CONTENDED}",
        "--cpus-per-task=4",
        "--output=/dev/null",
        "--wrap=true",
    )
    assert_undisturbed(desk)
    assert "Requeued job" in desk.logs()


def test_requeue_by_an_administrator(desk: Desk) -> None:
    job = submit(desk)
    desk.await_step(5)
    ask("scontrol", "requeue", job)
    assert_undisturbed(desk)


def test_a_lost_node(desk: Desk, private: None) -> None:
    submit(desk, slurm=(f"nodelist={FAILING}", f"exclude={CONTENDED}"))
    desk.await_step(5)
    ask("scontrol", "update", f"nodename={FAILING}", "state=down", "reason=test")
    try:
        seen = desk.module("bench.status")  # while Slurm is about to start it again
        assert seen.returncode == 0, seen.stdout + seen.stderr
        # A node that is really gone takes its processes along; this one must be rid of them to come back.
        until(lambda: not _processes(desk), 60, "the end of the node's processes")
    finally:
        subprocess.run(["scontrol", "update", f"nodename={FAILING}", "state=resume"], check=False)
    assert_undisturbed(desk)


def _processes(desk: Desk) -> str:
    words = ["pgrep", "-f", f"submitit.core._submit {desk.folder}"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_no_time_left(desk: Desk) -> None:
    submit(desk, protocol="longest", slurm=("time=1",))
    assert_undisturbed(desk, LONGEST)


def test_an_exception(desk: Desk) -> None:
    (desk.data / "bug").touch()
    submit(desk)
    assert "ZeroDivisionError: a bug (slurm_entries.py, line " in failure(desk)
    (desk.data / "bug").unlink()
    submit(desk)
    assert_undisturbed(desk)


def test_a_killed_process(desk: Desk) -> None:
    (desk.data / "kill").touch()
    job = submit(desk)
    error = failure(desk)
    assert re.match(rf"The Slurm job {job} ended.* without a record: a process of it was killed", error)
    assert "task 0: Killed" in error
    (desk.data / "kill").unlink()
    submit(desk)
    assert_undisturbed(desk)


def test_a_process_that_leaves_without_a_word(desk: Desk) -> None:
    (desk.data / "exit").touch()
    job = submit(desk)
    assert re.match(rf"The Slurm job {job} ended.* without a record: its log has no error", failure(desk))


def test_out_of_memory(desk: Desk) -> None:
    (desk.data / "memory").touch()
    submit(desk)
    assert "it ran out of memory: give more with --slurm mem=" in failure(desk)


def test_a_result_that_cannot_be_written(desk: Desk) -> None:
    submit(desk)
    desk.await_step(1)
    blocked = desk.folder / "results" / "counting"
    blocked.write_text("")
    ended = desk.module("bench.status", "--watch")
    assert ended.returncode == 1, ended.stderr
    assert "cannot be written" in " ".join(ended.stdout.split())
    assert not desk.records()
    blocked.unlink()
    assert desk.module("bench.status").returncode == 0
    assert [r["metrics"]["norm"] for r in desk.records()] == [pytest.approx(norm(0, LONG))]
    assert desk.starts() == [0]


def test_a_submitter_that_went_away(desk: Desk) -> None:
    command = desk.command("--cluster", "slurm", "--protocol", "long", "--wait")
    waiting = subprocess.Popen(command, cwd=desk.folder, env=desk.environment)
    desk.await_step(1)
    waiting.kill()
    waiting.wait()
    (record,) = desk.await_end()
    assert record["metrics"]["norm"] == pytest.approx(norm(0, LONG))
    assert desk.starts() == [0]


def test_ctrl_c_leaves_the_table_and_the_same_command_joins_again(desk: Desk) -> None:
    command = desk.command("--cluster", "slurm", "--protocol", "long", "--wait")
    waiting = subprocess.Popen(
        command,
        cwd=desk.folder,
        env=desk.environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    desk.await_step(1)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30 * PATIENCE)
    assert waiting.returncode == 130
    assert "The jobs continue" in said
    again = desk.run("--protocol", "long", "--wait")
    assert again.returncode == 0
    assert "0 runs submitted" in again.stderr
    assert "1 of 1 done" in again.stdout
    assert desk.starts() == [0]


def test_a_work_folder_that_vanished(desk: Desk) -> None:
    (desk.data / "wait").touch()
    submit(desk)
    desk.await_step(1)
    (desk.folder / "runs").rename(desk.folder / "elsewhere")
    ended = desk.module("bench.status")
    assert ended.returncode == 2
    assert "--work-dir runs is not a folder" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    (desk.data / "wait").unlink()
    (record,) = until(desk.records, 60, "a record")
    assert record["status"] == "failed"
    assert "No such file or directory" in record["error"]


def write_images(folder: Path) -> None:
    """Two classes that differ in brightness, not by much; 11 images each, which no rank divides."""
    rng = np.random.default_rng(0)
    for split, label, index in np.ndindex(2, 2, 11):
        pixels = rng.integers(0, 150, (24, 24, 3)) + 8 * label
        file = folder / ("train", "val")[split] / str(label) / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)


@pytest.fixture
def images(desk: Desk) -> Desk:
    """A desk with images in its data root, and the record of an undisturbed run on this machine beside it."""
    write_images(desk.folder / "data")
    alone = desk.run("--task", "counting/images", "--results", "alone", cluster="inline")
    assert alone.returncode == 0, alone.stderr
    return desk


def metrics(desk: Desk, results: str = "results") -> dict[str, Any]:
    (record,) = desk.records(results)
    assert record["status"] == "done", record["error"] + desk.logs()
    return dict(record["metrics"])


def test_real_training_goes_on_exactly(images: Desk) -> None:
    data = images.folder / "data"
    (data / "wait").touch()
    assert images.run("--task", "counting/images", "--slurm", "mem=3500M").returncode == 0
    files = images.folder / "runs"
    until(lambda: list(files.glob("**/checkpoint.pth")), 120, "a checkpoint\n" + images.logs())
    ask("scontrol", "requeue", images.jobs()[-1])
    (data / "wait").unlink()
    images.await_end()
    assert metrics(images) == metrics(images, "alone")
    (epochs,) = files.glob("counting/**/epochs-0")
    assert epochs.read_text().split() == ["0", "1", "2", "0", "1", "1", "2"]


def test_two_nodes_find_what_one_process_finds(images: Desk) -> None:
    ended = images.run("--task", "counting/images", "--wait", "--slurm", "nodes=2", "mem=3500M")
    assert ended.returncode == 0, ended.stderr + images.logs()
    alone = metrics(images, "alone")
    assert metrics(images) == pytest.approx(alone, abs=1e-4)
    assert 0 < alone["top1"] < 100
    assert round(alone["top1"] * 22 / 100, 6).is_integer()


def test_two_nodes_survive_together(desk: Desk) -> None:
    job = submit(desk, slurm=("nodes=2",))
    desk.await_step(5)
    ask("scancel", "--signal=USR2", job)
    assert_undisturbed(desk)
    assert desk.starts(1) == desk.starts(0)
    assert len(desk.nodes()) == 2
    assert desk.records()[0]["cost"]["device_hours"] == pytest.approx(2 * LONG * 0.1 / 3600, abs=1e-6)


def test_an_exception_in_one_rank(desk: Desk) -> None:
    (desk.data / "bug").touch()
    submit(desk, slurm=("nodes=2",))
    error = failure(desk)
    assert error.startswith("rank 1 on ")
    assert "ZeroDivisionError: a bug (slurm_entries.py, line " in error


def test_a_killed_rank(desk: Desk) -> None:
    (desk.data / "kill").touch()
    submit(desk, slurm=("nodes=2",))
    error = failure(desk)
    assert "a process of it was killed, or crashed" in error
    assert "task 1: Killed" in error
