"""Submit runs to Slurm that are neither done nor queued, after checking them."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.files import locked
from bench.records import Store
from bench.runs.execute import execute
from bench.runs.launch import check_weights
from bench.runs.plan import Run
from bench.runs.state import LIVE, Watch, follow
from bench.slurm import cluster, jobs
from bench.slurm.jobs import Call
from bench.slurm.request import Resources


def key(run: Run) -> str:
    """Return the key that identifies a run across commands."""
    return run.key.path.as_posix()


def submit(runs: Sequence[Run], resources: Resources) -> tuple[list[str], int]:
    """Submit the runs that have no live job; all share the store and the work folder.

    Returns the ids of the arrays, and the number of live runs. If it raises UserError, nothing was submitted.
    """
    calls = {key(run): Call(key=key(run), title=str(run), function=functools.partial(execute, run)) for run in runs}
    by_key = {key(run): run for run in runs}

    def ready(fresh: Sequence[str]) -> list[Path]:
        chosen = [by_key[name] for name in fresh]
        check_weights(chosen)
        return _read(chosen)

    return submit_missing(calls, _watch(runs), resources, ready)


def submit_missing(
    calls: Mapping[str, Call], watch: Watch, resources: Resources, ready: Callable[[Sequence[str]], Sequence[Path]]
) -> tuple[list[str], int]:
    """Submit the calls without a live job, by key.

    `ready` checks the calls with these keys and returns the paths that the nodes must be able to read.
    """
    cluster.check(resources)
    work_dir = watch.work_dir
    folder = work_dir / jobs.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):  # two commands at once do not submit a run twice
        live = {row.key for row in watch.rows() if row.state in LIVE}
        fresh = [name for name in calls if name not in live]
        if not fresh:
            return [], len(live)
        readable = [*ready(fresh), jobs.PROJECT]
        array_size = cluster.max_array_size()
        unseen = cluster.check_shared(resources, (work_dir, watch.store.root), readable)
        if unseen:
            sys.stderr.write(f"It could not be checked whether the nodes see the folders: {unseen}\n")
        wanted = [calls[name] for name in fresh]
        return jobs.submit(wanted, resources, work_dir, array_size), len(live)


def wait(runs: Sequence[Run]) -> bool:
    """Show the runs until all have ended; Ctrl-C does not stop them."""
    try:
        follow(_watch(runs))
    except KeyboardInterrupt:
        sys.stderr.write("\nThe jobs continue; the same command waits for them again.")
        raise
    return True


def _watch(runs: Sequence[Run]) -> Watch:
    only = [key(run) for run in runs]
    return Watch(store=Store(runs[0].results), work_dir=runs[0].work_dir, only=only)


def _read(runs: Sequence[Run]) -> list[Path]:
    """Return the files that the nodes must find: data, weights, the user's entries."""
    roots = {run.data_root for run in runs if run.data_root}
    weights = {run.backbone.weights.resolve() for run in runs if run.backbone.weights}
    included = {file for run in runs for file in run.include}
    return sorted({*roots, *weights, *included})
