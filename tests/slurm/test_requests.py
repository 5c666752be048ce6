"""Submission on the real Slurm: what cannot be carried out is said in a paragraph, and nothing is submitted by half."""

import functools
import subprocess
from pathlib import Path

import pytest
from desk import Desk, ask, until

from bench.errors import UserError
from bench.slurm import jobs as submission
from bench.slurm.jobs import Call
from bench.slurm.request import resources


def queue() -> set[str]:
    return set(ask("squeue", "-h", "-t", "all", "-o", "%i").split())


def assert_refused(desk: Desk, says: str, *words: str) -> None:
    ended = desk.run("--protocol", "short", *words)
    assert ended.returncode == 2, ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not desk.jobs()
    assert not list(desk.folder.glob("runs/slurm/*_submitted.pkl"))


def test_a_grid_is_an_array_and_the_same_command_submits_what_is_missing(desk: Desk) -> None:
    (desk.data / "wait").touch()
    words = ("--protocol", "short", "--slurm", "array_parallelism=2")
    first = desk.run(*words, "--seeds", "4")
    assert first.returncode == 0, first.stderr
    assert "4 runs submitted" in first.stderr
    array = desk.jobs()[0].partition("_")[0]
    assert desk.jobs() == [f"{array}_{index}" for index in range(4)]
    assert "ArrayTaskThrottle=2" in ask("scontrol", "show", "job", array)
    second = desk.run(*words, "--seeds", "5")
    assert "1 runs submitted" in second.stderr
    assert "4 queued or running already" in second.stderr
    (desk.data / "wait").unlink()
    assert len(desk.await_end()) == 5
    assert desk.starts() == [0] * 5
    third = desk.run(*words, "--seeds", "5")
    assert third.returncode == 0
    assert "5 of 5 done" in third.stdout
    assert len(desk.jobs()) == 5


def test_cancelled_runs_are_called_off_and_submitted_again(desk: Desk) -> None:
    (desk.data / "wait").touch()
    assert desk.run("--protocol", "short", "--seeds", "3").returncode == 0
    desk.await_step(1)
    ended = desk.module("bench.cancel", "seed 1", "seed 2")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("cancelled") == 2
    until(lambda: "2 cancelled" in desk.module("bench.status").stdout, 60, "two are gone")
    (desk.data / "wait").unlink()
    (record,) = desk.await_end()
    assert record["seed"] == 0
    status = desk.module("bench.status")
    assert "1 done, 2 cancelled" in status.stdout
    assert "2 runs submitted" in desk.run("--protocol", "short", "--seeds", "3").stderr
    assert len(desk.await_end()) == 3
    nothing = until(lambda: (c := desk.module("bench.cancel")).returncode == 2 and c, 30, "an end")
    assert "No queued or running job matches" in nothing.stderr


def test_a_job_that_nobody_knows_is_lost(desk: Desk) -> None:
    """As when it was cancelled long ago, and its log folder deleted."""
    assert desk.run("--protocol", "short", "--slurm", "begin=now+1hour").returncode == 0
    (job,) = desk.jobs()
    ask("scancel", job)
    for file in (desk.folder / "runs/slurm" / job).iterdir():
        file.unlink()
    lost = until(lambda: (s := desk.module("bench.status")).returncode == 1 and s, 30, "an end")
    assert "1 lost" in lost.stdout
    assert "1 runs submitted" in desk.run("--protocol", "short").stderr
    assert len(desk.await_end()) == 1


def test_arrays_are_split_under_the_cluster_s_limit(cluster: str, desk: Desk) -> None:
    made = [desk.folder / f"made-{index}" for index in range(60)]
    calls = [Call(key=p.name, title=p.name, function=functools.partial(Path.touch, p)) for p in made]
    jobs = submission.submit(calls, resources(["mem=500M", "time=5"]), desk.folder / "runs", 25)
    assert len(jobs) == 3
    assert [job.partition("_")[0] for job in desk.jobs()] == [jobs[n // 25] for n in range(60)]
    until(lambda: all(path.exists() for path in made), 150, "every call's file")


def test_the_second_array_s_refusal_takes_the_first_back(desk: Desk, cluster: str) -> None:
    """Until the last sbatch has answered, none of the jobs is sure to stay."""
    asked = resources(["mem=500M", "time=5", "begin=now+1hour"])
    calls = [Call(key=str(index), title="", function=functools.partial(str, index)) for index in range(2)]

    class Odd:
        def __reduce__(self) -> object:
            raise RuntimeError("no such thing can be sent")

    odd = Call(key="odd", title="", function=functools.partial(str, Odd()))
    with pytest.raises(UserError, match="none was left in the queue: no such thing can be sent"):
        submission.submit([*calls, odd], asked, desk.folder / "runs", 1)
    waiting = ask("squeue", "-h", "-t", "pending", "-o", "%i %Z")
    assert str(desk.folder) not in waiting
    assert not desk.jobs()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slurm", "partition=mian"], "Unknown Slurm partition 'mian'. Did you mean main?"),
        (["--slurm", "gpus_per_node=9"], "0 nodes of the partition main can run this"),
        (["--slurm", "mem=9000G"], "the job would wait for ever"),
        (["--slurm", "nodes=99"], "99 are requested"),
        (["--slurm", "constraint=h100"], "0 nodes of the partition main"),
        (["--slurm", "nonsense=yes"], "unrecognized option '--nonsense=yes'"),
        (["--slurm", "time=soon"], "--slurm time=soon: give minutes"),
        (["--slurm", "nodes=0"], "give a whole number of at least 1"),
        (["--slurm", "partition"], "give key=value"),
        (["--gpus", "2"], "On Slurm give --slurm gpus_per_node=N"),
        (["--data-root", "nowhere"], "data root nowhere is not a folder"),
    ],
)
def test_what_the_cluster_could_never_do(desk: Desk, private: None, words: list[str], says: str) -> None:
    assert_refused(desk, says, *words)


def test_more_time_than_the_partition_gives(desk: Desk, private: None) -> None:
    subprocess.run(["scontrol", "create", "partitionname=brief", "nodes=n1", "maxtime=0:30:00"], check=False)
    says = "the partition brief lets a job run for 30 minutes at most"
    assert_refused(desk, says, "--slurm", "partition=brief", "time=31")


def test_no_slurm_on_the_machine(desk: Desk) -> None:
    desk.environment["PATH"] = str(desk.folder)
    assert_refused(desk, "Slurm is not on this machine: the command sinfo is not found")


def test_a_site_s_file_that_says_nothing(desk: Desk) -> None:
    (desk.folder / "site.json").write_text("partition=main")
    assert_refused(desk, "site.json cannot be read")


@pytest.mark.parametrize("folder", ["results", "runs"])
def test_a_folder_that_the_nodes_do_not_see(desk: Desk, private: None, folder: str) -> None:
    here = desk.folder / folder
    here.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(here)], check=True)
    try:
        assert_refused(desk, f"{here} is not shared with the nodes")
    finally:
        subprocess.run(["umount", str(here)], check=True)


def test_the_site_s_defaults_are_shown(desk: Desk) -> None:
    plan = desk.run("--dry-run", "--slurm", "partition=low", "qos=long", "time=1:30:00")
    assert plan.returncode == 0
    line = plan.stdout.splitlines()[-1]
    assert "partition=low" in line
    assert "time=90" in line
    assert "mem=1500M" in line
    assert "qos=long" in line
    assert str(desk.folder / "site.json") in line
