"""Runs into processes: one process a run, since OpenMMLab keeps state in global registries.

`inline` runs them one after the other and shows each run's own progress; `local` hands them to
submitit's local executor, as many at a time as there are GPUs, or as were asked for where there is none.
`slurm` is `bench.slurm`.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.backbones.backbone import Backbone
from bench.errors import UserError, unknown
from bench.processes import end_with_parent
from bench.records import RunKey
from bench.runs.execute import execute
from bench.runs.plan import Run

CLUSTERS = ("inline", "local", "slurm")
Slot = tuple[str, ...]  # the GPUs of a process
POLL_SECONDS = 0.5


def check(cluster: str, size: int, jobs: int) -> None:
    """Raise UserError unless this machine can have `jobs` runs at a time, or one on each `size` GPUs."""
    if cluster not in CLUSTERS:
        raise unknown("cluster", cluster, CLUSTERS)
    if size != 1 and not 1 <= size <= len(gpus()):
        raise UserError(f"--gpus {size}: this machine has {len(gpus())} GPUs. Give a number from 1 to that.")
    if jobs != 1 and (jobs < 1 or cluster != "local" or gpus()):
        raise UserError(
            f"--jobs {jobs} is how many runs share the cores, 1 or more, with --cluster local on a machine without "
            "a GPU. With GPUs there is a run on each: leave --jobs out."
        )


def launch(runs: Sequence[Run], cluster: str, jobs: int) -> Iterator[tuple[Run, str | None]]:
    """Carry the runs out and yield each as it ends, with what went wrong outside its record.

    `jobs` is how many `local` has at work where there is no GPU. A run that failed by itself left a record
    that says so; the message yielded here is for the others: a process that was killed, a disk that is full.
    """
    _preload(runs)
    yield from _local(runs, jobs) if cluster == "local" else _inline(runs)


def _preload(runs: Sequence[Run]) -> None:
    """Name what the server, that every run is forked from, imports once for all of them.

    Nothing where there are GPUs: mmengine asks for them on import, and CUDA does not work in what is then forked.
    """
    if gpus():
        return
    modules = dict.fromkeys(module for run in runs for module in run.imports)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def check_weights(runs: Sequence[Run]) -> None:
    """Load every weights file once, before any run starts, and say what became of its keys.

    Raises UserError at one that does not fit, or does not tell how its images were normalised.
    """
    _preload(runs)
    distinct = {(r.key.backbone, r.key.weights8): r.backbone for r in runs if r.backbone.weights}
    for backbone in distinct.values():
        if message := _in_process(_load, backbone):
            raise UserError(message)


def _load(backbone: Backbone) -> None:
    from bench.backbones.build import build
    from bench.backbones.normalise import normalisation

    normalisation(backbone)
    _, report = build(
        backbone.arch, weights=backbone.weights, part=backbone.part, allow_partial=backbone.allow_partial, num_classes=0
    )
    sys.stderr.write(f"{backbone.name}: {report}\n")


def _inline(runs: Sequence[Run]) -> Iterator[tuple[Run, str | None]]:
    for number, run in enumerate(runs, 1):
        sys.stderr.write(f"[{number}/{len(runs)}] {run}\n")
        yield run, _in_process(execute, run)


def _in_process(function: Callable[..., object], *arguments: object) -> str | None:
    """Call a function in a process of its own; return what a user should hear, or None."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join()  # the terminal interrupted the run too; let it close its files
        raise
    with contextlib.suppress(EOFError):
        return str(receiver.recv()) if receiver.poll() else _death(process.exitcode)
    return _death(process.exitcode)


def _child(sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    end_with_parent()
    # What this process starts (data loaders' workers) is forked, as in any process on Linux.
    multiprocessing.set_start_method("fork", force=True)
    try:
        function(*arguments)
    except (UserError, OSError) as error:
        sender.send(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _death(exitcode: int | None) -> str | None:
    if exitcode == 0:
        return None
    if exitcode == -signal.SIGKILL:
        return "the process was killed (signal 9), as the kernel does when memory runs out"
    return f"the process ended with exit code {exitcode}"


def _local(runs: Sequence[Run], jobs: int) -> Iterator[tuple[Run, str | None]]:
    import submitit

    free = slots(jobs, max((run.gpus for run in runs), default=1))
    waiting = list(runs)
    running: dict[RunKey, tuple[Any, Slot]] = {}
    while waiting or running:
        while waiting and free:
            run, slot = waiting.pop(0), free.pop(0)
            executor = submitit.LocalExecutor(folder=run.folder / "submitit")
            executor.update_parameters(timeout_min=7 * 24 * 60, visible_gpus=slot)
            running[run.key] = (executor.submit(execute, run), slot)
            sys.stderr.write(f"{run}: started, log {run.folder / 'submitit'}\n")
        for run in [r for r in runs if r.key in running and running[r.key][0].done()]:
            job, slot = running.pop(run.key)
            free.append(slot)
            yield run, job.exception() and f"{job.exception()}\nLog: {job.paths.stderr}"
        time.sleep(POLL_SECONDS)


def slots(jobs: int, size: int = 1) -> list[Slot]:
    """The GPUs of each process that may go on at once, `size` each; without a GPU, `jobs` times none."""
    found = gpus()
    shared = [tuple(found[i : i + size]) for i in range(0, len(found) - size + 1, size)]
    return shared or [()] * jobs


def share_cores(jobs: int) -> None:
    """Give each of `jobs` processes that are started from now on its part of the cores, unless a user did."""
    if jobs > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))


def gpus() -> list[str]:
    """What CUDA calls the GPUs that this process may use: their numbers, or UUIDs where it was given those."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]
