"""One run from start to record, in the process it was given, on this machine or a node of a cluster."""

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

from bench import environment
from bench.errors import UserError
from bench.files import locked_folder, write_atomic
from bench.processes import cores
from bench.records import SIDECARS, Result, Store, sidecar
from bench.runs import plan, ranks
from bench.runs.plan import Run
from bench.slurm import requeue
from bench.tasks import Job, Outcome, Protocol, Selection, Task

FIRST_ERROR = "first-error.txt"  # in the folder of a run that several processes share
RESULT = "result.json"  # in the run's folder: a number that is not in the store yet
RANK_SECONDS = 2.0  # within which Slurm notices that a rank has ended


def execute(run: Run) -> Result | None:
    """Make the record of `run` unless it exists; a failure is recorded too.

    A result is first written into the run's own folder, so if the store is full or missing, the next command
    only copies it. Returns None in ranks other than 0. Raises UserError if the record cannot be written.
    """
    environment.refuse_installs()
    if not ranks.started(run.gpus):
        return _complete(run)
    with ranks.process_group() as rank:
        if rank == 0:
            return _complete(run)
        _assist(run, rank)
    return None


def _complete(run: Run) -> Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(run.folder):
        existing = Store(run.results).load(run.key)
        done = existing if existing is not None and existing.status == "done" else None
        earlier = saved_result(run)
        (run.folder / FIRST_ERROR).unlink(missing_ok=True)
        if ranks.started(run.gpus):
            ranks.broadcast_from_rank0(done is None and earlier is None)
        if done:
            return done
        result = earlier or _attempt(run)
        write_record(run, result)
        return result


def _assist(run: Run, rank: int) -> None:
    """Work for rank 0, which writes the record; if this rank fails, record its error first."""
    if not ranks.broadcast_from_rank0():
        return
    try:
        _evaluate_rank(run, rank)
    except Exception as problem:
        record_failure(run, _first_error(run, rank, problem))
        raise


def record_failure(run: Run, error: str) -> None:
    """Write the record of a run whose process has ended: the result that it had saved, else `error`."""
    existing, earlier = Store(run.results).load(run.key), saved_result(run)
    if existing is not None and existing.status == "done":
        return
    if earlier:
        return write_record(run, earlier)
    failure = _record(run, *plan.resolve(run), None, error, environment.now())
    # A shared file system may show another machine's record late: replace only one that was read as a failure.
    (write_record if existing else _write_if_missing)(run, failure)


def _attempt(run: Run) -> Result:
    started = environment.now()
    task, protocol = plan.resolve(run)
    done, error = None, None
    try:
        if run.gpus == 1 or ranks.started(run.gpus):
            done = _evaluate(run, task, protocol)
        else:
            done = ranks.call(functools.partial(_evaluate_rank, run), run.gpus)
    except Exception as problem:
        error = _first_error(run, 0, problem) if ranks.started(run.gpus) else _message(problem)
        requeue.await_end()
        with contextlib.suppress(OSError):  # the error may be that this folder cannot be written
            (run.folder / "error.txt").write_text(traceback.format_exc())
    return _record(run, task, protocol, done, error, started)


def _first_error(run: Run, rank: int, problem: Exception) -> str:
    """Return the first failing rank's message; the other ranks fail as a consequence.

    A killed rank leaves no message: Slurm then ends the others, and its log has the cause.
    """
    first = run.folder / FIRST_ERROR
    mine = first.with_name(f".{FIRST_ERROR}-{rank}")
    mine.write_text(f"rank {rank} on {socket.gethostname()}: {_message(problem)}")
    with contextlib.suppress(FileExistsError):
        os.link(mine, first)  # of several ranks, only the first succeeds
    mine.unlink()
    requeue.await_end(notice=RANK_SECONDS)
    return first.read_text()


def _evaluate_rank(run: Run, rank: int) -> tuple[Outcome, int]:
    """Evaluate in a process that knows only names: a task of `--include` cannot be pickled."""
    return _evaluate(run, *plan.resolve(run))


def _evaluate(run: Run, task: Task, protocol: Protocol) -> tuple[Outcome, int]:
    """Return the run's outcome and the peak memory in bytes, of the GPU if there is one, else of this process."""
    import torch

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
            f"protocol or the code was changed in between. Run the same command again."
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
    """Return this process's cores: its own in Slurm, else its share of the machine's."""
    own = os.environ.get("SLURM_CPUS_PER_TASK") if ranks.started(run.gpus) else None
    return int(own) if own else cores() // ranks.on_this_machine(run.gpus)


def _seed(seed: int) -> None:
    """Seed every generator that a family may draw from."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _message(problem: Exception) -> str:
    """Return a user's mistake as it is, and any other error with its place in the code."""
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
    """Return a protocol's fields, with the name of `train_on`."""
    values = dataclasses.asdict(protocol)
    return values | {"train_on": protocol.train_on and protocol.train_on.name}


def _cost(outcome: Outcome | None, peak: int, gpus: int) -> dict[str, Any]:
    """Return wall-clock seconds, device-hours, and the peak memory of one device (on a CPU: of the process)."""
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
    """Return the GPU's name, else the number of CPU cores."""
    torch = sys.modules.get("torch")  # not imported for this alone
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {cores()} cores"


# The result of a run goes into the store by way of the run's folder, so it is not lost if the store cannot be written.


def saved_result(run: Run) -> Result | None:
    """Return a result that an earlier process computed but could not write into the store."""
    path = run.folder / RESULT
    return Result.from_json(path.read_bytes()) if path.is_file() else None


def write_record(run: Run, result: Result) -> None:
    """Write the record and its sidecar files; a number is saved in the run's folder first. Raises UserError."""
    with _explained(run):
        if result.status == "done":
            run.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(run.folder / RESULT, result.to_json())
            _copy_sidecars(run)
        Store(run.results).write(run.key, result)
        (run.folder / RESULT).unlink(missing_ok=True)


def _copy_sidecars(run: Run) -> None:
    """Copy the files of the run's `beside` folder (pictures) next to the record, before the record exists."""
    record = run.results / run.key.path
    for file in sorted((run.folder / SIDECARS).glob("*")):
        record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, sidecar(record, file.name))


def _write_if_missing(run: Run, result: Result) -> None:
    """Write the record unless the file server has one; raises UserError as `write_record`."""
    path = run.results / run.key.path
    with _explained(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.new")
        write_atomic(mine, result.to_json())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # unlike a rename, it fails if the record exists
        finally:
            mine.unlink()


@contextlib.contextmanager
def _explained(run: Run) -> Iterator[None]:
    """Turn an error of writing into a UserError that names what is saved and what to do."""
    try:
        yield
    except OSError as error:
        path = run.folder / RESULT
        saved = f"The result is saved in {path}. " if path.is_file() else ""
        raise UserError(
            f"The record {run.results / run.key.path} cannot be written ({error.strerror}). {saved}Free some space "
            f"or fix the folder, and run the same command again: it resumes from there."
        ) from None
