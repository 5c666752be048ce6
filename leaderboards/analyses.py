"""The page of analyses: each backbone's scalars, and their correlation with its downstream scores."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from bench.records import Result, weights8
from leaderboards.standings import Row, Section, by_backbone, mode
from leaderboards.statistics import CONFIDENCE, FEWEST, Correlation, kendall
from leaderboards.tables import (
    MARK,
    MISSING,
    OVERVIEW,
    Cell,
    Column,
    Table,
    escape_cell,
    metric_cell,
    name_cells,
    name_columns,
    section_column,
)

REFERENCE = "reference/"  # prefix of metrics in a record that others published
ENDS = ("_low", "_high")  # suffixes of the ends of an interval that a record gives
VALUES = (
    "A cell is a backbone's headline scalar: the mean over its seeds (± the half-width of its 95 % t interval), and in "
    "brackets the interval that its record gives. Neither end of a scale is better."
)
TAU = (
    "Kendall's tau-b between a scalar and a score over the n backbones that have both, with its 95 % interval "
    "(Fieller, Hartley & Pearson 1957). Backbones that differ only in their pretraining seed count as one, with their "
    "mean values. Above 0, backbones with a larger scalar score better (the sign of errors is reversed). **Bold** "
    "excludes 0: of the {count} intervals here, {chance:.0f} would exclude 0 by chance if they were independent."
)
TOO_FEW = f"Not computed, since fewer than {FEWEST} backbones have both"


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A metric of an analysis that is one number per backbone."""

    section: Section
    metric: str

    @property
    def label(self) -> str:
        """Analysis, protocol and metric."""
        return f"{self.section.task}, {self.section.protocol['name']}, {self.metric}"


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Correlations of scalars (lines) with the scores of sections (columns) of one mode.

    `too_few` has the sections without a correlation: the largest number of backbones that have both.
    """

    mode: str
    columns: tuple[Section, ...]
    lines: tuple[tuple[Scalar, tuple[Correlation, ...]], ...]
    too_few: Mapping[str, int]


def shown(standings: Iterable[Section]) -> list[Section]:
    """Return the current sections with numbers, without smoke runs."""
    return [s for s in standings if s.is_current and not str(s.protocol["name"]).endswith("-smoke")]


def scalars(section: Section) -> list[Scalar]:
    """Return an analysis's scalars, the headline first: not layers, classes or ends of intervals."""
    names = {name for row in section.rows for name in row.metrics if not name.endswith(ENDS)}
    ordered = sorted(names, key=lambda name: (name != section.primary, name))
    return [Scalar(section=section, metric=name) for name in ordered]


def references(section: Section) -> dict[str, float]:
    """Return the published numbers that the section's records contain for reference, the highest first."""
    metrics = section.results[0].metrics if section.rows else {}
    found = [(name.removeprefix(REFERENCE), x) for name, x in metrics.items() if name.startswith(REFERENCE)]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def headline(section: Section, row: Row | None) -> Cell:
    """Return a cell: the headline scalar, and the interval that the record gives."""
    if row is None:
        return Cell(text=MISSING)
    ends = [row.metrics.get(f"{section.primary}{end}") for end in ENDS]
    cell = metric_cell(section, row, section.primary)
    low, high = (f"{end.mean:.3f}" if end else "" for end in ends)
    return replace(cell, text=f"{cell.text} ({low}\N{EN DASH}{high})") if low and high else cell


def correlations(standings: Sequence[Section]) -> list[Correlations]:
    """Correlate every scalar with every downstream score, separately for fine-tuned and frozen backbones."""
    known = shown(standings)
    lines = [scalar for section in known if not section.ranked for scalar in scalars(section)]
    scores = {kind: [s for s in known if s.ranked and mode(s.protocol) == kind] for kind in ("fine-tuned", "frozen")}
    return [_correlations(kind, lines, own) for kind, own in scores.items() if lines and own]


def _correlations(kind: str, lines: Sequence[Scalar], scores: Sequence[Section]) -> Correlations:
    columns = [(score, [correlate(scalar, score) for scalar in lines]) for score in scores]
    largest = [max(found.n for found in column) for _, column in columns]
    known = [column for column, n in zip(columns, largest, strict=True) if n >= FEWEST]
    return Correlations(
        mode=kind,
        columns=tuple(score for score, _ in known),
        lines=tuple((scalar, tuple(column[i] for _, column in known)) for i, scalar in enumerate(lines)),
        too_few={f"{s.task} {s.protocol['name']}": n for s, n in zip(scores, largest, strict=True) if n < FEWEST},
    )


def tau_note(found: Sequence[Correlations]) -> str:
    """Return the note that explains the correlations, with their number."""
    count = sum(c.known for table in found for _, line in table.lines for c in line)
    return TAU.format(count=count, chance=count * (1 - CONFIDENCE))


def correlate(scalar: Scalar, score: Section) -> Correlation:
    """Correlate a scalar with a section's primary metric, with the sign that makes higher better.

    Replicates count as one backbone with their mean values: they resemble each other, so counting each would overstate
    the evidence.
    """
    sign = 1 if score.higher_is_better else -1
    scores = {r.key: r.metrics.get(score.primary) for r in score.rows}
    replicates = defaultdict(list)
    for row in scalar.section.rows:
        one, two = row.metrics.get(scalar.metric), scores.get(row.key)
        if one and two:
            replicates[row.replicate_key].append((one.mean, sign * two.mean))
    means = [[fmean(column) for column in zip(*replicates[name], strict=True)] for name in sorted(replicates)]
    return kendall([one for one, _ in means], [two for _, two in means])


def tau_cell(found: Correlation) -> Cell:
    """Return `tau (low to high), n`; a dash if tau is unknown."""
    if not found.known:
        why = "constant" if found.n >= FEWEST else "too few"
        return Cell(text=f"{MISSING} ({why}, n = {found.n})", value=found.tau)
    text = f"{found.tau:+.2f} ({found.low:+.2f} to {found.high:+.2f}), n = {found.n}"
    return Cell(text=f"**{text}**" if found.excludes_zero else text, value=found.tau)


def page(standings: Sequence[Section], pictures: Mapping[Path, Result], out: Path) -> str | None:
    """Return the page as markdown, None without an analysis; `pictures` are linked relative to `out`."""
    sections = [s for s in shown(standings) if not s.ranked]
    if not sections:
        return None
    parts = [f"{MARK}# Analyses\n\n[All tasks]({OVERVIEW}). {VALUES}\n", values_table(sections).markdown()]
    if listed := _pictures(sections, pictures, out):
        parts += [f"## Pictures\n\n{listed}"]
    if found := correlations(standings):
        parts += [f"## Correlation with downstream scores\n\n{tau_note(found)}\n"]
    for table in found:
        parts += [f"### {table.mode.capitalize()} backbones\n"]
        parts += [tau_table(table).markdown()] if table.columns else []
        listed = ", ".join(f"{escape_cell(name)} (n = {n})" for name, n in table.too_few.items())
        parts += [f"{TOO_FEW}: {listed}.\n"] if listed else []
    return "\n".join(parts)


def values_table(sections: Sequence[Section]) -> Table:
    """Return the headline scalars: backbones, and published numbers for reference, by analyses."""
    columns = [section_column(s, escape_cell(s.primary), task=s.task) for s in sections]
    lines: list[list[Cell | str]] = []
    for rows in by_backbone(sections).values():
        cells = [headline(s, row) for s, row in zip(sections, rows, strict=True)]
        lines.append([*name_cells(next(filter(None, rows))), *cells])
    for section in sections:
        for name, value in references(section).items():
            known = Cell(text=f"{value:.4f}", value=value)
            found = [known if s is section else MISSING for s in sections]
            lines.append([escape_cell(name), "for reference", MISSING, *found])
    return Table(head=[*name_columns("ascending"), *columns], rows=lines, left=3)


def tau_table(found: Correlations) -> Table:
    """Return the correlations: scalars by scores."""
    head: list[Column | str] = ["scalar", *(section_column(s, escape_cell(s.primary)) for s in found.columns)]
    rows: list[list[Cell | str]] = [[escape_cell(scalar.label), *map(tau_cell, line)] for scalar, line in found.lines]
    return Table(head=head, rows=rows, left=1)


def _pictures(sections: Sequence[Section], pictures: Mapping[Path, Result], out: Path) -> str:
    """Return one line of links for each backbone."""
    lines: dict[str, list[str]] = {}
    digests = {section.digest for section in sections}
    for path, result in pictures.items():
        if result.digest not in digests:
            continue
        name = f"{result.backbone['name']}@{weights8(result.backbone)}"
        what = path.stem.partition(f"-seed{result.seed}")[2].lstrip("-.") or "picture"
        label = f"{result.task} {result.protocol['name']}: {what}, seed {result.seed}"
        link = quote(Path(os.path.relpath(path, out)).as_posix())
        lines.setdefault(name, []).append(f"[{escape_cell(label)}]({link})")
    return "".join(f"- {escape_cell(name)}: {', '.join(links)}\n" for name, links in sorted(lines.items()))
