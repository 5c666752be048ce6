"""From the names on the command line to runs, their state in the store (done, stale, to do), and their cost."""

import contextlib
import dataclasses
import importlib.util
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import tasks as families
from bench.backbones import resolve as backbones
from bench.backbones.backbone import Backbone
from bench.datasets.dataset import Dataset
from bench.errors import UserError
from bench.records import Result, RunKey, Store
from bench.tasks import Protocol, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The command line's choices, as names."""

    backbones: tuple[str, ...]
    tasks: tuple[str, ...]
    protocol: str | None = None
    seeds: int = 1
    first_seed: int = 0
    smoke: bool = False
    gpus: int = 1
    allow_partial: tuple[str, ...] = ()
    data_root: Path | None = None
    results: Path = Path("results")
    work_dir: Path = Path("runs")
    include: tuple[Path, ...] = ()
    keep_weights: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One number to make. It has names and absolute paths only, so another process or machine can execute it.

    `gpus` share the run's batches and `keep_weights` saves a fine-tuned backbone in `folder`; neither changes the
    digest. The process that executes the run checks that `digest` still holds; `fingerprint` is of the data.
    """

    backbone: Backbone
    task: str
    protocol: str
    smoke: bool
    gpus: int
    seed: int
    digest: str
    fingerprint: str
    imports: tuple[str, ...]
    data_root: Path | None
    results: Path
    work_dir: Path
    include: tuple[Path, ...]
    keep_weights: bool = False

    @property
    def key(self) -> RunKey:
        """Return the record's identity."""
        return RunKey(
            task=self.task,
            backbone=self.backbone.name,
            weights8=self.backbone.weights8,
            digest=self.digest,
            seed=self.seed,
        )

    @property
    def folder(self) -> Path:
        """Return this run's own folder; it depends on the identity only, so a later attempt finds it again."""
        return self.work_dir / self.key.path.with_suffix("")

    def __str__(self) -> str:
        """Return one line for a person."""
        return f"{self.task} {self.protocol} {self.backbone.name} seed {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A run with its state in the store.

    `state` is "done", "failed" (it will be repeated), "stale" (there is a record of the same name with another
    digest: data, protocol or code have changed since) or "to do".
    """

    run: Run
    state: str
    record: Result | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
    """The user's own backbones and tasks, from the files given with `--include`."""

    backbones: Mapping[str, Backbone]
    tasks: Mapping[str, Task]


def include(files: Sequence[Path]) -> Entries:
    """Import the user's files and return their `BACKBONES` and `TASKS`; raises UserError."""
    named_backbones: dict[str, Backbone] = {}
    named_tasks: dict[str, Task] = {}
    for file in files:
        module = _import(file)
        named_backbones |= {b.name: b for b in getattr(module, "BACKBONES", ())}
        named_tasks |= {t.name: t for t in getattr(module, "TASKS", ())}
    return Entries(backbones=named_backbones, tasks=named_tasks)


def _import(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(
            f"--include {file} is not a Python file. Give a .py file with BACKBONES or TASKS, tuples of Backbone "
            f"or Task entries."
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"--include {file} cannot be imported: {type(error).__name__}: {error}. Fix the file."
        ) from error
    return module


def resolve(run: Run) -> tuple[Task, Protocol]:
    """Look up a run's task and protocol by name, in the process that executes it."""
    (task,) = families.find([run.task], include(run.include).tasks)
    return task, _protocol(task, run.protocol.removesuffix("-smoke"), smoke=run.smoke)


def _protocol(task: Task, name: str | None, *, smoke: bool) -> Protocol:
    protocol = task.protocol(name)
    return protocol.smoke() if smoke else protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A task with a protocol, and its data as found below the data root."""

    task: Task
    protocol: Protocol
    fingerprint: str
    digest: str


def runs(request: Request) -> list[Run]:
    """Turn a request into runs; raises UserError at the first name, file or data set that is wrong."""
    entries = include(request.include)
    found = targets(request, entries)
    chosen = [backbone(name, request, entries, found) for name in request.backbones]
    return grid(request, found, chosen)


def targets(request: Request, entries: Entries) -> list[Target]:
    """Look up the request's tasks with its protocol, and their data; raises UserError."""
    tasks = families.find(request.tasks, entries.tasks)
    wanted = [(task, _protocol(task, request.protocol, smoke=request.smoke)) for task in tasks]
    _check_keep_weights(request, wanted)
    fingerprint_of = _planned_fingerprints(request.data_root)
    found = []
    for task, protocol in wanted:
        data = _fingerprint(task, protocol, fingerprint_of)
        found.append(Target(task=task, protocol=protocol, fingerprint=data, digest=task.digest(protocol, data)))
    return found


def grid(request: Request, found: Sequence[Target], chosen: Sequence[Backbone]) -> list[Run]:
    """Return a run for every target, backbone and seed, each once."""
    made = [
        Run(
            backbone=backbone,
            task=target.task.name,
            protocol=target.protocol.name,
            smoke=request.smoke,
            gpus=request.gpus,
            seed=seed,
            digest=target.digest,
            fingerprint=target.fingerprint,
            imports=target.task.imports,
            data_root=request.data_root and request.data_root.resolve(),
            results=request.results.resolve(),
            work_dir=request.work_dir.resolve(),
            include=tuple(file.resolve() for file in request.include),
            keep_weights=request.keep_weights,
        )
        for target in found
        for backbone in chosen
        for seed in range(request.first_seed, request.first_seed + request.seeds)
    ]
    return list({run.key: run for run in made}.values())


def _check_keep_weights(request: Request, wanted: Sequence[tuple[Task, Protocol]]) -> None:
    """Raise UserError if --keep-weights was given for a protocol that does not change the weights."""
    frozen = [f"{protocol.name} of {task.name}" for task, protocol in wanted if protocol.frozen]
    if request.keep_weights and frozen:
        raise UserError(
            f"--keep-weights saves fine-tuned backbones, but {frozen[0]} leaves the backbone unchanged. Use it with "
            f"fine-tuning only (--protocol finetune), or leave it out."
        )


def backbone(name: str, request: Request, entries: Entries, found: Sequence[Target]) -> Backbone:
    """Look up a backbone, or a baseline that all targets have; raises UserError."""
    wanted = [target.task for target in found]
    if any(name in task.baselines for task in wanted):
        return _baseline(name, wanted)
    try:
        known = backbones.resolve(name, entries.backbones)
    except UserError:
        if having := _tasks_with_baseline(name, entries):
            raise _no_baseline(name, wanted[0], having) from None
        raise
    allowed = (*known.allow_partial, *request.allow_partial) if known.weights else ()
    return dataclasses.replace(known, allow_partial=allowed)


def _baseline(name: str, wanted: Sequence[Task]) -> Backbone:
    """Return the backbone that stands for a baseline; raises UserError unless every wanted task has it."""
    have = [task.name for task in wanted if name in task.baselines]
    for task in wanted:
        if task.name not in have:
            raise _no_baseline(name, task, have)
    return Backbone(name=name, arch=name, method="baseline")


def _tasks_with_baseline(name: str, entries: Entries) -> list[str]:
    known = list(entries.tasks.values())
    for family in families.family_names():
        with contextlib.suppress(UserError):  # a broken family has no usable baseline
            known += families.tasks_of(family).values()
    return [task.name for task in known if name in task.baselines]


def _no_baseline(name: str, task: Task, have: Sequence[str]) -> UserError:
    own = f"has {' and '.join(task.baselines)}" if task.baselines else "has none"
    return UserError(
        f"{name} is not a backbone but a baseline of {', '.join(have)}; {task.name} {own}. Ask for it with "
        f"--task {have[0]} alone, or give {task.name} a backbone (python -m bench.run --list backbones)."
    )


def _fingerprint(task: Task, protocol: Protocol, of: Callable[[Dataset], str]) -> str:
    """Return the data's fingerprint; if data is missing, the error names the protocols that train on other data."""
    try:
        return task.fingerprint(protocol, of)
    except UserError as error:
        others = [p.name for p in task.protocols if p.train_on and not protocol.train_on]
        hint = f" Without its own training split: --protocol {' or '.join(others)}."
        raise UserError(f"{error}{hint if others else ''}") from None


def _planned_fingerprints(data_root: Path | None) -> Callable[[Dataset], str]:
    """Return a function that fingerprints a data set, and reads its files once for all tasks."""
    known: dict[str, str] = {}

    def of(dataset: Dataset) -> str:
        key = repr(dataset)  # families may read different files of one data set under the same names
        if key not in known:
            known[key] = dataset.planned_fingerprint(data_root)
        return known[key]

    return of


def plan(wanted: Sequence[Run], store: Store) -> list[Planned]:
    """Look up the state of every run in the store."""
    return [_look_up(run, store) for run in wanted]


def _look_up(run: Run, store: Store) -> Planned:
    record = store.load(run.key)
    if record is not None:
        return Planned(run=run, state=record.status, record=record)
    siblings = (store.root / run.key.path).parent.glob(f"*-seed{run.seed}.json")
    named = [r for r in map(store.read, siblings) if r.protocol["name"] == run.protocol]
    return Planned(run=run, state="stale" if named else "to do", record=None)


def estimate(
    planned: Sequence[Planned], store: Store, stated: Mapping[RunKey, float] | None = None
) -> dict[RunKey, float]:
    """Return the expected device-hours of each run for which something is known.

    That is the mean of records of the same digest and architecture; else the value in `stated`; else the mean of
    records of the same digest.
    """
    hours_of: dict[Any, list[float]] = defaultdict(list)
    known = {store.root / p.run.key.path: p.record for p in planned if p.record}
    for task in {p.run.task for p in planned if p.state != "done"}:
        for path in store.paths(task):
            record = known.get(path) or store.read(path)
            if record.status == "done":
                spent = record.cost["device_hours"]
                hours_of[record.digest].append(spent)
                hours_of[record.digest, record.backbone["arch"]].append(spent)
    means = {of: statistics.mean(spent) for of, spent in hours_of.items()}
    found: dict[RunKey, float] = {}
    for run in (p.run for p in planned):
        same_arch = means.get((run.digest, run.backbone.arch))
        estimates = (same_arch, (stated or {}).get(run.key), means.get(run.digest))
        if known_estimates := [hours for hours in estimates if hours is not None]:
            found[run.key] = known_estimates[0]
    return found
