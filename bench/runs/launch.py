"""Runs as processes on this machine: one process per run, since OpenMMLab has global registries.

`inline` executes them one after the other and shows each run's own output; `local` executes them in parallel with
submitit's local executor, one on each GPU, or `--jobs` at a time without a GPU. `slurm` is in `bench.slurm`.
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
from bench.processes import cores, end_with_parent
from bench.records import RunKey
from bench.runs.execute import execute
from bench.runs.plan import Run

CLUSTERS = ("inline", "local", "slurm")
Slot = tuple[str, ...]  # the GPUs of a process
POLL_SECONDS = 0.5


def check(cluster: str, size: int, jobs: int) -> None:
    """Raise UserError unless this machine can execute `jobs` runs at a time, or runs on `size` GPUs each."""
    if cluster not in CLUSTERS:
        raise unknown("cluster", cluster, CLUSTERS)
    if size != 1 and not 1 <= size <= len(gpus()):
        raise UserError(f"--gpus {size}: this machine has {len(gpus())} GPUs. Give a number from 1 to that.")
    if jobs != 1 and (jobs < 1 or cluster != "local" or gpus()):
        raise UserError(
            f"--jobs {jobs}: --jobs is the number of runs that share the cores, at least 1, with --cluster local on a "
            "machine without a GPU. With GPUs there is one run on each: leave --jobs out."
        )


def launch(runs: Sequence[Run], cluster: str, jobs: int) -> Iterator[tuple[Run, str | None]]:
    """Execute the runs and yield each as it ends, with the message of an error that is not in its record.

    Such errors are a killed process or a full disk; other failures are in the run's record. `jobs` is the number of
    `local` runs at a time if there is no GPU.
    """
    _preload(runs)
    yield from _local(runs, jobs) if cluster == "local" else _inline(runs)


def _preload(runs: Sequence[Run]) -> None:
    """Make the server that all runs are forked from import their common modules once."""
    if gpus():  # mmengine initialises CUDA on import, and CUDA does not work after a fork
        return
    modules = dict.fromkeys(module for run in runs for module in run.imports)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def check_weights(runs: Sequence[Run]) -> None:
    """Load every weights file once before any run starts, and print a report of its keys.

    Raises UserError if one does not fit, or its images' normalisation is unknown.
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
    """Call a function in its own process; return its error message for the user, or None."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join()  # Ctrl-C went to the run too; let it close its files
        raise
    with contextlib.suppress(EOFError):
        return str(receiver.recv()) if receiver.poll() else _death(process.exitcode)
    return _death(process.exitcode)


def _child(sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    end_with_parent()
    # Processes that this one starts (data loaders' workers) are forked, as usual on Linux.
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
    """Return the GPUs of each concurrent process, `size` each; without GPUs, `jobs` empty slots."""
    found = gpus()
    shared = [tuple(found[i : i + size]) for i in range(0, len(found) - size + 1, size)]
    return shared or [()] * jobs


def share_cores(jobs: int) -> None:
    """Give each of `jobs` future processes its share of the cores, unless the user has set OMP_NUM_THREADS."""
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))


def gpus() -> list[str]:
    """Return CUDA's names of the GPUs that this process may use: numbers, or the UUIDs in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]
