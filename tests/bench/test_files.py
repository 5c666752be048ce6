"""Folders and stores that many processes use at once: real processes, real kills."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from toy_desk import TOY, Desk

from bench import files
from bench.records import Store

ROOT = Path(__file__).parents[2]
TURNS = """
import sys, time
from pathlib import Path
from bench import files
files.HEARTBEAT, files.EXPIRES = 0.2, 2.0
folder = Path(sys.argv[1])
with files.locked_folder(folder):
    with (folder / "turns").open("a") as file:
        file.write("in\\n"); file.flush()
        time.sleep(float(sys.argv[2]))
        file.write("out\\n")
"""


def start(code: str, *words: object, **environment: str) -> "subprocess.Popen[bytes]":
    given = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", **environment}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], env=given)


def await_turns(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    turns = folder / "turns"
    while not turns.is_file() or len(turns.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_at_a_time_and_nothing_left_behind(tmp_path: Path) -> None:
    waiting = [start(TURNS, tmp_path, 0.05) for _ in range(8)]
    assert [process.wait() for process in waiting] == [0] * 8
    assert (tmp_path / "turns").read_text().split() == ["in", "out"] * 8
    assert not (tmp_path / "lease").exists()


def test_a_killed_process_of_this_machine_frees_its_lock_at_once(tmp_path: Path) -> None:
    holder = start(TURNS, tmp_path, 60)
    await_turns(tmp_path, 1)
    holder.kill()
    holder.wait()
    began = time.monotonic()
    assert start(TURNS, tmp_path, 0).wait() == 0
    assert time.monotonic() - began < 2


def test_without_shared_locks_a_heartbeat_is_waited_for_and_a_silent_owner_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's, as this one sees it where locks are not shared: the file and its beats alone."""
    monkeypatch.setattr(files, "HEARTBEAT", 0.2)
    monkeypatch.setattr(files, "EXPIRES", 1.0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    other = tmp_path / "lease"
    other.write_text("host elsewhere")
    beats = 10
    beating = subprocess.Popen(["sh", "-c", f"for i in $(seq {beats}); do sleep 0.2; touch -c {other}; done"])
    began = time.monotonic()
    with files.locked_folder(tmp_path):
        waited = time.monotonic() - began
        assert other.read_text() != "host elsewhere"
    beating.wait()
    assert beats * 0.2 + 0.7 < waited < beats * 0.2 + 4


def test_a_job_that_starts_again_does_not_wait_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (tmp_path / "lease").write_text("job 12")
    began = time.monotonic()
    with files.locked_folder(tmp_path):
        assert time.monotonic() - began < 1


@pytest.mark.long
def test_sixteen_writers_lose_nothing_and_show_no_half_record(tmp_path: Path) -> None:
    """Each writes records of its own and one that all want; a reader looks on all the time."""
    code = textwrap.dedent("""
        import sys
        from dataclasses import replace
        from pathlib import Path
        from test_records import KEY, result
        from bench.records import Store
        store, seed = Store(Path(sys.argv[1])), int(sys.argv[2])
        for turn in range(10):
            mine = replace(KEY, seed=100 + 10 * seed + turn)
            store.write(mine, result(seed=mine.seed, metrics={"AP": float(seed)}))
            store.write(KEY, result(metrics={"AP": float(seed)}))
    """)
    writers = [start(code, tmp_path, seed) for seed in range(16)]
    store = Store(tmp_path)
    looks = 0
    while any(writer.poll() is None for writer in writers):
        looks += all(r.status == "done" for r in store.results())
    assert [writer.wait() for writer in writers] == [0] * 16
    assert looks
    assert len(list(store.results())) == 16 * 10 + 1
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.long
def test_the_same_run_started_twice_runs_once(desk: Desk) -> None:
    (desk.data / "wait").touch()
    commands = [desk.start(*TOY) for _ in range(2)]
    desk.await_start()
    time.sleep(2)  # by then, or soon, the other waits for the lock
    (desk.data / "wait").unlink()
    for command in commands:
        assert "1 of 1 done" in command.communicate(timeout=60)[0]
    assert desk.attempts() == 1


def test_a_busy_lock_calls_back_before_it_is_waited_for(tmp_path: Path) -> None:
    """The callback may refuse to wait; a free lock does not call it."""
    owner = start(TURNS, tmp_path, 60)
    await_turns(tmp_path, 1)

    def refuse() -> None:
        raise RuntimeError("busy")

    with pytest.raises(RuntimeError, match="busy"), files.locked(tmp_path / "lock", on_busy=refuse):
        pass
    owner.kill()
    owner.wait()
    with files.locked(tmp_path / "lock", on_busy=refuse):
        pass


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_atomic(path, "old")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        fail()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
