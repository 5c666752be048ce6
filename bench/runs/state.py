"""The state of each run: done, running, queued, failed or lost.

Reads the store of records, the work folder and squeue.
"""

import dataclasses
import datetime
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.errors import UserError
from bench.records import Result, Store
from bench.runs import progress
from bench.slurm import diagnose
from bench.slurm.jobs import Submitted, submitted
from bench.slurm.queue import Queue, queue

STATES = ("failed", "lost", "running", "queued", "cancelled", "to do", "done")
LIVE = ("running", "queued")
ROWS = 40  # of a table for reading
SKEW = 5.0  # seconds by which a node's clock may be behind
POLL_SECONDS = 2.0


# UserError: the record cannot be read. Path: the file that a pretraining made.
Record = Result | UserError | Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A run's current state. `key` is its record's path below the store."""

    key: str
    title: str
    state: str
    detail: str


@dataclasses.dataclass(kw_only=True)
class Watch:
    """Reads the state of runs repeatedly; a record that is done is read once.

    Args:
        only: the keys to read; None: all in the work folder or the store.
    """

    store: Store
    work_dir: Path
    only: Collection[str] | None = None
    done: dict[str, Row] = dataclasses.field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return all runs, failures first; raises UserError if Slurm does not answer."""
        jobs = submitted(self.work_dir)
        records = {key: self._record(key) for key in self._keys(jobs) if key not in self.done}
        asked = any(key in jobs and not _is_done(record) for key, record in records.items())
        now = queue() if asked else None
        rows = [self._row(key, record, jobs.get(key), now) for key, record in records.items()]
        found = [*self.done.values(), *rows]
        self.done |= {row.key: row for row in rows if row.state == "done"}
        return sorted(found, key=lambda row: (STATES.index(row.state), row.title))

    def _keys(self, jobs: Collection[str]) -> Collection[str]:
        if self.only is not None:
            return self.only
        root = self.store.root
        return dict.fromkeys([*jobs, *(p.relative_to(root).as_posix() for p in self.store.paths())])

    def _record(self, key: str) -> Record:
        path = self.store.root / key
        if not path.is_file():
            return None
        try:
            return self.store.read(path) if path.suffix == ".json" else path
        except UserError as error:  # shown in its row, so that the others are shown too
            return error

    def _row(self, key: str, record: Record, job: Submitted | None, now: Queue | None) -> Row:
        title = job.title if job else _title(record) if isinstance(record, Result) else key
        state, detail = self._state(key, record, job, now) if job and now else _state_of_record(record)
        return Row(key=key, title=title, state=state, detail=detail)

    def _state(self, key: str, record: Record, job: Submitted, now: Queue) -> tuple[str, str]:
        """Return the state of a submitted run, and its details for the user."""
        path = self.work_dir / key
        folder = path.with_suffix("") if path.suffix == ".json" else path.parent
        state = now.state(job.job, job.when)
        if _is_done(record) or (state == "ended" and _is_of(record, job)):
            return _state_of_record(record)
        if state == "running":
            return state, f"job {job.job}, {_progress(folder)}"
        if state == "queued":
            return state, ", ".join(filter(None, (f"job {job.job}", now.reason(job.job))))
        if job.cancelled:
            return "cancelled", f"job {job.job}, by you; the same command submits it again"
        return self._ended(key, job, now)

    def _ended(self, key: str, job: Submitted, now: Queue) -> tuple[str, str]:
        """Return the state of a job that is not in the queue and has no record."""
        record = self._record(key)  # it may have been written since the queue was read
        if _is_done(record) or _is_of(record, job):
            return _state_of_record(record)
        try:
            recorded = diagnose.record_ended_job(job, now.reason(job.job))
        except UserError as error:  # the store cannot be written
            return "failed", str(error)
        if recorded:
            return _state_of_record(self._record(key))
        cause = diagnose.cause_in_log(job.errors)
        if cause and not key.endswith(".json"):  # a pretraining has no record, only its log
            return "failed", f"job {job.job}: {cause} Log: {job.errors}"
        return "lost", f"job {job.job}: {cause or 'neither the queue nor a log has the reason'}"


def _is_done(record: Record) -> bool:
    return isinstance(record, Path) or (isinstance(record, Result) and record.status == "done")


def _is_of(record: Record, job: Submitted) -> bool:
    """Return whether a record is from this job, not from an earlier one."""
    if not isinstance(record, Result):
        return record is not None
    return datetime.datetime.fromisoformat(record.finished).timestamp() > job.when - SKEW


def _state_of_record(record: Record) -> tuple[str, str]:
    """Return the state and details that follow from a record, or from a pretraining's file."""
    if record is None:
        return "to do", ""
    if isinstance(record, Path):
        return "done", str(record)
    if isinstance(record, UserError):
        return "failed", str(record)
    if record.status == "failed":
        return "failed", record.error or ""
    return "done", f"{record.primary} {record.metrics[record.primary]:.2f}"


def _title(record: Result) -> str:
    return f"{record.task} {record.protocol['name']} {record.backbone['name']} seed {record.seed}"


def _progress(folder: Path) -> str:
    seen = progress.read(folder)
    if seen is None:
        return "running"
    left = f", {datetime.timedelta(seconds=round(seen.left))} left" if seen.left is not None else ""
    return f"{seen.what} {seen.done}/{seen.total}{left}"


def summary(rows: Sequence[Row]) -> str:
    """Return the number of runs in each state."""
    count = Counter(row.state for row in rows)
    return ", ".join(f"{count[state]} {state}" for state in reversed(STATES) if count[state]) or "no runs"


def table(rows: Sequence[Row], most: int | None = ROWS) -> Group:
    """Return a table of the first rows, and a summary of all."""
    made = Table("state", "run", "", box=None, pad_edge=False)
    for row in rows[:most]:
        made.add_row(row.state, Text(row.title), Text(row.detail, overflow="fold"))
    more = len(rows) - len(rows[:most])
    return Group(made, Text(summary(rows) + (f" ({more} rows not shown: --all)" if more else "")))


def follow(watch: Watch) -> list[Row]:
    """Show the table until no run is queued or running; if Slurm does not answer, show that and ask again."""
    rows, problem = watch.rows(), ""
    with Live(table(rows), console=Console(stderr=True), auto_refresh=False) as live:
        while any(row.state in LIVE for row in rows):
            began = time.monotonic()
            try:
                rows, problem = watch.rows(), ""
            except UserError as error:
                problem = f"{error} Asking again."
            live.update(Group(table(rows), Text(problem)) if problem else table(rows), refresh=True)
            time.sleep(
                POLL_SECONDS + 2 * (time.monotonic() - began)
            )  # so that reading takes at most a third of the time
    return rows
