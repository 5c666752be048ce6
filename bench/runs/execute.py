"""One run from start to record, in the process it was given, wherever that is."""

import contextlib
import dataclasses
import functools
import os
import resource
import shutil
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import environment, files
from bench.environment import refuse_installs
from bench.errors import UserError
from bench.files import write_atomic
from bench.records import SIDECARS, Result, Store, sidecar
from bench.runs import plan, ranks
from bench.runs.plan import Run
from bench.slurm import requeue
from bench.tasks import Job, Outcome, Protocol, Selection, Task

CAUSE = "first-error.txt"  # of a run that several processes share
RANK_SECONDS = 2.0  # in which Slurm notices that a rank is gone


def execute(run: Run) -> Result | None:
    """Make the record of `run`, unless it is there; a failure is a record too.

    What is computed is first written into the run's own folder, so a results folder that is full or
    gone costs nothing but the next command. Returns None in a rank that helps the first. Raises UserError
    where the record cannot be written.
    """
    refuse_installs()
    if not ranks.started(run.gpus):
        return _make(run)
    with ranks.joined() as rank:
        if rank == 0:
            return _make(run)
        _help(run, rank)
    return None


def _make(run: Run) -> Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    with files.locked_folder(run.folder):
        there = Store(run.results).load(run.key)
        done = there if there is not None and there.status == "done" else None
        earlier = kept(run)
        (run.folder / CAUSE).unlink(missing_ok=True)
        if ranks.started(run.gpus):
            ranks.told(done is None and earlier is None)
        if done:
            return done
        result = earlier or _attempt(run)
        keep(run, result)
        return result


def _help(run: Run, rank: int) -> None:
    """Work for rank 0, which keeps the record; unless this rank is what fails."""
    if not ranks.told():
        return
    try:
        _evaluate(run, rank)
    except Exception as problem:
        bury(run, _first_cause(run, rank, problem))
        raise


def bury(run: Run, error: str) -> None:
    """Leave the record of a run whose process is gone: what it had computed, or `error`.

    A file system may show what another machine wrote only after a while, so a record is not replaced that
    was not seen to be a failure.
    """
    there, earlier = Store(run.results).load(run.key), kept(run)
    if there is not None and there.status == "done":
        return
    if earlier:
        return keep(run, earlier)
    task, protocol = plan.resolve(run)
    write = keep if there else keep_first
    write(run, _record(run, task, protocol, None, error, environment.now()))


def _attempt(run: Run) -> Result:
    started = environment.now()
    task, protocol = plan.resolve(run)
    done, error = None, None
    try:
        evaluate = functools.partial(_evaluate, run)
        alone = run.gpus == 1 or ranks.started(run.gpus)
        done = evaluate(0) if alone else ranks.call(evaluate, run.gpus)
    except Exception as problem:
        together = ranks.started(run.gpus)
        error = _first_cause(run, 0, problem) if together else _explain(problem)
        requeue.await_end()
        with contextlib.suppress(OSError):  # it may be the folder that failed
            (run.folder / "error.txt").write_text(traceback.format_exc())
    return _record(run, task, protocol, done, error, started)


def _first_cause(run: Run, rank: int, problem: Exception) -> str:
    """What went wrong first: ranks fail for want of the one that failed, whose word is there by then.

    Of one that was killed there is no word: Slurm then ends the others, and its log has the cause.
    """
    cause = run.folder / CAUSE
    mine = cause.with_name(f".{CAUSE}-{rank}")
    mine.write_text(f"rank {rank} on {socket.gethostname()}: {_explain(problem)}")
    with contextlib.suppress(FileExistsError):
        os.link(mine, cause)
    mine.unlink()
    requeue.await_end(notice=RANK_SECONDS)
    return cause.read_text()


def _evaluate(run: Run, rank: int) -> tuple[Outcome, int]:
    """What came of the run, and the most bytes that this process used: the device's own, if any."""
    import torch

    task, protocol = plan.resolve(run)
    cuda = torch.cuda.is_available()
    local = torch.cuda.current_device() if cuda and run.gpus > 1 else None
    device = "cpu" if not cuda else "cuda" if local is None else f"cuda:{local}"
    job = _job(run, task, protocol, device)
    _seed(run.seed)
    outcome = task.evaluate(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome, torch.cuda.max_memory_allocated() if cuda else peak


def _job(run: Run, task: Task, protocol: Protocol, device: str) -> Job:
    sources = task.sources(protocol)
    folders = [source.locate(run.data_root) for source in sources]
    located = dict(zip((s.name for s in sources), folders, strict=True))
    fingerprint = task.fingerprint(protocol, lambda source: source.fingerprint(located[source.name]))
    found = task.digest(protocol, fingerprint)
    if found != run.digest:
        raise UserError(
            f"{run} was planned as {run.digest[:8]} and is now {found[:8]}: the data set in {folders[-1]}, the "
            f"protocol or the code was changed in between. Give the same command again."
        )
    return Job(
        backbone=run.backbone,
        task=task,
        protocol=protocol,
        seed=run.seed,
        data=folders[-1],
        train_data=folders[0],
        work_dir=run.folder,
        cache=run.work_dir,
        device=device,
        world_size=run.gpus,
        num_workers=min(8, _cores(run) // 2),
        keep_weights=run.keep_weights,
    )


def _cores(run: Run) -> int:
    """What this process may use of the machine: its own in Slurm, its share where ranks share one."""
    own = os.environ.get("SLURM_CPUS_PER_TASK") if ranks.started(run.gpus) else None
    return int(own) if own else len(os.sched_getaffinity(0)) // ranks.on_this_machine(run.gpus)


def _seed(seed: int) -> None:
    """Seed every generator that a family may draw from."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _explain(problem: Exception) -> str:
    """A user's mistake in its own paragraph; anything else with where it happened."""
    if isinstance(problem, UserError):
        return str(problem)
    if isinstance(problem, OSError) and problem.filename:
        return f"{problem.strerror}: {problem.filename}"
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(last.filename).name}, line {last.lineno})"


def _record(
    run: Run, task: Task, protocol: Protocol, done: tuple[Outcome, int] | None, error: str | None, started: str
) -> Result:
    outcome, peak = done or (None, 0)
    primary, sources = task.metrics[0], task.sources(protocol)
    backbone = dataclasses.asdict(run.backbone)
    backbone["weights"] = run.backbone.weights and run.backbone.weights.name
    selection = outcome.selection if outcome else Selection(selected_on=None, reported_on="")
    return Result(
        status="failed" if error else "done",
        error=error,
        backbone={"weights_sha256": backbone.pop("sha256"), **backbone},
        load_report=dataclasses.asdict(outcome.load_report) if outcome else {},
        task=task.name,
        task_version=task.version,
        protocol=_values(protocol),
        digest=run.digest,
        data={
            "name": task.dataset.name,
            "fingerprint": run.fingerprint,
            "splits": sorted(sources[-1].splits),
            "trained_on": sources[0].name,
        },
        selection=dataclasses.asdict(selection),
        seed=run.seed,
        metrics=outcome.metrics if outcome else {},
        curves=outcome.curves if outcome else {},
        primary=primary.name,
        higher_is_better=primary.higher_is_better,
        cost=_cost(outcome, peak, run.gpus),
        environment=environment.environment(),
        git=environment.git(),
        started=started,
        finished=environment.now(),
    )


def _values(protocol: Protocol) -> dict[str, Any]:
    """A protocol's fields; of another data set that it trains on, the name."""
    values = dataclasses.asdict(protocol)
    return values | {"train_on": protocol.train_on and protocol.train_on.name}


def _cost(outcome: Outcome | None, peak: int, gpus: int) -> dict[str, Any]:
    """Wall-clock seconds and device-hours; memory is that of one device, or of a CPU's process."""
    train = outcome.train_seconds if outcome else 0.0
    evaluation = outcome.eval_seconds if outcome else 0.0
    name = _device_name()
    return {
        "train_seconds": round(train, 3),
        "eval_seconds": round(evaluation, 3),
        "images_per_second": round(outcome.images_per_second, 3) if outcome else 0.0,
        "data_wait": round(outcome.data_wait, 4) if outcome else 0.0,
        "peak_memory_bytes": peak,
        "device": name if gpus == 1 else f"{gpus} x {name}",
        "device_hours": round(gpus * (train + evaluation) / 3600, 6),
    }


def _device_name() -> str:
    """The GPU's; the CPU's cores, also where nothing of this process has needed torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {len(os.sched_getaffinity(0))} cores"


# A run's result into the store, by way of its own folder: what was computed is not lost on the way.
#
# What a family leaves in the folder `beside` of its run (pictures) goes with it: beside the record
# `<digest8>-seed<k>.json` lies `<digest8>-seed<k>.<name>`.

KEPT = "result.json"


def kept(run: Run) -> Result | None:
    """What an earlier process computed, and could not write into the store."""
    path = run.folder / KEPT
    return Result.from_json(path.read_bytes()) if path.is_file() else None


def keep(run: Run, result: Result) -> None:
    """Write the record; a number first into the run's folder. Raises UserError where that cannot be done."""
    with _saying(run):
        if result.status == "done":
            run.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(run.folder / KEPT, result.to_json())
            _copy_beside(run)
        Store(run.results).write(run.key, result)
        (run.folder / KEPT).unlink(missing_ok=True)


def _copy_beside(run: Run) -> None:
    """Before the record, so that whoever sees it sees its pictures."""
    record = run.results / run.key.path
    for file in sorted((run.folder / SIDECARS).glob("*")):
        record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, sidecar(record, file.name))


def keep_first(run: Run, result: Result) -> None:
    """Write the record unless there is one, as the file server sees it; raises UserError as `keep`."""
    path = run.results / run.key.path
    mine = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.new")
    with _saying(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(mine, result.to_json())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
        finally:
            mine.unlink()


@contextlib.contextmanager
def _saying(run: Run) -> Iterator[None]:
    """Say what is kept, and what to do."""
    try:
        yield
    except OSError as error:
        path: Path = run.folder / KEPT
        saved = f"What was computed is kept in {path}. " if path.is_file() else ""
        raise UserError(
            f"The record {run.results / run.key.path} cannot be written ({error.strerror}). {saved}Free some space "
            f"or mend the folder, and give the same command again: it goes on from there."
        ) from None
