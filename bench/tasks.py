"""What a task family hands to the runner: Task, Protocol, Metric; what it receives: Job; and finding a task by name."""

import contextlib
import dataclasses
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.backbones.backbone import Backbone, LoadReport
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.datasets.items import Items
from bench.errors import UserError, unknown
from bench.files import digest

BESIDE = ("source", "expected", "command", "splits", "train_on")  # move no digest by themselves
LATER = {"drop_blocks": 0}  # younger than published digests: there only at another value
UNPUBLISHED = "none published at this scale"
DROPPED = re.compile(r"(?P<base>.+)-drop(?P<count>[1-9]\d*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of the record. Percentages are 0-100."""

    name: str
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a backbone is evaluated. Families add their own hyper-parameters by subclassing.

    Args:
        name: what `--protocol` names, unique within a task; leaderboards keep names apart.
        frozen: whether the backbone's weights stay as they are.
        source: the paper or recipe the values come from, and what differs.
        expected: a published number at full scale, with its backbone and source.
        command: what would reproduce that number on 8 GPUs; "" where none is published.
        splits: the splits of the task's data set that are read; () for all that it has.
        train_on: another data set, whose "train" is trained on (then `splits` are for testing alone).
        epochs: passes over the training split.
        limit: how many items of each split are used (None: all).
        drop_blocks: how many of the backbone's last blocks are removed (`--protocol NAME-drop<k>`).
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
        """What an upstream config's backbone adds to drop blocks; nothing where all stay."""
        return {"drop_blocks": self.drop_blocks} if self.drop_blocks else {}

    def dropped(self: "P", count: int) -> "P":
        """The same protocol without the backbone's last `count` blocks."""
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
        """The same protocol on a few images for one epoch: shows that it runs, means nothing."""
        return dataclasses.replace(self, name=f"{self.name}-smoke", epochs=1, limit=4 * self.batch_size)

    def scaled(self: "P", why: str, **changes: Any) -> "P":
        """The protocol at a smaller scale, where no number is published; its source says what changed."""
        said = ", ".join(f"{name} {value}" for name, value in changes.items() if name != "name")
        source = f"{self.source} Scaled down to {why}: {said}."
        expected = f"{UNPUBLISHED}; at full scale {self.expected}"
        return dataclasses.replace(self, **({"source": source, "expected": expected} | changes))


P = TypeVar("P", bound=Protocol)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run as a family sees it.

    Args:
        data: the folder of the task's data set.
        train_data: the folder of the data set trained on; the same unless the protocol has `train_on`.
        work_dir: this run's own folder; what is in it comes from the same run, cut short earlier.
        cache: a folder that all runs share, for what need not be found out twice.
        device: a torch device, "cpu" or "cuda" ("cuda:1", ... in a run on several GPUs).
        world_size: how many processes share this run; torch.distributed knows which this is.
        num_workers: processes that load data; never changes a number.
        keep_weights: whether a fine-tuned backbone is left in the folder, as a weights file.
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
    """What chose the hyper-parameters and the epoch, and on what the numbers are reported.

    `trials` is the whole search table; `selected_on` never equals `reported_on` while there is one.
    """

    selected_on: str | None
    reported_on: str
    trials: Sequence[Mapping[str, float]] = ()
    epoch: int | str = "last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a family returns. Times are wall-clock seconds; a resumed run's training counts as a whole.

    Args:
        data_wait: the part of train_seconds, 0 to 1, in which the model waited for images.
        curves: loss terms by training iteration, where a family keeps them; of an analysis, values by head,
            layer or how much is hidden.
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
        version: raised whenever the family's code changes what a number means.
        protocols: the first is the default.
        metrics: the first is the primary one.
        upstream: the derived upstream config of a protocol, as plain JSON values: a pure function of
            its arguments, without paths, device or backbone; part of the digest.
        evaluate: trains and tests. Raises UserError for a user's mistake.
        imports: modules that every run of it needs, imported once for all runs of a command.
        baselines: names that stand where a backbone's does, of methods that need neither weights nor
            training; `evaluate` is given one as a backbone of the method "baseline".
        items: what a split of the data set holds, in the data set's folder; None for a split that holds
            no images (a detector's boxes). Raises UserError for lists and labels that cannot be used.
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
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    def protocol(self, name: str | None) -> Protocol:
        """Look a protocol up (None: the default); `NAME-drop<k>` is NAME without the backbone's last k blocks.

        Raises UserError with the nearest name.
        """
        known = {protocol.name: protocol for protocol in self.protocols}
        if name is None:
            return self.protocols[0]
        dropped = DROPPED.fullmatch(name)
        if name not in known and dropped and dropped["base"] in known:
            return self._dropped(known[dropped["base"]], int(dropped["count"]))
        if name not in known:
            raise unknown(f"protocol of {self.name}", name, known)
        return known[name]

    def _dropped(self, protocol: Protocol, count: int) -> Protocol:
        found = protocol.dropped(count)
        # A family that does not know of it would record the whole backbone's number under this name.
        if self.upstream(self, found) == self.upstream(self, protocol):
            raise UserError(
                f"{self.name} cannot drop a backbone's last blocks: its protocols have no -drop{count}. "
                f"Give --protocol {protocol.name}, or another task."
            )
        return found

    def sources(self, protocol: Protocol) -> tuple[Dataset, ...]:
        """What a protocol reads: one data set, or the one it trains on and the one it tests on."""
        own = self.dataset.only(protocol.splits or tuple(self.dataset.splits))
        return (protocol.train_on.only(("train",)), own) if protocol.train_on else (own,)

    def fingerprint(self, protocol: Protocol, of: Callable[[Dataset], str]) -> str:
        """The fingerprint of all that a protocol reads, from that `of` each data set."""
        found = [of(source) for source in self.sources(protocol)]
        return found[0] if len(found) == 1 else digest(found)

    def digest(self, protocol: Protocol, fingerprint: str) -> str:
        """What makes two numbers comparable: task, data, protocol and the derived config.

        A protocol's `source`, `expected` and `command` are prose: mending them moves no number, nor a
        digest. Which data it reads is in the fingerprint.
        """
        values = dataclasses.asdict(protocol)
        return digest(
            {
                "task": self.name,
                "version": self.version,
                "data": fingerprint,
                "protocol": {k: v for k, v in values.items() if k not in BESIDE and (k, v) not in LATER.items()},
                "upstream": self.upstream(self, protocol),
            }
        )


FAMILIES = "adapters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Tasks under one name, as papers report them: what `--task NAME` stands for.

    Args:
        about: which tasks they are, whose choice that is, and what differs from it.
    """

    tasks: tuple[str, ...]
    about: str


def names() -> list[str]:
    """The names of all task families, without importing any."""
    spec = importlib.util.find_spec(FAMILIES)
    assert spec is not None
    modules = pkgutil.iter_modules(spec.submodule_search_locations)
    return sorted(m.name for m in modules if not m.ispkg or _is_family_package(spec, m.name))


def _is_family_package(spec: Any, name: str) -> bool:
    """A package is a family when it says so; `openmmlab` is plumbing."""
    folder = Path(spec.submodule_search_locations[0]) / name / "__init__.py"
    return "TASKS" in folder.read_text("utf-8")


def tasks_of(family: str) -> dict[str, Task]:
    """Import one family and return its tasks by name; raises UserError if that cannot be done."""
    if family not in (known := names()):
        raise unknown("task", family, known)
    try:
        module = importlib.import_module(f"{FAMILIES}.{family}")
    except ImportError as error:
        raise UserError(
            f"The task family {family} cannot be imported: {error}. The other families do not need it; "
            f"install what is missing (make install) or mend {FAMILIES}/{family}.py."
        ) from error
    return {task.name: task for task in module.TASKS}


def groups() -> dict[str, Group]:
    """The groups of tasks of all families that can be imported, by name."""
    found: dict[str, Group] = {}
    for family in names():
        with contextlib.suppress(UserError):  # a broken family breaks no other
            tasks_of(family)
            found |= getattr(sys.modules[f"{FAMILIES}.{family}"], "GROUPS", {})
    return found


def find(wanted: Sequence[str], entries: Mapping[str, Task] | None = None) -> list[Task]:
    """Turn `family/dataset`, a bare family, the name of a group or `all` into tasks.

    A bare family is `<family>/scenes`, or all that it has on the embedded world where it has no such
    task (analysis); `all` is every `<family>/scenes`.
    """
    entries = entries or {}
    found = [task for name in wanted for task in _named(name, entries)]
    return list({task.name: task for task in found}.values())


def _named(name: str, entries: Mapping[str, Task]) -> list[Task]:
    if name == "all":
        whole = [name for family in names() if (name := f"{family}/scenes") in tasks_of(family)]
        return [_find(name, entries) for name in whole]
    if not {name, f"{name}/scenes"} & {*names(), *entries} and name in (known := groups()):
        return [_find(task, entries) for task in known[name].tasks]
    if "/" in name or f"{name}/scenes" in entries or name not in names():
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
    if family not in names():
        known = [*names(), *groups(), *entries, "all"]
        raise unknown("task", name.removesuffix("/scenes"), known)
    tasks = tasks_of(family)
    if name not in tasks:
        raise unknown("task", name, [*tasks, *entries])
    return tasks[name]
