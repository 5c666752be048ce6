"""The scores of every method by replicate, the verdict on each claim by a rule fixed before any record, and their page.

A scale is what all methods of a comparison share: architecture, images, epochs, batch and image size. A role is a
method or a variant of one: R-MAE with another lambda, MAE on few images, scratch. The replicates of a role are its
pretraining seeds; a replicate's score is the mean over its evaluation seeds and over backbones pretrained twice with
the same settings. The replicates of scratch are its evaluation seeds.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records import Result, Store
from leaderboards.analyses import shown
from leaderboards.claims import SCRATCH, Claim, Comparison, Score, claims, few
from leaderboards.standings import Row, Section
from leaderboards.statistics import CONFIDENCE, ROUNDING, Interval, mean_interval
from leaderboards.tables import MARK, MISSING, OVERVIEW, Table, escape_cell, number

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
        members = self._members(self.sections.get(("analysis/attention", "frozen")))
        names = {name for m in members for result in m.row.results for name in result.metrics}
        return sum(name.startswith("KL/") for name in names) or BLOCKS

    def values(self, role: str, score: Score) -> Values:
        """Return a role's score by replicate, looked up once."""
        if (role, score) not in self._known:
            self._known[role, score] = self._look_up(role, score)
        return self._known[role, score]

    def _look_up(self, role: str, score: Score) -> Values:
        section = self.sections.get((score.task, score.protocol))
        members = [m for m in self._members(section) if m.role == role]
        if section is None or not members:
            return Values(by_replicate={}, problem=f"{role}: no record of {score}")
        if len({m.settings for m in members}) > 1:
            names = ", ".join(sorted({f"{m.row.backbone}@{m.row.weights8}" for m in members}))
            return Values(by_replicate={}, problem=f"{role}: {names} were pretrained with different settings")
        found = defaultdict(list)
        for member in members:
            if (value := self._value(section, member, score)) is not None:
                found[member.replicate].append(value)
        means = {seed: math.fsum(values) / len(values) for seed, values in found.items()}
        problem = f"{role}: its records of {score.task} {score.protocol} have no {score.what}"
        return Values(by_replicate=means, problem="" if means else problem)

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

    def _members(self, section: Section | None) -> list[_Member]:
        return [member for row in section.rows for member in _members(row, self.scale)] if section else []


def scales(standings: Sequence[Section]) -> list[Scale]:
    """Return the scales at which more than one method was pretrained."""
    methods: dict[Scale, set[str]] = defaultdict(set)
    headers = [header for section in shown(standings) for row in section.rows if (header := _header(row))]
    for header in {id(header): header for header in headers}.values():  # equal headers are one cached object
        methods[_scale(header)].add(header["method"]["name"])
    return sorted(scale for scale, names in methods.items() if len(names) > 1)


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
    sizes = {key: recipe[key] for key in ("img_size", "epochs", "batch_size")}
    return Scale(arch=header["arch"], data=header["data"], recipe=recipe["name"], **sizes)


def _header(row: Row) -> Mapping[str, Any] | None:
    """Return the pretraining settings of the weights, if they identify a replicate."""
    return row.pretraining if row.pretraining.keys() >= HEADER_KEYS else None


def curves_of(records: Path | None) -> Curves:
    """Return a function that reads a record's curves from a store (standings omit them); {} without a store."""

    def curves(result: Result) -> Mapping[str, Sequence[float]]:
        found = Store(records).load(result.key) if records else None
        return found.curves if found else {}

    return curves


# The verdict. A comparison is a sum of scores that the claim predicts to be above 0, with Student's interval over the
# replicates that all its scores share. A claim holds if the 95 % interval of every comparison is above 0: all must be,
# so each is tested at its own level. It does not hold if the interval of any comparison is below 0 after Bonferroni's
# correction over the claim's comparisons. Otherwise it is not decided by these records.

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by these records"
FEWEST = 2  # replicates for an interval


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A comparison with its interval (None: missing), and its outcome: "for", "against" or "open"."""

    comparison: Comparison
    interval: Interval | None
    outcome: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim with its preconditions and comparisons judged."""

    claim: Claim
    preconditions: tuple[Judged, ...]
    judged: tuple[Judged, ...]

    @property
    def word(self) -> str:
        """HOLDS, FAILS or OPEN."""
        if self.missing or any(each.outcome != "for" for each in self.preconditions):
            return OPEN
        outcomes = {each.outcome for each in self.judged}
        return HOLDS if outcomes == {"for"} else FAILS if "against" in outcomes else OPEN

    @property
    def counts(self) -> str:
        """How many comparisons are as claimed and how many against."""
        outcomes = [each.outcome for each in self.judged]
        return f"{outcomes.count('for')} of {len(outcomes)} as claimed, {outcomes.count('against')} against"

    @property
    def missing(self) -> list[str]:
        """The missing scores, each once."""
        every = (*self.preconditions, *self.judged)
        return list(dict.fromkeys(text for each in every for text in each.missing))


def verdict(claim: Claim, replicates: Replicates) -> Verdict:
    """Judge a claim by the scores of one scale."""
    number = len(claim.comparisons)
    return Verdict(
        claim=claim,
        preconditions=tuple(_judge(each, replicates, 1) for each in claim.preconditions),
        judged=tuple(_judge(each, replicates, number) for each in claim.comparisons),
    )


def _judge(comparison: Comparison, replicates: Replicates, number: int) -> Judged:
    """Judge one of `number` comparisons."""
    known = [replicates.values(term.role, term.score) for term in comparison.terms]
    shared = sorted(set.intersection(*(set(values.by_replicate) for values in known)))
    parts = [[t.factor * v.by_replicate[k] for t, v in zip(comparison.terms, known, strict=True)] for k in shared]
    sums = [math.fsum(part) for part in parts]
    interval = mean_interval(sums) if sums else None
    problems = [values.problem for values in known if values.problem]
    if len(shared) < FEWEST and not problems:
        roles = " and ".join(dict.fromkeys(term.role for term in comparison.terms))
        problems = [f"{roles}: n = {len(shared)} in {comparison.terms[0].score}, but an interval needs {FEWEST}"]
    if problems:
        return Judged(comparison=comparison, interval=interval, outcome="open", missing=tuple(problems))
    rounding = ROUNDING * max(math.fsum(map(abs, part)) for part in parts)
    return Judged(comparison=comparison, interval=interval, outcome=_outcome(sums, rounding, number))


def _outcome(values: Sequence[float], slack: float, number: int) -> str:
    """Return "for" the claim, "against" it, or "open"; values that are not finite are open."""
    own = mean_interval(values)
    corrected = mean_interval(values, 1 - (1 - CONFIDENCE) / number)
    if own.half_width is None or corrected.half_width is None:
        return "open"
    if own.mean - own.half_width > slack:
        return "for"
    return "against" if corrected.mean + corrected.half_width < -slack else "open"


# The page: for each claim the sentence, the measure, the scores and the verdict.

RULE = (
    "The claims, their measures and this rule were fixed before any record of `--suite claims` existed. A replicate is "
    "one pretraining (seed k), evaluated with seed k; the replicates of scratch are its evaluation seeds. A comparison "
    "is a difference, paired by replicate and with the sign that the claim predicts to be above 0, with Student's 95 % "
    "interval over replicates. A claim **holds** if the intervals of all its comparisons are above 0. It **does not "
    "hold** if the interval of any comparison is below 0 after Bonferroni's correction over its comparisons (without "
    "it, one of many would be by chance). Otherwise it is **not decided by these records**, also if a record is "
    "missing, n = 1, or a precondition does not hold. The precondition of claims about supervised pretraining is that "
    "it learned its classes: its linear probe is above that of scratch. (The precondition was added after the records "
    "of `--suite methods`, in which it failed; the scale was then chosen so that it holds, on a seed that no record "
    "has.) The verdicts apply to this scale only: small backbones, short pretraining, small images."
)
OUTCOMES = {"for": "as claimed", "against": "against", "open": MISSING}
UNCORRECTED = "against, but not after correction"


def page(standings: Sequence[Section], records: Path | None = None) -> str | None:
    """Return the page as markdown; None without a scale of two methods. `records` is the store."""
    every = {scale: _judged(scale, standings, records) for scale in scales(standings)}
    if not every:
        return None
    found = {scale: each for scale, each in every.items() if _is_asked(*each)} or every
    parts = [f"{MARK}# The papers' claims\n\n[All tasks]({OVERVIEW}). {_conclusion(found)}\n", _summary(found)]
    parts += [f"## How a claim is judged\n\n{RULE}\n"]
    for place, (replicates, verdicts) in enumerate(found.values(), 1):
        parts += [f"## Scale {place}: {escape_cell(replicates.scale)}\n"]
        parts += [_claim(each, replicates) for each in verdicts]
    return "\n".join(parts)


def summary(page: str) -> str:
    """Return the table of all verdicts from the page."""
    lines = page.partition("\n## ")[0].splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("|"))


def _judged(scale: Scale, standings: Sequence[Section], records: Path | None) -> tuple[Replicates, list[Verdict]]:
    replicates = Replicates(scale, standings, curves_of(records))
    return replicates, [verdict(claim, replicates) for claim in claims(covered(scale), replicates.blocks)]


def _is_asked(replicates: Replicates, verdicts: Sequence[Verdict]) -> bool:
    """Return whether the scale has a comparison or an analysis; otherwise it belongs to another question."""
    judged = [each for one in verdicts for each in one.judged]
    terms = {term for each in judged for term in each.comparison.terms if term.role != SCRATCH}
    analysed = [term for term in terms if term.score.task.startswith("analysis/")]
    known = any(replicates.values(term.role, term.score).by_replicate for term in analysed)
    return known or any(not each.missing for each in judged)


def covered(scale: Scale) -> str:
    """Return the classification task whose classes supervised pretraining was trained on at a scale."""
    return f"classification/{'tiny-imagenet' if 'tiny-imagenet' in scale.data else 'scenes'}"


def _conclusion(found: dict[Scale, tuple[Replicates, list[Verdict]]]) -> str:
    """Return how many claims have each verdict, by scale."""
    words = [[one.word for one in verdicts] for _, verdicts in found.values()]
    return " ".join(
        f"At scale {place}, of {len(own)} claims {own.count(HOLDS)} hold, {own.count(FAILS)} do not hold, "
        f"and {own.count(OPEN)} are {OPEN}."
        for place, own in enumerate(words, 1)
    )


def _summary(found: dict[Scale, tuple[Replicates, list[Verdict]]]) -> str:
    listed = "".join(f"{k}. {escape_cell(scale)}\n" for k, scale in enumerate(found, 1))
    head = ["", "claim", *(f"scale {k}" for k in range(1, len(found) + 1))]
    columns = [verdicts for _, verdicts in found.values()]
    rows = [
        [str(line[0].claim.number), line[0].claim.sentence, *map(_verdict, line)] for line in zip(*columns, strict=True)
    ]
    return f"{Table(head=head, rows=rows, left=2).markdown()}\nScales:\n\n{listed}"


def _verdict(one: Verdict) -> str:
    """Return the verdict, with the number of comparisons for and against."""
    if all(each.missing for each in one.judged):
        why = "n = 1" if any(each.interval for each in one.judged) else "no comparison"
        return f"{one.word} ({why})"
    return f"{one.word} ({one.counts})"


def _claim(one: Verdict, replicates: Replicates) -> str:
    claim = one.claim
    failed = any(each.outcome != "for" for each in one.preconditions)
    counts = f"{one.counts}{', and the precondition does not hold' if failed else ''}"
    rows = [_row(f"precondition: {each.comparison.label}", each, replicates) for each in one.preconditions]
    rows += [_row(each.comparison.label, each, replicates) for each in one.judged]
    parts = [
        f"### {claim.number}. {claim.sentence}\n",
        f"**{one.word[0].upper()}{one.word[1:]}**: {counts}. {claim.paper}. {claim.measure}\n",
        _means(claim.shown, replicates),
        Table(head=["claimed", "difference", "n", "outcome"], rows=rows, left=1).markdown(),
    ]
    # A single replicate is not listed as missing: the table shows n = 1.
    absent = [each for each in (*one.preconditions, *one.judged) if each.interval is None]
    if missing := list(dict.fromkeys(text for each in absent for text in each.missing)):
        by_role = defaultdict(list)
        for role, _, what in (text.partition(": ") for text in missing):
            by_role[role].append(what)
        listed = (f"- {escape_cell(role)}: {escape_cell('; '.join(what))}\n" for role, what in by_role.items())
        parts += [f"Missing:\n\n{''.join(listed)}"]
    return "\n".join(parts)


def _means(scores: Sequence[Score], replicates: Replicates) -> str:
    """Return the means over replicates: a row for each role that has one, a column for each score."""
    rows = []
    digits = [_decimals(score, replicates) for score in scores]
    for role in replicates.roles:
        found = [mean_interval([*replicates.values(role, score).by_replicate.values()]) for score in scores]
        if any(interval.n for interval in found):
            cells = zip(found, digits, strict=True)
            rows.append([role, *(f"{number(i, d)} (n = {i.n})" if i.n else MISSING for i, d in cells)])
    return Table(head=["mean", *map(str, scores)], rows=rows, left=1).markdown() if rows else ""


def _decimals(score: Score, replicates: Replicates) -> int:
    """Return 2 for percentages and pixels, 4 for small values."""
    every = [v for role in replicates.roles for v in replicates.values(role, score).by_replicate.values()]
    return 2 if max(map(abs, every), default=0.0) >= 10 else 4


def _row(label: str, judged: Judged, replicates: Replicates) -> list[str]:
    if judged.interval is None:
        return [label, MISSING, "0", "missing"]
    digits = _decimals(judged.comparison.terms[0].score, replicates)
    return [label, number(judged.interval, digits), str(judged.interval.n), _outcome_cell(judged, judged.interval)]


def _outcome_cell(judged: Judged, interval: Interval) -> str:
    """Return the outcome in words; a comparison that only the correction leaves open is named as such."""
    if judged.missing:
        return "no interval"
    below = interval.half_width is not None and interval.mean + interval.half_width < 0
    return UNCORRECTED if judged.outcome == "open" and below else OUTCOMES[judged.outcome]
