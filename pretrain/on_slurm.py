"""A pretraining as a Slurm job: submitted, seen and called off as runs of `bench.run` are."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError, unknown
from bench.slurm.resources import Resources, resources
from pretrain.job import Request, pretrain

CLUSTERS = ("inline", "slurm")


def asked(cluster: str, words: Sequence[str]) -> Resources | None:
    """What the job asks of Slurm; None where training stays in this process. Raises UserError."""
    if cluster not in CLUSTERS:
        raise unknown("cluster", cluster, CLUSTERS)
    if cluster == "slurm":
        return resources(words)
    if words:
        raise UserError("--slurm is of --cluster slurm. Give that too, or leave it out.")
    return None


def submit(request: Request, asked: Resources) -> str:
    """Submit, unless it is there, queued or at work; returns what a user should read. Raises UserError.

    A job that was preempted, or whose time was up, goes on from its folder's last checkpoint.
    """
    from bench.results import Store
    from bench.slurm import runs
    from bench.slurm.submission import Call
    from bench.status import Watch
    from pretrain.export import NAME

    request = dataclasses.replace(
        request,
        out=request.out.resolve(),
        data=_place(request.data),
        data_root=request.data_root and request.data_root.resolve(),
    )
    target = request.out / NAME
    if target.is_file():
        return f"{target} is there already.\n"
    title = (
        f"pretraining {request.method.name} {request.arch} {request.recipe.name} {request.out.name}"
    )
    call = Call(key=str(target), title=title, function=functools.partial(pretrain, request))
    request.out.mkdir(parents=True, exist_ok=True)
    read = [path for path in (request.data_root, Path(request.data)) if path and path.is_absolute()]
    watch = Watch(store=Store(request.out), work_dir=request.out, only=[call.key])
    jobs, _ = runs.submit_missing({call.key: call}, watch, asked, lambda fresh: read)
    said = f"Submitted as Slurm job {jobs[0]}." if jobs else "Queued or at work already."
    return f"{said} python -m bench.status --work-dir {request.out} shows it, bench.cancel calls it off.\n"


def _place(data: str) -> str:
    """A folder by its whole path; a name as it is."""
    return str(Path(data).resolve()) if Path(data).is_dir() else data
