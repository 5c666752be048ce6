"""The scores of every replicate of every method, by scale, from records.

A scale is what all methods of a comparison share: architecture, images, epochs, batch and image size. A role is a
method or a variant of one: R-MAE with another lambda, MAE on few images, scratch. The replicates of a role are its
pretraining seeds; a replicate's score is the mean over its evaluation seeds and over backbones pretrained twice with
the same settings. The replicates of scratch are its evaluation seeds.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records import Result, Store
from leaderboards.analyses import shown
from leaderboards.claims import SCRATCH, Score, few
from leaderboards.standings import Row, Section

ORDER = (SCRATCH, "supervised", "moco", "mae", "r-mae", "c-mae", "simmim")
BLOCKS = 12  # blocks of the papers' ViT-B
HEADER_KEYS = {"method", "arch", "recipe", "data", "images", "seed"}
Curves = Callable[[Result], Mapping[str, Sequence[float]]]


@dataclass(frozen=True, kw_only=True, order=True)
class Scale:
    """The settings that the methods share."""

    arch: str
    data: str
    recipe: str
    img_size: int
    epochs: int
    batch_size: int

    def __str__(self) -> str:
        """All settings in one line."""
        return (
            f"{self.arch}, {self.data}, recipe {self.recipe}: {self.epochs} epochs at {self.img_size} pixels, "
            f"batch {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Values:
    """A role's score by replicate, or why it is unknown."""

    by_replicate: Mapping[int, float]
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A row of a section as a replicate of a role."""

    role: str
    replicate: int
    settings: str
    row: Row


class Replicates:
    """The numbers of one scale."""

    def __init__(self, scale: Scale, standings: Sequence[Section], curves: Curves) -> None:
        """Use the current sections; `curves` returns the curves of a record."""
        self.scale, self.curves = scale, curves
        self.sections = {(s.task, str(s.protocol["name"])): s for s in shown(standings)}
        self._known: dict[tuple[str, Score], Values] = {}

    @functools.cached_property
    def roles(self) -> list[str]:
        """All roles with a record, scratch first."""
        found = {m.role for s in self.sections.values() for m in self._members(s)}
        known = [role for role in ORDER if role in found]
        return known + sorted(found - set(known), key=lambda role: (len(role), role))

    @property
    def blocks(self) -> int:
        """The number of blocks, from an analysis of attention; BLOCKS if there is none."""
        section = self.sections.get(("analysis/attention", "frozen"))
        members = self._members(section) if section else []
        names = {name for m in members for result in m.row.results for name in result.metrics}
        return sum(name.startswith("KL/") for name in names) or BLOCKS

    def values(self, role: str, score: Score) -> Values:
        """Return a role's score by replicate, looked up once."""
        if (role, score) not in self._known:
            self._known[role, score] = self._look_up(role, score)
        return self._known[role, score]

    def _look_up(self, role: str, score: Score) -> Values:
        section = self.sections.get((score.task, score.protocol))
        members = [m for m in self._members(section) if m.role == role] if section else []
        if not members:
            return Values(by_replicate={}, problem=f"{role}: no record of {score}")
        assert section is not None
        if len({m.settings for m in members}) > 1:
            names = ", ".join(sorted({f"{m.row.backbone}@{m.row.weights8}" for m in members}))
            problem = f"{role}: {names} were pretrained with different settings"
            return Values(by_replicate={}, problem=problem)
        found = defaultdict(list)
        for member in members:
            if (value := self._value(section, member, score)) is not None:
                found[member.replicate].append(value)
        means = {seed: math.fsum(values) / len(values) for seed, values in found.items()}
        what = f"its records of {score.task} {score.protocol} have no {score.what}"
        return Values(by_replicate=means, problem="" if means else f"{role}: {what}")

    def _value(self, section: Section, member: _Member, score: Score) -> float | None:
        """Return the mean over the records of a replicate; None if one of them lacks the score."""
        found = []
        for result in member.row.results:
            if member.role == SCRATCH and result.seed != member.replicate:
                continue
            if score.curve:
                curve = self.curves(result).get(score.curve)
                value = math.fsum(curve) / len(curve) if curve else None
            else:
                value = result.metrics.get(score.metric or section.primary)
            if value is None:
                return None
            found.append(value)
        return math.fsum(found) / len(found)

    def _members(self, section: Section) -> list[_Member]:
        return [member for row in section.rows for member in _members(row, self.scale)]


def scales(standings: Sequence[Section]) -> list[Scale]:
    """Return the scales at which more than one method was pretrained."""
    methods: dict[Scale, set[str]] = defaultdict(set)
    headers = [header for row in _rows(standings) if (header := _header(row))]
    for header in {id(header): header for header in headers}.values():  # equal headers are one cached object
        methods[_scale(header)].add(header["method"]["name"])
    return sorted(scale for scale, names in methods.items() if len(names) > 1)


def _rows(standings: Sequence[Section]) -> Iterator[Row]:
    return (row for section in shown(standings) for row in section.rows)


def _members(row: Row, scale: Scale) -> list[_Member]:
    """Return a row's replicates at a scale: one, or for scratch one for each seed."""
    header = _header(row)
    if header is not None:
        if _scale(header) != scale:
            return []
        return [_Member(role=_role(header), replicate=header["seed"], settings=row.replicate_key, row=row)]
    if row.method != SCRATCH or row.results[0].backbone["arch"] != scale.arch:
        return []
    return [_Member(role=SCRATCH, replicate=r.seed, settings="", row=row) for r in row.results]


def _role(header: Mapping[str, Any]) -> str:
    method, weight = header["method"]["name"], header["method"].get("reconstruction_weight")
    if method == "r-mae" and weight != 1:
        return f"r-mae, lambda {weight:g}"
    return few(header["images"]) if method == "mae" and header["images"] else str(method)


def _scale(header: Mapping[str, Any]) -> Scale:
    recipe = header["recipe"]
    return Scale(
        arch=header["arch"],
        data=header["data"],
        recipe=recipe["name"],
        img_size=recipe["img_size"],
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
    )


def _header(row: Row) -> Mapping[str, Any] | None:
    """Return the pretraining settings of the weights, if they identify a replicate."""
    return row.pretraining if row.pretraining.keys() >= HEADER_KEYS else None


def curves_of(records: Path | None) -> Curves:
    """Return a function that reads a record's curves from a store (standings omit them); {} without a store."""
    return lambda result: _stored(records, result) if records else {}


def _stored(records: Path, result: Result) -> Mapping[str, Sequence[float]]:
    found = Store(records).load(result.key)
    return found.curves if found else {}
