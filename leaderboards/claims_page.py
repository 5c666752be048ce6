"""Whether a claim holds: the rule, decided before any record of the suite existed.

A comparison is a sum of scores that the claim has above 0. Its interval is Student's, over the replicates that
all its scores share. A claim *holds* if the 95 % interval of every comparison lies above 0: all have to, so
each may err at its own level. It *does not hold* if that of any lies below 0, with Bonferroni's correction over
the claim's comparisons: one of many would do so by chance. Everything else *cannot be told here*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboards.claims import SCRATCH, Claim, Comparison, Score, claims
from leaderboards.replicates import Replicates, Scale, curves_of, scales
from leaderboards.standings import Section
from leaderboards.statistics import CONFIDENCE, ROUNDING, Interval, mean_interval
from leaderboards.tables import MARK, MISSING, OVERVIEW, Table, escape_cell, number

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
FEWEST = 2  # replicates that have an interval


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A comparison with its interval (None: missing), and what it says: "for", "against" or "open"."""

    comparison: Comparison
    interval: Interval | None
    says: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, its comparisons judged, and what follows."""

    claim: Claim
    given: tuple[Judged, ...]
    judged: tuple[Judged, ...]

    @property
    def word(self) -> str:
        """HOLDS, FAILS or OPEN."""
        if self.missing or any(each.says != "for" for each in self.given):
            return OPEN
        said = {each.says for each in self.judged}
        return HOLDS if said == {"for"} else FAILS if "against" in said else OPEN

    @property
    def missing(self) -> list[str]:
        """What is not there, each once."""
        every = (*self.given, *self.judged)
        return list(dict.fromkeys(text for each in every for text in each.missing))


def verdict(claim: Claim, replicates: Replicates) -> Verdict:
    """Judge a claim by the numbers of one scale."""
    number = len(claim.comparisons)
    return Verdict(
        claim=claim,
        given=tuple(_judge(each, replicates, 1) for each in claim.given),
        judged=tuple(_judge(each, replicates, number) for each in claim.comparisons),
    )


def _judge(comparison: Comparison, replicates: Replicates, number: int) -> Judged:
    """One of `number` comparisons."""
    known = [replicates.values(term.role, term.score) for term in comparison.terms]
    shared = sorted(set.intersection(*(set(values.by_replicate) for values in known)))
    parts = [[t.factor * v.by_replicate[k] for t, v in zip(comparison.terms, known, strict=True)] for k in shared]
    interval = mean_interval([math.fsum(part) for part in parts]) if parts else None
    problems = [values.problem for values in known if values.problem]
    if len(shared) < FEWEST and not problems:
        roles = " and ".join(dict.fromkeys(term.role for term in comparison.terms))
        problems = [f"{roles}: n = {len(shared)} in {comparison.terms[0].score}, and an interval needs {FEWEST}"]
    if problems:
        return Judged(comparison=comparison, interval=interval, says="open", missing=tuple(problems))
    says = _explain([math.fsum(part) for part in parts], _rounding(parts), number)
    return Judged(comparison=comparison, interval=interval, says=says)


def _rounding(parts: Sequence[Sequence[float]]) -> float:
    """What numbers of this size may be off by."""
    return ROUNDING * max(math.fsum(map(abs, part)) for part in parts)


def _explain(values: Sequence[float], slack: float, number: int) -> str:
    """ "for" a claim, "against" it, or "open"; not a finite number is open."""
    own = mean_interval(values)
    corrected = mean_interval(values, 1 - (1 - CONFIDENCE) / number)
    if own.half_width is None or corrected.half_width is None:
        return "open"
    if own.mean - own.half_width > slack:
        return "for"
    return "against" if corrected.mean + corrected.half_width < -slack else "open"


# The page of claims: for each the sentence, the measure, the numbers, and the verdict.

RULE = (
    "The claims, their measures and this rule were fixed before any record of `--suite claims` existed. A replicate is "
    "a pretraining (seed k), evaluated with seed k; scratch's are its seeds. A comparison is a difference, paired by "
    "replicate and turned so that the claim has it above 0, with Student's 95 % interval over replicates. A claim "
    "**holds** if the intervals of all its comparisons lie above 0; it **does not hold** if that of any lies below 0 "
    "after Bonferroni's correction over its comparisons (one of many would by chance); else it **cannot be told "
    "here**, as where a record is missing or n = 1, or where what is given is not so: of claims about supervised "
    "pretraining, that it learnt what it was taught (its linear probe is above that of scratch; asked for since the "
    "records of `--suite methods`, where it did not). The scale was chosen so that it does, on a seed that no record "
    "has. All of it is said of this scale alone: small backbones, shortly trained, on small images."
)
SAYS = {"for": "as claimed", "against": "against", "open": MISSING}
UNCORRECTED = "against, but not after correction"


def page(standings: Sequence[Section], records: Path | None = None) -> str | None:
    """Return the page as markdown; None where no two methods were pretrained alike. `records` is the store."""
    every = {scale: _judged(scale, standings, records) for scale in scales(standings)}
    if not every:
        return None
    found = {scale: each for scale, each in every.items() if _is_asked(*each)} or every
    parts = [f"{MARK}# The papers' claims\n\n[All tasks]({OVERVIEW}). {RULE}\n", _summary(found)]
    parts += [_chapter(place, *each) for place, each in enumerate(found.values(), 1)]
    return "\n".join(parts)


def summary(page: str) -> str:
    """Return a page's table of all verdicts, which is before its chapters."""
    lines = page.partition("\n## ")[0].splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("|"))


def _judged(scale: Scale, standings: Sequence[Section], records: Path | None) -> tuple[Replicates, list[Verdict]]:
    replicates = Replicates(scale, standings, curves_of(records))
    told = claims(covered(scale), replicates.blocks)
    return replicates, [verdict(claim, replicates) for claim in told]


def _is_asked(replicates: Replicates, verdicts: Sequence[Verdict]) -> bool:
    """Whether anything could be compared, or at least analysed: else the scale is another question's."""
    judged = [each for told in verdicts for each in told.judged]
    terms = (term for each in judged for term in each.comparison.terms)
    analysed = {t for t in terms if t.score.task.startswith("analysis/") and t.role != SCRATCH}
    return any(not each.missing for each in judged) or any(
        replicates.values(term.role, term.score).by_replicate for term in analysed
    )


def covered(scale: Scale) -> str:
    """The classification whose classes supervised pretraining was taught at a scale."""
    tiny = "tiny-imagenet" in scale.data
    return "classification/tiny-imagenet" if tiny else "classification/scenes"


def _summary(found: dict[Scale, tuple[Replicates, list[Verdict]]]) -> str:
    scales_told = "".join(f"{k}. {escape_cell(scale)}\n" for k, scale in enumerate(found, 1))
    head = ["", "claim", *(f"scale {k}" for k in range(1, len(found) + 1))]
    columns = [verdicts for _, verdicts in found.values()]
    rows = [
        [str(line[0].claim.number), line[0].claim.sentence, *map(_verdict, line)] for line in zip(*columns, strict=True)
    ]
    return f"Scales:\n\n{scales_told}\n{Table(head=head, rows=rows, left=2).markdown()}"


def _verdict(told: Verdict) -> str:
    """The word, and how many comparisons went which way: most that cannot be told are not for want of numbers."""
    says = [each.says for each in told.judged]
    if all(each.missing for each in told.judged):
        why = "n = 1" if any(each.interval for each in told.judged) else "no comparison"
        return f"{told.word} ({why})"
    return f"{told.word} ({says.count('for')} of {len(says)} as claimed, {says.count('against')} against)"


def _chapter(place: int, replicates: Replicates, verdicts: Sequence[Verdict]) -> str:
    head = f"## Scale {place}: {escape_cell(replicates.scale)}\n"
    return "\n".join([head, *(_claim(each, replicates) for each in verdicts)])


def _claim(told: Verdict, replicates: Replicates) -> str:
    claim = told.claim
    parts = [
        f"### {claim.number}. {claim.sentence}\n",
        f"**{told.word[0].upper()}{told.word[1:]}**: {_counts(told)}. {claim.paper}. {claim.measure}\n",
        _means(claim.shown, replicates),
        _comparisons(told, replicates),
    ]
    # Of a single replicate the table says so.
    alone = [each for each in (*told.given, *told.judged) if each.interval is None]
    if missing := list(dict.fromkeys(text for each in alone for text in each.missing)):
        parts += [f"Missing:\n\n{_missing(missing)}"]
    return "\n".join(parts)


def _missing(texts: Sequence[str]) -> str:
    """A line a role."""
    by_role: dict[str, list[str]] = {}
    for role, _, what in (text.partition(": ") for text in texts):
        by_role.setdefault(role, []).append(what)
    return "".join(f"- {escape_cell(role)}: {escape_cell('; '.join(w))}\n" for role, w in by_role.items())


def _counts(told: Verdict) -> str:
    says = [each.says for each in told.judged]
    return (
        f"of {len(says)} comparisons {says.count('for')} are as claimed, {says.count('against')} against"
        f"{', and what is given is not' if any(each.says != 'for' for each in told.given) else ''}"
    )


def _means(scores: Sequence[Score], replicates: Replicates) -> str:
    """A line a role, a column a score: means over replicates, for every role that has one."""
    rows = []
    for role in replicates.roles:
        found = [mean_interval(_values(role, score, replicates)) for score in scores]
        if any(interval.n for interval in found):
            cells = [_mean(i, _decimals(s, replicates)) for i, s in zip(found, scores, strict=True)]
            rows.append([role, *cells])
    return Table(head=["mean", *map(str, scores)], rows=rows, left=1).markdown() if rows else ""


def _values(role: str, score: Score, replicates: Replicates) -> list[float]:
    return list(replicates.values(role, score).by_replicate.values())


def _mean(interval: Interval, digits: int) -> str:
    return f"{number(interval, digits)} (n = {interval.n})" if interval.n else MISSING


def _decimals(score: Score, replicates: Replicates) -> int:
    """2 for percentages and pixels, 4 for small values."""
    every = [v for role in replicates.roles for v in _values(role, score, replicates)]
    return 2 if max(map(abs, every), default=0.0) >= 10 else 4


def _comparisons(told: Verdict, replicates: Replicates) -> str:
    rows = [_row(each, replicates, "given: ") for each in told.given]
    rows += [_row(each, replicates) for each in told.judged]
    return Table(head=["claimed", "by how much", "n", ""], rows=rows, left=1).markdown()


def _row(judged: Judged, replicates: Replicates, before: str = "") -> list[str]:
    label = before + judged.comparison.label
    interval = judged.interval
    if interval is None:
        return [label, MISSING, "0", "missing"]
    digits = _decimals(judged.comparison.terms[0].score, replicates)
    return [label, number(interval, digits), str(interval.n), _says(judged)]


def _says(judged: Judged) -> str:
    """What a comparison says; apart, what only the correction for many leaves open."""
    interval = judged.interval
    if interval is None:
        return "missing"
    if judged.missing:
        return "no interval"
    below = interval.half_width is not None and interval.mean + interval.half_width < 0
    return UNCORRECTED if judged.says == "open" and below else SAYS[judged.says]
