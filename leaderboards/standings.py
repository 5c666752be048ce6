"""Records grouped into comparable sections, one per task, protocol and digest, and read from a store."""

import functools
import glob
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import processes
from bench.errors import UserError
from bench.records import Json, Result, Store, weights8
from leaderboards.statistics import Interval, mean_interval, rank_intervals, tie

PRETRAINED = "backbone.safetensors"  # the file that every `pretrain.run` exports


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one backbone with its weights, over all seeds."""

    backbone: str
    method: str
    weights8: str
    results: tuple[Result, ...]  # finished runs, by seed
    metrics: Mapping[str, Interval]  # without per-class metrics such as "iou/person"
    rank: tuple[int, int] | None = None  # first and last possible; None: not finite or not ranked
    ties: bool = False  # ties with the first row of its section, and is another row

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the row: backbone and weights."""
        return self.backbone, self.weights8

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.results)

    @property
    def pretraining(self) -> Json:
        """The pretraining settings in the header of weights that `pretrain.run` made; {} for other weights."""
        return _parsed(self.results[0].backbone["pretraining"].get("pretraining", "{}"))

    @property
    def has_card(self) -> bool:
        """Whether a page describes it; the output file of a pretraining run, one seed of many, has none."""
        return not (self.pretraining and self.results[0].backbone["weights"] == PRETRAINED)

    @property
    def replicate_key(self) -> str:
        """The pretraining settings without the seeds, equal for replicates; the name of other weights."""
        settings = {k: v for k, v in self.pretraining.items() if not k.endswith("seed")}
        return json.dumps(settings) if settings else f"{self.backbone}@{self.weights8}"

    def values(self, metric: str) -> dict[int, float]:
        """Return a metric by seed, for the seeds that have it."""
        return {r.seed: r.metrics[metric] for r in self.results if metric in r.metrics}

    def cost(self, key: str) -> float | None:
        """Return the mean of a cost, such as "device_hours", over the seeds that recorded it."""
        values = [cost for r in self.results if (cost := r.cost.get(key)) is not None]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Comparable results: the rows of one digest, best first, and the failed runs."""

    task: str
    task_version: int
    protocol: Json
    digest: str
    primary: str
    higher_is_better: bool
    rows: tuple[Row, ...]
    failed: tuple[Result, ...]
    largest: Mapping[str, float] = field(default_factory=dict)  # largest absolute mean of each metric
    superseded_by: str | None = None

    @property
    def ranked(self) -> bool:
        """Whether higher or lower is better; for an analysis neither is."""
        return self.task.partition("/")[0] != "analysis"

    @property
    def is_current(self) -> bool:
        """Whether it has numbers and is not superseded."""
        return bool(self.rows) and not self.superseded_by

    @property
    def results(self) -> tuple[Result, ...]:
        """The records behind the rows; without rows, those of the failed runs."""
        return tuple(result for row in self.rows for result in row.results) or self.failed

    @property
    def finished(self) -> tuple[bool, str, str]:
        """A sort key by age; a section without numbers sorts first, so it cannot supersede one with numbers."""
        return bool(self.rows), max(result.finished for result in self.results), self.digest


def sections(results: Iterable[Result]) -> list[Section]:
    """Group records into sections: by task and protocol, the current digest first."""
    groups = defaultdict(list)
    for result in sorted(results, key=_identity):
        groups[result.task, result.protocol["name"], result.digest].append(result)
    families = defaultdict(list)
    for (task, protocol, _), group in groups.items():
        families[task, protocol].append(_section(group))
    return [section for key in sorted(families) for section in _mark_superseded(families[key])]


def by_backbone(sections: Sequence[Section]) -> dict[tuple[str, str], list[Row | None]]:
    """Return each backbone's row in each section, None where it has none; sorted by name."""
    found = [{row.key: row for row in section.rows} for section in sections]
    return {key: [rows.get(key) for rows in found] for key in sorted(set().union(*found))}


def mode(protocol: Json) -> str:
    """Return how the backbone is used, "frozen" or "fine-tuned"; the two are never mixed."""
    return "frozen" if protocol["frozen"] else "fine-tuned"


@functools.cache  # all rows of a backbone have the same header
def _parsed(pretraining: str) -> Json:
    settings = json.loads(pretraining)
    return settings if isinstance(settings, dict) else {}


def _identity(result: Result) -> tuple[str, str, int, str]:
    return result.backbone["name"], result.backbone["weights_sha256"] or "", result.seed, result.digest


def _section(results: list[Result]) -> Section:
    first = results[0]
    groups = defaultdict(list)
    for result in results:
        if result.status == "done":
            groups[result.backbone["name"], weights8(result.backbone)].append(result)
    section = Section(
        task=first.task,
        task_version=first.task_version,
        protocol=first.protocol,
        digest=first.digest,
        primary=first.primary,
        higher_is_better=first.higher_is_better,
        rows=tuple(_row(group) for group in groups.values()),
        failed=tuple(result for result in results if result.status != "done"),
    )
    return replace(section, rows=_ranked(section), largest=_largest(section))


def _largest(section: Section) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, interval in (item for row in section.rows for item in row.metrics.items()):
        if math.isfinite(interval.mean):
            found[name] = max(found.get(name, 0.0), abs(interval.mean))
    return found


def _row(results: list[Result]) -> Row:
    backbone = results[0].backbone
    names = {name for result in results for name in result.metrics if "/" not in name}
    return Row(
        backbone=backbone["name"],
        method=backbone["method"] or "",
        weights8=weights8(backbone),
        results=tuple(results),
        metrics={n: mean_interval([r.metrics[n] for r in results if n in r.metrics]) for n in sorted(names)},
    )


def _ranked(section: Section) -> tuple[Row, ...]:
    """Return the rows, best first, with their ranks and ties."""
    sign = -1 if section.higher_is_better else 1

    def place(row: Row) -> tuple[bool, float, str, str]:
        interval = row.metrics.get(section.primary)
        if interval is None or math.isnan(interval.mean):
            return True, 0.0, *row.key  # NaN has no order, so it is last by a key of its own
        return False, sign * interval.mean, *row.key

    rows = sorted(section.rows, key=place)
    if not section.ranked or not rows:
        return tuple(rows)
    values = [row.values(section.primary) for row in rows]
    ranks = rank_intervals(values, higher_is_better=section.higher_is_better)
    ties = [rank is not None and tie(values[0], own) for rank, own in zip(ranks, values, strict=True)]
    ties[0] = False  # a tie is with another row
    return tuple(replace(row, rank=rank, ties=tied) for row, rank, tied in zip(rows, ranks, ties, strict=True))


def _mark_superseded(family: list[Section]) -> list[Section]:
    newest, *older = sorted(family, key=lambda section: section.finished, reverse=True)
    return [newest, *(replace(section, superseded_by=newest.digest) for section in older)]


# Reading a store of records: task by task, on several cores if there are many.

MANY = 2000  # backbones over all tasks, from which on several processes are faster
SHOWN_COSTS = ("device", "device_hours", "images_per_second", "data_wait")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The content of a store.

    Args:
        records: the number of records read.
        broken: a message for each record that was left out.
        pictures: the images next to records, `<record>*.png`, sorted, each with its record.
    """

    standings: list[Section]
    records: int
    broken: list[str]
    pictures: dict[Path, Result]


def read(root: Path) -> Reading:
    """Read a store; raises UserError if the folder does not exist."""
    if not root.is_dir():
        raise UserError(
            f"The results folder {root} does not exist. Give one that python -m bench.run has written "
            f"with --results DIR; bench.run's default is results/ in the current folder."
        )
    tasks = sorted(task.rstrip("/") for task in glob.glob("*/*/", root_dir=root))  # noqa: PTH207
    jobs = [functools.partial(read_task, Store(root), task) for task in tasks]
    backbones = sum(len(os.listdir(root / task)) for task in tasks)  # noqa: PTH208
    found = processes.each(jobs, alone=backbones < MANY)
    pictures = [one for reading in found for one in reading.pictures.items()]
    return Reading(
        standings=[section for reading in found for section in reading.standings],
        records=sum(reading.records for reading in found),
        broken=[message for reading in found for message in reading.broken],
        pictures=dict(sorted(pictures, key=lambda picture: str(picture[0]))),
    )


def read_task(store: Store, task: str) -> Reading:
    """Read the records of one task."""
    results, broken, shared = dict[Path, Result](), [], dict[Any, Any]()
    files = store.paths(task, "")  # records and pictures, listing each folder once
    for path in files:
        if path.name.endswith(".json"):
            try:
                results[path] = _lean(_in_place(store.read(path), path), path.parent.name, shared)
            except UserError as error:
                broken.append(f"Left out: {error}")
    pictures = {}
    for path in files:
        # All digits of the seed are matched; otherwise seed 1 would get the pictures of seed 10.
        stem = path.name.endswith(".png") and re.match(r".*?-seed\d+", path.name)
        if stem and (result := results.get(path.with_name(f"{stem[0]}.json"))):
            pictures[path] = result
    return Reading(standings=sections(results.values()), records=len(results), broken=broken, pictures=pictures)


def _in_place(result: Result, path: Path) -> Result:
    # A copied file would count as an additional seed and narrow the interval.
    place = result.key.place
    if not path.as_posix().endswith(f"/{place}"):
        raise UserError(
            f"The record {path} belongs at {place}: it was copied or moved by hand. Move it there or delete it."
        )
    return result


def _lean(result: Result, backbone: str, shared: dict[Any, Any]) -> Result:
    """Drop what no page shows from a record, and share equal parts between records, to save memory."""
    selection = result.selection  # the pages show its splits and the number of trials
    chosen = selection.get("selected_on"), selection.get("reported_on"), len(selection.get("trials") or ())
    changes = {
        "backbone": shared.setdefault(backbone, result.backbone),
        "load_report": shared.setdefault((backbone, "loading"), result.load_report),
        "protocol": shared.setdefault(result.digest, result.protocol),
        "data": shared.setdefault((result.digest, str(result.data)), result.data),
        "selection": shared.setdefault(("selection", *chosen), result.selection),
        "curves": {},
        "cost": {key: result.cost[key] for key in SHOWN_COSTS if key in result.cost},
        "environment": {},
        "git": {},
    }
    vars(result).update(changes)  # in place: no other reference exists yet, and a copy takes as long as all checks
    return result
