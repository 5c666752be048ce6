"""Submit calls as Slurm job arrays, all or none, and read what was submitted.

Each array has a file `<work_dir>/slurm/<job id>.json` that lists its jobs, next to a folder of logs for each job.
With squeue that is all that status and cancellation need.
"""

import dataclasses
import getpass
import json
import logging
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_atomic
from bench.slurm.request import Resources
from bench.slurm.requeue import MOST_TIMEOUTS, Survivor

FOLDER = "slurm"
PROJECT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What one job does.

    Args:
        key: identifies its product across attempts: a record's path.
        title: one line for the user.
    """

    key: str
    title: str
    function: Callable[[], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job as it was submitted; `when` in seconds since the epoch."""

    job: str
    key: str
    title: str
    when: float
    logs: Path
    cancelled: bool

    @property
    def errors(self) -> Path:
        """Return the log of stderr of the job's first process and of Slurm itself."""
        return self.logs / f"{self.job}_0_log.err"

    def call(self) -> Callable[[], object]:
        """Return the call that was submitted; raises OSError if its file was deleted."""
        from submitit.core.utils import DelayedSubmission

        survivor = DelayedSubmission.load(self.logs / f"{self.job}_submitted.pkl").function
        assert isinstance(survivor, Survivor)
        return survivor.call


def submit(calls: Sequence[Call], resources: Resources, work_dir: Path, array_size: int) -> list[str]:
    """Submit one job per call, in arrays of at most `array_size`; return the arrays' ids.

    Raises UserError with sbatch's message; then, as after Ctrl-C, all jobs are cancelled.
    """
    folder = work_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = f"bench-{uuid.uuid4().hex[:8]}"
    made = []
    try:
        arrays = [calls[start : start + array_size] for start in range(0, len(calls), array_size)]
        at_once = max(1, resources.array_parallelism // max(1, len(arrays)))
        for part in arrays:
            made.append(_submit_array(part, resources, folder, name, at_once))
    except BaseException as error:
        subprocess.run(["scancel", "--name", name, "--user", getpass.getuser()], check=False)
        for job in made:
            (folder / f"{job}.json").unlink(missing_ok=True)
        if isinstance(error, (RuntimeError, OSError)):
            reason = " ".join(str(error).split())
            raise UserError(f"Slurm rejected the jobs, and none was left in the queue: {reason}") from None
        raise
    return made


def _submit_array(calls: Sequence[Call], resources: Resources, folder: Path, name: str, at_once: int) -> str:
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    when = time.time()
    executor = submitit.SlurmExecutor(folder / "%j", max_num_timeout=MOST_TIMEOUTS)
    flags = resources.flags()
    executor.update_parameters(
        job_name=name,
        time=resources.time,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        array_parallelism=at_once,
        signal_delay_s=resources.signal_delay,
        # Jobs may start in a folder where this project is not found.
        setup=[f'export PYTHONPATH="{PROJECT}${{PYTHONPATH:+:$PYTHONPATH}}"'],
        # If one rank ends, all do: else the others would wait for it until their time is up.
        srun_args=["--kill-on-bad-exit=1"],
        additional_parameters={"requeue": True, **flags},
    )
    with executor.batch():
        jobs = [executor.submit(Survivor(call.function)) for call in calls]
    job = jobs[0].job_id.partition("_")[0]
    array = {
        "when": when,
        "resources": str(resources),
        "runs": [{"job": j.job_id, "key": c.key, "title": c.title} for j, c in zip(jobs, calls, strict=True)],
        "cancelled": [],
    }
    write_atomic(folder / f"{job}.json", json.dumps(array, indent=0))
    return job


def submitted(work_dir: Path) -> dict[str, Submitted]:
    """Return the last job of every key that was submitted with this work folder."""
    found: dict[str, Submitted] = {}
    for array in sorted(_arrays(work_dir), key=lambda array: array["when"]):
        cancelled = set(array["cancelled"])
        for run in array["runs"]:
            found[run["key"]] = Submitted(
                **run, when=array["when"], logs=work_dir / FOLDER / run["job"], cancelled=run["job"] in cancelled
            )
    return found


def _arrays(work_dir: Path) -> Iterable[Mapping[str, Any]]:
    for path in (work_dir / FOLDER).glob("*.json"):
        try:
            yield json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(
                f"{path}, which lists submitted jobs, is damaged ({error}). Delete it: its jobs continue and write "
                f"their records."
            ) from None


def note_cancelled(work_dir: Path, jobs: Iterable[str]) -> None:
    """Record which jobs the user cancelled."""
    gone = set(jobs)
    for path in (work_dir / FOLDER).glob("*.json"):
        array = json.loads(path.read_text("utf-8"))
        here = gone & {run["job"] for run in array["runs"]}
        if here:
            array["cancelled"] = sorted({*array["cancelled"], *here})
            write_atomic(path, json.dumps(array, indent=0))
