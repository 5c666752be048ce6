"""Records grouped into what may be compared: one section per task, protocol and digest."""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bench.results import Json, Result, weights8
from leaderboards.statistics import Interval, mean_interval, rank_intervals, tie


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backbone with its weights, over its seeds."""

    backbone: str
    method: str
    weights8: str
    results: tuple[Result, ...]  # done, by seed
    metrics: Mapping[str, Interval]  # without the per-class ones ("iou/person")
    rank: tuple[int, int] | None = None  # the first and last that the data allow; None: not finite
    ties: bool = False  # with the first row of its section, which it is not

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.results)

    @property
    def pretraining(self) -> Json:
        """What the weights say of how `pretrain.run` made them; {} for others."""
        return _parsed(self.results[0].backbone["pretraining"].get("pretraining", "{}"))

    @property
    def made_by(self) -> str:
        """What tells its pretraining from those alike but for their seeds; for other weights, their name."""
        told = {k: v for k, v in self.pretraining.items() if not k.endswith("seed")}
        return json.dumps(told) if told else f"{self.backbone}@{self.weights8}"

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed, where the seed has it."""
        return {r.seed: r.metrics[metric] for r in self.results if metric in r.metrics}

    def cost(self, key: str) -> float | None:
        """The mean of a cost ("device_hours", "images_per_second", "data_wait") over the seeds that recorded it."""
        values = [cost for r in self.results if (cost := r.cost.get(key)) is not None]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Section:
    """All that is comparable: the rows of one digest, best first, and the runs that failed."""

    task: str
    task_version: int
    protocol: Json
    digest: str
    primary: str
    higher_is_better: bool
    rows: tuple[Row, ...]
    failed: tuple[Result, ...]
    largest: Mapping[str, float] = field(
        default_factory=dict
    )  # the rows' largest mean of each metric
    superseded_by: str | None = None

    @property
    def ranked(self) -> bool:
        """Whether its numbers have a better end; those of an analysis have none."""
        return self.task.partition("/")[0] != "analysis"

    @property
    def results(self) -> tuple[Result, ...]:
        """The records behind the rows; those of the failed runs where there is no row."""
        return tuple(result for row in self.rows for result in row.results) or self.failed

    @property
    def finished(self) -> tuple[bool, str, str]:
        """Orders sections by age; one without a number cannot supersede one that has some."""
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


def mode(protocol: Json) -> str:
    """Say how the backbone is used, "frozen" or "fine-tuned"; the two are never mixed."""
    return "frozen" if protocol["frozen"] else "fine-tuned"


@functools.cache  # every row of a backbone says the same
def _parsed(pretraining: str) -> Json:
    told = json.loads(pretraining)
    return told if isinstance(told, dict) else {}


def _identity(result: Result) -> tuple[str, str, int, str]:
    name, weights = result.backbone["name"], result.backbone["weights_sha256"]
    return name, weights or "", result.seed, result.digest


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
    found: dict[str, float] = defaultdict(float)
    for row in section.rows:
        for name, interval in row.metrics.items():
            if math.isfinite(interval.mean):
                found[name] = max(found[name], abs(interval.mean))
    return dict(found)


def _row(results: list[Result]) -> Row:
    backbone = results[0].backbone
    names = {name for result in results for name in result.metrics if "/" not in name}
    return Row(
        backbone=backbone["name"],
        method=backbone["method"] or "",
        weights8=weights8(backbone),
        results=tuple(results),
        metrics={
            name: mean_interval([r.metrics[name] for r in results if name in r.metrics])
            for name in sorted(names)
        },
    )


def _ranked(section: Section) -> tuple[Row, ...]:
    rows = _best_first(section)
    if not section.ranked:
        return rows
    values = [row.values(section.primary) for row in rows]
    ranks = rank_intervals(values, higher_is_better=section.higher_is_better)
    ties = [
        rank is not None and tie(values[0], own) for rank, own in zip(ranks, values, strict=True)
    ]
    return tuple(
        replace(row, rank=rank, ties=ties[place] and place > 0)
        for place, (row, rank) in enumerate(zip(rows, ranks, strict=True))
    )


def _best_first(section: Section) -> tuple[Row, ...]:
    def place(row: Row) -> tuple[bool, float, str, str]:
        interval = row.metrics.get(section.primary)
        mean = interval.mean if interval else math.nan
        score = -mean if section.higher_is_better else mean
        # NaN compares with nothing, so it goes last by its own key.
        return math.isnan(mean), 0.0 if math.isnan(mean) else score, row.backbone, row.weights8

    return tuple(sorted(section.rows, key=place))


def _mark_superseded(family: list[Section]) -> list[Section]:
    newest, *older = sorted(family, key=lambda section: section.finished, reverse=True)
    return [newest, *(replace(section, superseded_by=newest.digest) for section in older)]
