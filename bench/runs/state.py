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
ROWS = 40  # of a table that a person reads
SKEW = 5.0  # seconds by which a node's clock may be behind
POLL_SECONDS = 2.0


Record = Result | UserError | Path | None  # an error: it cannot be read; a path: what a pretraining made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A run as it is now. `key` is its record's path below the store."""

    key: str
    title: str
    state: str
    detail: str


@dataclasses.dataclass(kw_only=True)
class Watch:
    """Looks at a store and a work folder, again and again; a record that is done is read once.

    Args:
        only: the keys to look at; None: all that the work folder or the store knows.
    """

    store: Store
    work_dir: Path
    only: Collection[str] | None = None
    done: dict[str, Row] = dataclasses.field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Everything, the worst first; raises UserError where Slurm does not answer."""
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
        except UserError as error:  # the others must be seen all the same
            return error

    def _row(self, key: str, record: Record, job: Submitted | None, now: Queue | None) -> Row:
        title = job.title if job else _title(record) if isinstance(record, Result) else key
        state, detail = self._state(key, record, job, now) if job and now else _kept(record)
        return Row(key=key, title=title, state=state, detail=detail)

    def _state(self, key: str, record: Record, job: Submitted, now: Queue) -> tuple[str, str]:
        """Of a run that was submitted: its state, and what a person should hear of it."""
        path = self.work_dir / key
        folder = path.with_suffix("") if path.suffix == ".json" else path.parent
        state = now.state(job.job, job.when)
        if _is_done(record) or (state == "ended" and _is_of(record, job)):
            return _kept(record)
        if state == "running":
            return state, f"job {job.job}, {_how_far(folder)}"
        if state == "queued":
            return state, ", ".join(filter(None, (f"job {job.job}", now.reason(job.job))))
        if job.cancelled:
            return "cancelled", f"job {job.job}, by you; the same command submits it again"
        return self._ended(key, job, now)

    def _ended(self, key: str, job: Submitted, now: Queue) -> tuple[str, str]:
        """Of a job that has left neither a place in the queue nor a record."""
        record = self._record(key)  # it may have been written between the two looks
        if _is_done(record) or _is_of(record, job):
            return _kept(record)
        try:
            reaped = diagnose.reap(job, now.reason(job.job))
        except UserError as error:  # the store takes no record
            return "failed", str(error)
        if reaped:
            return _kept(self._record(key))
        words = diagnose.last_words(job.errors)
        if words and not key.endswith(".json"):  # a pretraining leaves no record, but its log
            return "failed", f"job {job.job}: {words} Log: {job.errors}"
        words = words or "neither the queue nor a log says what happened"
        return "lost", f"job {job.job}: {words}"


def _is_done(record: Record) -> bool:
    return isinstance(record, Path) or (isinstance(record, Result) and record.status == "done")


def _is_of(record: Record, job: Submitted) -> bool:
    """Whether it is this job's, and not of a try before."""
    if not isinstance(record, Result):
        return record is not None
    return datetime.datetime.fromisoformat(record.finished).timestamp() > job.when - SKEW


def _kept(record: Record) -> tuple[str, str]:
    """What a record alone says; a product other than a record is there, or is not."""
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


def _how_far(folder: Path) -> str:
    seen = progress.read(folder)
    if seen is None:
        return "at work"
    left = f", {datetime.timedelta(seconds=round(seen.left))} left" if seen.left is not None else ""
    return f"{seen.what} {seen.done}/{seen.total}{left}"


def summary(rows: Sequence[Row]) -> str:
    """How many of each state."""
    count = Counter(row.state for row in rows)
    return ", ".join(f"{count[state]} {state}" for state in reversed(STATES) if count[state]) or "no runs"


def table(rows: Sequence[Row], most: int | None = ROWS) -> Group:
    """What is worth a look first, and the sum of all."""
    made = Table("state", "run", "", box=None, pad_edge=False)
    for row in rows[:most]:
        made.add_row(row.state, Text(row.title), Text(row.detail, overflow="fold"))
    more = len(rows) - len(rows[:most])
    return Group(made, Text(summary(rows) + (f" ({more} rows not shown: --all)" if more else "")))


def follow(watch: Watch) -> list[Row]:
    """Show the table until nothing runs or waits; Slurm's silence is said and waited out."""
    rows, silence = watch.rows(), ""
    with Live(table(rows), console=Console(stderr=True), auto_refresh=False) as live:
        while any(row.state in LIVE for row in rows):
            began = time.monotonic()
            try:
                rows, silence = watch.rows(), ""
            except UserError as error:
                silence = f"{error} Asking again."
            live.update(Group(table(rows), Text(silence)) if silence else table(rows), refresh=True)
            time.sleep(POLL_SECONDS + 2 * (time.monotonic() - began))  # a third of the time at most
    return rows
