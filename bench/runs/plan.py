"""From names to runs: what was asked for, what of it is done, stale or to do, and what it will cost."""

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
    """What the command line asked for, in names."""

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
    """One number to make: names only, so that another process, or machine, can take it up.

    Paths are absolute. `gpus` share the run's batches: they move its time, and no digest; nor does
    `keep_weights`, which leaves a fine-tuned backbone in `folder`. `digest` and `fingerprint` (of the
    data) are what was planned; the process that runs it checks that they still hold.
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
        """The record's identity."""
        return RunKey(
            task=self.task,
            backbone=self.backbone.name,
            weights8=self.backbone.weights8,
            digest=self.digest,
            seed=self.seed,
        )

    @property
    def folder(self) -> Path:
        """This run's own folder: a function of its identity, so the next try finds it again."""
        return self.work_dir / self.key.path.with_suffix("")

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.task} {self.protocol} {self.backbone.name} seed {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A run with what the store knows of it.

    `state` is "done", "failed" (to be tried again), "stale" (a record of the same name was made under
    another digest: data, protocol or code changed since) or "to do".
    """

    run: Run
    state: str
    record: Result | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
    """What the files given with `--include` add."""

    backbones: Mapping[str, Backbone]
    tasks: Mapping[str, Task]


def include(files: Sequence[Path]) -> Entries:
    """Run the user's own files and collect their `BACKBONES` and `TASKS`; raises UserError."""
    named_backbones: dict[str, Backbone] = {}
    named_tasks: dict[str, Task] = {}
    for file in files:
        module = _execute(file)
        named_backbones |= {b.name: b for b in getattr(module, "BACKBONES", ())}
        named_tasks |= {t.name: t for t in getattr(module, "TASKS", ())}
    return Entries(backbones=named_backbones, tasks=named_tasks)


def _execute(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(
            f"--include {file} is no Python file. Expected is a .py file with BACKBONES or TASKS, "
            f"tuples of Backbone or Task entries."
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"--include {file} cannot be imported: {type(error).__name__}: {error}. Mend the file."
        ) from error
    return module


def resolve(run: Run) -> tuple[Task, Protocol]:
    """Find a run's task and protocol again, in whatever process it landed."""
    (task,) = families.find([run.task], include(run.include).tasks)
    protocol = task.protocol(run.protocol.removesuffix("-smoke"))
    return task, protocol.smoke() if run.smoke else protocol


def runs(request: Request) -> list[Run]:
    """Turn a request into runs; raises UserError at the first name, file or data set that is wrong."""
    entries = include(request.include)
    wanted = families.find(request.tasks, entries.tasks)
    protocols = {task.name: task.protocol(request.protocol) for task in wanted}
    _check_kept(request, protocols)
    chosen = [_backbone(spec, request, entries, wanted) for spec in request.backbones]
    fingerprint_of = _planned_fingerprints(request.data_root)
    made = []
    for task in wanted:
        protocol = protocols[task.name]
        protocol = protocol.smoke() if request.smoke else protocol
        fingerprint = _fingerprint(task, protocol, fingerprint_of)
        digest = task.digest(protocol, fingerprint)
        made += [
            Run(
                backbone=backbone,
                task=task.name,
                protocol=protocol.name,
                smoke=request.smoke,
                gpus=request.gpus,
                seed=seed,
                digest=digest,
                fingerprint=fingerprint,
                imports=task.imports,
                data_root=request.data_root and request.data_root.resolve(),
                results=request.results.resolve(),
                work_dir=request.work_dir.resolve(),
                include=tuple(file.resolve() for file in request.include),
                keep_weights=request.keep_weights,
            )
            for backbone in chosen
            for seed in range(request.first_seed, request.first_seed + request.seeds)
        ]
    return list({run.key: run for run in made}.values())


def _check_kept(request: Request, protocols: Mapping[str, Protocol]) -> None:
    """Refuse to keep the weights of a backbone that stays as it is."""
    frozen = [f"{protocol.name} of {task}" for task, protocol in protocols.items() if protocol.frozen]
    if request.keep_weights and frozen:
        raise UserError(
            f"--keep-weights keeps what is fine-tuned, and {frozen[0]} leaves the backbone as it is. Give it with "
            f"fine-tuning alone (--protocol finetune), or leave it out."
        )


def _backbone(spec: str, request: Request, entries: Entries, wanted: Sequence[Task]) -> Backbone:
    if any(spec in task.baselines for task in wanted):
        return _baseline(spec, wanted)
    try:
        found = backbones.resolve(spec, entries.backbones)
    except UserError:
        if spec in (known := _baselines(entries)):
            raise _no_baseline(spec, wanted[0], known[spec]) from None
        raise
    allowed = (*found.allow_partial, *request.allow_partial) if found.weights else ()
    return dataclasses.replace(found, allow_partial=allowed)


def _baseline(name: str, wanted: Sequence[Task]) -> Backbone:
    """What stands for a backbone in every task asked for; raises UserError where one does not have it."""
    have = [task.name for task in wanted if name in task.baselines]
    for task in wanted:
        if task.name not in have:
            raise _no_baseline(name, task, have)
    return Backbone(name=name, arch=name, method="baseline")


def _baselines(entries: Entries) -> dict[str, list[str]]:
    """The names of the tasks that have each baseline."""
    known = list(entries.tasks.values())
    for family in families.family_names():
        with contextlib.suppress(UserError):  # of a broken family nothing can be evaluated
            known += families.tasks_of(family).values()
    names = {name for task in known for name in task.baselines}
    return {name: [task.name for task in known if name in task.baselines] for name in names}


def _no_baseline(name: str, task: Task, have: Sequence[str]) -> UserError:
    own = f"has {' and '.join(task.baselines)}" if task.baselines else "has none"
    return UserError(
        f"{name} is no backbone but a baseline of {', '.join(have)}; {task.name} {own}. Ask for it with "
        f"--task {have[0]} alone, or give {task.name} a backbone (python -m bench.run --list backbones)."
    )


def _fingerprint(task: Task, protocol: Protocol, of: Callable[[Dataset], str]) -> str:
    """The data's; where it is not all there, say which protocols train on other data."""
    try:
        return task.fingerprint(protocol, of)
    except UserError as error:
        others = [p.name for p in task.protocols if p.train_on and not protocol.train_on]
        hint = f" Without its own training split: --protocol {' or '.join(others)}."
        raise UserError(f"{error}{hint if others else ''}") from None


def _planned_fingerprints(data_root: Path | None) -> Callable[[Dataset], str]:
    """Fingerprints a data set; reads its files once, however many tasks need it."""
    known: dict[str, str] = {}

    def of(dataset: Dataset) -> str:
        key = repr(dataset)  # families may read other files of one data set under the same names
        if key not in known:
            known[key] = dataset.planned_fingerprint(data_root)
        return known[key]

    return of


def plan(wanted: Sequence[Run], store: Store) -> list[Planned]:
    """Look every run up in the store."""
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
    """Device-hours of each run; unknown ones are left out.

    They are the mean of records of the same digest and architecture; else what is `stated`; else the mean
    of records of the same digest.
    """
    hours: dict[Any, list[float]] = defaultdict(list)
    known = {store.root / p.run.key.path: p.record for p in planned if p.record}
    for task in {p.run.task for p in planned if p.state != "done"}:
        for path in store.paths(task):
            record = known.get(path) or store.read(path)
            if record.status == "done":
                spent = record.cost["device_hours"]
                hours[record.digest].append(spent)
                hours[record.digest, record.backbone["arch"]].append(spent)
    means = {of: statistics.mean(spent) for of, spent in hours.items()}
    found: dict[RunKey, float] = {}
    for run in (p.run for p in planned):
        alike = means.get((run.digest, run.backbone.arch))
        ways = (alike, (stated or {}).get(run.key), means.get(run.digest))
        if known_ways := [way for way in ways if way is not None]:
            found[run.key] = known_ways[0]
    return found
