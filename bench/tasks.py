"""The types between the runner and the task families (Task, Protocol, Metric, Job, Outcome), and tasks by name."""

import contextlib
import dataclasses
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.backbones.backbone import Backbone, LoadReport
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.errors import UserError, unknown
from bench.files import digest

# Prose, and the data read, which is in the digest by its fingerprint.
NOT_IN_DIGEST = ("source", "expected", "command", "splits", "train_on")
OMIT_IF_DEFAULT = {"drop_blocks": 0}  # fields added after digests were published
UNPUBLISHED = "none published at this scale"
DROP_SUFFIX = re.compile(r"(?P<base>.+)-drop(?P<count>[1-9]\d*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A number in a record. Percentages are 0-100."""

    name: str
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a backbone is evaluated. Families add their own hyper-parameters by subclassing.

    Args:
        name: the value of `--protocol`, unique within a task; leaderboards rank each name separately.
        frozen: whether the backbone's weights stay unchanged.
        source: the paper or recipe the values come from, and what differs.
        expected: a published number at full scale, with its backbone and source.
        command: the command that would reproduce that number on 8 GPUs; "" if none is published.
        splits: the splits of the task's data set that are read; () for all of them.
        train_on: another data set whose "train" split is used for training; `splits` are then for testing only.
        epochs: passes over the training split.
        limit: the number of items of each split that are used (None: all).
        drop_blocks: the number of the backbone's last blocks that are removed (`--protocol NAME-drop<k>`).
    """

    name: str
    frozen: bool
    source: str
    expected: str = UNPUBLISHED
    command: str = ""
    splits: tuple[str, ...] = ()
    train_on: Dataset | None = None
    epochs: int
    batch_size: int
    img_size: int
    limit: int | None = None
    drop_blocks: int = 0

    @property
    def dropping(self) -> dict[str, int]:
        """Return the options that remove blocks, for the backbone of an upstream config; {} if none is removed."""
        return {"drop_blocks": self.drop_blocks} if self.drop_blocks else {}

    def without_last_blocks(self: "P", count: int) -> "P":
        """Return the same protocol without the backbone's last `count` blocks."""
        return dataclasses.replace(
            self,
            name=f"{self.name}-drop{count}",
            source=f"{self.source} Without the backbone's last {count} block(s), after Dark Secrets of MIM (arXiv "
            f"2205.13543); its final norm stays.",
            expected=UNPUBLISHED,
            command="",
            drop_blocks=count,
        )

    def smoke(self: "P") -> "P":
        """Return the same protocol on a few images for one epoch, to check that it runs; its numbers mean nothing."""
        return dataclasses.replace(self, name=f"{self.name}-smoke", epochs=1, limit=4 * self.batch_size)

    def scaled(self: "P", why: str, **changes: Any) -> "P":
        """Return the protocol at a smaller scale, without a published number; `source` lists what changed."""
        changed = ", ".join(f"{name} {value}" for name, value in changes.items() if name != "name")
        source = f"{self.source} Scaled down to {why}: {changed}."
        expected = f"{UNPUBLISHED}; at full scale {self.expected}"
        return dataclasses.replace(self, **({"source": source, "expected": expected} | changes))


P = TypeVar("P", bound=Protocol)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run, as a task family receives it.

    Args:
        data: the folder of the task's data set.
        train_data: the folder of the training data; equals `data` unless the protocol has `train_on`.
        work_dir: this run's own folder; files in it are from the same run, interrupted earlier.
        cache: a folder that all runs share, for results that several of them need.
        device: a torch device, "cpu" or "cuda" ("cuda:1", ... in a run on several GPUs).
        world_size: the number of processes that share this run; torch.distributed knows this one's rank.
        num_workers: processes that load data; does not affect numbers.
        keep_weights: whether to save a fine-tuned backbone in `work_dir`, as a weights file.
    """

    backbone: Backbone
    task: "Task"
    protocol: Any
    seed: int
    data: Path
    train_data: Path
    work_dir: Path
    cache: Path
    device: str
    world_size: int = 1
    num_workers: int
    keep_weights: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The split that hyper-parameters and epoch were selected on, and the split that the numbers are of.

    `trials` is the whole search table; if there is one, `selected_on` differs from `reported_on`.
    """

    selected_on: str | None
    reported_on: str
    trials: Sequence[Mapping[str, float]] = ()
    epoch: int | str = "last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a run, as a task family returns it.

    Args:
        train_seconds: wall-clock time; of a resumed run, the sum over its parts. `eval_seconds` alike.
        data_wait: the fraction of train_seconds, 0 to 1, in which the model waited for images.
        curves: loss terms by training iteration, if the family records them; for an analysis, values by head,
            layer or hidden fraction.
    """

    metrics: Mapping[str, float]
    load_report: LoadReport
    selection: Selection
    train_seconds: float
    eval_seconds: float
    images_per_second: float
    data_wait: float = 0.0
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A family on one data set.

    Args:
        name: `family/dataset`.
        version: increased whenever the family's code changes what a number means.
        protocols: the first is the default.
        metrics: the first is the primary one.
        upstream: derives the upstream config from a protocol, as plain JSON values; a pure function without
            paths, device or backbone; part of the digest.
        evaluate: trains and tests. Raises UserError for a user's mistake.
        imports: modules that every run of the task needs, imported once for all runs of a command.
        baselines: names of methods without weights or training that can be given instead of a backbone;
            `evaluate` receives a Backbone with the method "baseline".
        items: lists the items of a split in the data set's folder; None for a split without images (a
            detector's boxes). Raises UserError for lists and labels that cannot be used.
    """

    name: str
    version: int
    dataset: Dataset
    protocols: tuple[Protocol, ...]
    metrics: tuple[Metric, ...]
    upstream: Callable[["Task", Any], Mapping[str, Any]]
    evaluate: Callable[[Job], Outcome]
    imports: tuple[str, ...] = ("torch",)
    baselines: tuple[str, ...] = ()
    items: Callable[[Path, str], Items | None] | None = None

    @property
    def family(self) -> str:
        """Return the part of the name before the slash."""
        return self.name.partition("/")[0]

    def protocol(self, name: str | None) -> Protocol:
        """Return a protocol (None: the default); `NAME-drop<k>` is NAME without the backbone's last k blocks.

        Raises UserError with the nearest name.
        """
        if name is None:
            return self.protocols[0]
        known = {protocol.name: protocol for protocol in self.protocols}
        dropped = DROP_SUFFIX.fullmatch(name)
        if name not in known and dropped and dropped["base"] in known:
            return self._without_last_blocks(known[dropped["base"]], int(dropped["count"]))
        if name not in known:
            raise unknown(f"protocol of {self.name}", name, known)
        return known[name]

    def _without_last_blocks(self, protocol: Protocol, count: int) -> Protocol:
        found = protocol.without_last_blocks(count)
        # A family that ignores `drop_blocks` would record the whole backbone's number under this name.
        if self.upstream(self, found) == self.upstream(self, protocol):
            raise UserError(
                f"{self.name} cannot drop a backbone's last blocks: its protocols have no -drop{count}. "
                f"Give --protocol {protocol.name}, or another task."
            )
        return found

    def sources(self, protocol: Protocol) -> tuple[Dataset, ...]:
        """Return the data sets that a protocol reads: one, or the one for training and the one for testing."""
        own = self.dataset.only(protocol.splits or tuple(self.dataset.splits))
        return (protocol.train_on.only(("train",)), own) if protocol.train_on else (own,)

    def fingerprint(self, protocol: Protocol, of: Callable[[Dataset], str]) -> str:
        """Return the fingerprint of all data that a protocol reads; `of` gives the fingerprint of one data set."""
        found = [of(source) for source in self.sources(protocol)]
        return found[0] if len(found) == 1 else digest(found)

    def digest(self, protocol: Protocol, fingerprint: str) -> str:
        """Return the hash of task, data, protocol and derived config: numbers of equal digests are comparable."""
        values = {k: v for k, v in dataclasses.asdict(protocol).items() if k not in NOT_IN_DIGEST}
        return digest(
            {
                "task": self.name,
                "version": self.version,
                "data": fingerprint,
                "protocol": {k: v for k, v in values.items() if (k, v) not in OMIT_IF_DEFAULT.items()},
                "upstream": self.upstream(self, protocol),
            }
        )


FAMILIES = "adapters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Several tasks under one name for `--task`, as papers report them together.

    Args:
        about: which tasks these are, the source of that choice, and what differs from it.
    """

    tasks: tuple[str, ...]
    about: str


def family_names() -> list[str]:
    """Return the names of all task families without importing them: the modules of `adapters` but for its SHARED."""
    adapters = importlib.import_module(FAMILIES)
    return sorted(m.name for m in pkgutil.iter_modules(adapters.__path__) if m.name not in adapters.SHARED)


def tasks_of(family: str) -> dict[str, Task]:
    """Import one family and return its tasks by name; raises UserError if it cannot be imported."""
    if family not in (known := family_names()):
        raise unknown("task", family, known)
    try:
        module = importlib.import_module(f"{FAMILIES}.{family}")
    except ImportError as error:
        raise UserError(
            f"The task family {family} cannot be imported: {error}. The other families do not need it; "
            f"install what is missing (make install) or fix the code in {FAMILIES}/{family}."
        ) from error
    return {task.name: task for task in module.TASKS}


def groups() -> dict[str, Group]:
    """Return the groups of tasks of all families that can be imported, by name."""
    found: dict[str, Group] = {}
    for family in family_names():
        with contextlib.suppress(UserError):  # a broken family breaks no other
            tasks_of(family)
            found |= getattr(sys.modules[f"{FAMILIES}.{family}"], "GROUPS", {})
    return found


def find(wanted: Sequence[str], entries: Mapping[str, Task] | None = None) -> list[Task]:
    """Return the tasks that `family/dataset`, a family, a group or `all` stand for, each once.

    A family alone is `<family>/scenes`; a family without that task (analysis) is all its tasks on the embedded
    world. `all` is every `<family>/scenes`. `entries` are the user's own tasks. Raises UserError.
    """
    entries = entries or {}
    found = [task for name in wanted for task in _named(name, entries)]
    return list({task.name: task for task in found}.values())


def _named(name: str, entries: Mapping[str, Task]) -> list[Task]:
    if name == "all":
        every = [name for family in family_names() if (name := f"{family}/scenes") in tasks_of(family)]
        return [_find(name, entries) for name in every]
    if not {name, f"{name}/scenes"} & {*family_names(), *entries} and name in (known := groups()):
        return [_find(task, entries) for task in known[name].tasks]
    if "/" in name or f"{name}/scenes" in entries or name not in family_names():
        return [_find(name, entries)]
    tasks = tasks_of(name)
    if f"{name}/scenes" in tasks:
        return [tasks[f"{name}/scenes"]]
    return [task for task in tasks.values() if isinstance(task.dataset, EmbeddedWorld)]


def _find(name: str, entries: Mapping[str, Task]) -> Task:
    name = name if "/" in name else f"{name}/scenes"
    if name in entries:
        return entries[name]
    family = name.partition("/")[0]
    if family not in (known := family_names()):
        known = [*known, *groups(), *entries, "all"]
        raise unknown("task", name.removesuffix("/scenes"), known)
    tasks = tasks_of(family)
    if name not in tasks:
        raise unknown("task", name, [*tasks, *entries])
    return tasks[name]
