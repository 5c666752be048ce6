"""What the analyses say of each backbone, and how it goes with what the backbone is worth downstream."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from bench.records import Result, weights8
from leaderboards import tables
from leaderboards.standings import Row, Section, mode
from leaderboards.statistics import CONFIDENCE, FEWEST, Correlation, kendall
from leaderboards.tables import (
    MARK,
    MISSING,
    OVERVIEW,
    Column,
    escape_cell,
    html_table,
    inline,
    metric_cell,
    name_cells,
    number_html,
    page_name,
    slug,
    table,
    table_row,
    words,
)

REFERENCE = "reference/"  # metrics of a record that are others' numbers
ENDS = ("_low", "_high")  # of an interval that a record gives beside its number
VALUES = (
    "A cell is a backbone's headline scalar, the mean over its seeds (± the half-width of its 95 % t interval), and "
    "in brackets the interval that its record gives. No end of a scale is the better one."
)
TAU = (
    "Kendall's tau-b between a scalar and a score over the backbones that have both, with its 95 % interval "
    "(Fieller, Hartley & Pearson 1957) and their number n; those pretrained alike but for the seed count once, by "
    "their means. Above 0: backbones with more of the scalar score better (errors are turned round). **Bold** leaves "
    "0 out: of the {count} here, {chance:.0f} would by chance alone if each were by itself."
)
UNTOLD = f"Cannot be told, for want of {FEWEST} backbones that have both"
Name = tuple[str, str]  # a row's backbone and weights


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One number of an analysis, by backbone."""

    section: Section
    metric: str

    @property
    def label(self) -> str:
        """Analysis, protocol and metric."""
        return f"{self.section.task}, {self.section.protocol['name']}, {self.metric}"


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Scalars (lines) with the scores of sections (columns) of one mode; columns that tell nothing are apart."""

    mode: str
    columns: tuple[Section, ...]
    lines: tuple[tuple[Scalar, tuple[Correlation, ...]], ...]
    untold: Mapping[str, int]  # the most backbones that have both, by section


def shown(standings: Iterable[Section]) -> list[Section]:
    """Return the sections that count: current, with numbers, no smoke runs."""
    return [s for s in standings if s.rows and not s.superseded_by and not str(s.protocol["name"]).endswith("-smoke")]


def scalars(section: Section) -> list[Scalar]:
    """Return what an analysis says in one number, the headline first; not layers, classes or ends of intervals."""
    names = {name for row in section.rows for name in row.metrics if not name.endswith(ENDS)}
    ordered = [section.primary, *sorted(names - {section.primary})]
    return [Scalar(section=section, metric=name) for name in ordered if name in names]


def by_backbone(sections: Sequence[Section]) -> dict[Name, list[Row | None]]:
    """Return a backbone's row in each section, None where it has none; sorted by name."""
    found = [{(row.backbone, row.weights8): row for row in section.rows} for section in sections]
    return {name: [rows.get(name) for rows in found] for name in sorted(set().union(*found))}


def references(section: Section) -> dict[str, float]:
    """Return the numbers of others that the section's records hold for reference, the highest first."""
    found = {
        name.removeprefix(REFERENCE): value
        for name, value in (section.results[0].metrics if section.rows else {}).items()
        if name.startswith(REFERENCE)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def headline(section: Section, row: Row | None) -> str:
    """Return a cell: the headline scalar, and the interval that the record gives."""
    if row is None:
        return MISSING
    ends = [row.metrics.get(f"{section.primary}{end}") for end in ENDS]
    text = metric_cell(section, row, section.primary)
    low, high = (f"{end.mean:.3f}" if end else "" for end in ends)
    return f"{text} ({low}\N{EN DASH}{high})" if low and high else text


def correlations(standings: Sequence[Section]) -> list[Correlations]:
    """Correlate every scalar with every downstream score, fine-tuned and frozen apart."""
    known = shown(standings)
    lines = [scalar for section in known if not section.ranked for scalar in scalars(section)]
    found = []
    for kind in ("fine-tuned", "frozen"):
        scores = [s for s in known if s.ranked and mode(s.protocol) == kind]
        if lines and scores:
            found += [_correlations(kind, lines, scores)]
    return found


def _correlations(kind: str, lines: Sequence[Scalar], scores: Sequence[Section]) -> Correlations:
    columns = [[correlate(scalar, score) for scalar in lines] for score in scores]
    told = [any(c.n >= FEWEST for c in column) for column in columns]
    kept = [column for column, tells in zip(columns, told, strict=True) if tells]
    return Correlations(
        mode=kind,
        columns=tuple(s for s, tells in zip(scores, told, strict=True) if tells),
        lines=tuple((scalar, tuple(c[i] for c in kept)) for i, scalar in enumerate(lines)),
        untold={
            f"{s.task} {s.protocol['name']}": max(c.n for c in column)
            for s, column, tells in zip(scores, columns, told, strict=True)
            if not tells
        },
    )


def tau_note(found: Sequence[Correlations]) -> str:
    """Return what a reader has to know of the correlations, with how many there are."""
    count = sum(c.told for table in found for _, line in table.lines for c in line)
    return TAU.format(count=count, chance=count * (1 - CONFIDENCE))


def correlate(scalar: Scalar, score: Section) -> Correlation:
    """Correlate a scalar with a section's primary metric, turned so that more is better.

    Replicates are one backbone: their means stand for them, or their likeness would pass for evidence.
    """
    sign = 1 if score.higher_is_better else -1
    scores = {(r.backbone, r.weights8): r.metrics.get(score.primary) for r in score.rows}
    alike: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in scalar.section.rows:
        one, two = row.metrics.get(scalar.metric), scores.get((row.backbone, row.weights8))
        if one and two:
            alike[row.made_by].append((one.mean, sign * two.mean))
    means = [[fmean(column) for column in zip(*alike[name], strict=True)] for name in sorted(alike)]
    return kendall([one for one, _ in means], [two for _, two in means])


def tau_cell(found: Correlation) -> str:
    """Return `tau (low to high), n`; a dash where nothing can be told."""
    if not found.told:
        why = "constant" if found.n >= FEWEST else "too few"
        return f"{MISSING} ({why}, n = {found.n})"
    text = f"{found.tau:+.2f} ({found.low:+.2f} to {found.high:+.2f}), n = {found.n}"
    return f"**{text}**" if found.excludes_zero else text


def page(standings: Sequence[Section], pictures: Mapping[Path, Result], out: Path) -> str | None:
    """Return the page as markdown, None without an analysis; `pictures` are linked as seen from `out`."""
    sections = [s for s in shown(standings) if not s.ranked]
    if not sections:
        return None
    parts = [f"{MARK}# Analyses\n\n[All tasks]({OVERVIEW}). {VALUES}\n", _values(sections)]
    if listed := _pictures(sections, pictures, out):
        parts += [f"## Pictures\n\n{listed}"]
    if found := correlations(standings):
        head = f"## Correlation with downstream scores\n\n{tau_note(found)}\n"
        parts += [head, *map(_tau_table, found)]
    return "\n".join(parts)


def _values(sections: Sequence[Section]) -> str:
    head = ["backbone", "method", "weights"]
    head += [
        f"[{s.task}]({page_name(s.task)}) {escape_cell(s.protocol['name'])} {escape_cell(s.primary)}" for s in sections
    ]
    lines = []
    for rows in by_backbone(sections).values():
        cells = [headline(s, row) for s, row in zip(sections, rows, strict=True)]
        lines += [[*name_cells(next(filter(None, rows))), *cells]]
    for section in sections:
        for name, value in references(section).items():
            cells = [f"{value:.4f}" if s is section else MISSING for s in sections]
            lines += [[escape_cell(name), "for reference", MISSING, *cells]]
    return table(head, lines, left=3)


def _pictures(sections: Sequence[Section], pictures: Mapping[Path, Result], out: Path) -> str:
    """A line a backbone."""
    lines: dict[str, list[str]] = {}
    digests = {section.digest for section in sections}
    for path, result in pictures.items():
        if result.digest not in digests:
            continue
        name = f"{result.backbone['name']}@{weights8(result.backbone)}"
        what = path.stem.partition(f"-seed{result.seed}")[2].lstrip("-.") or "picture"
        told = f"{result.task} {result.protocol['name']}: {what}, seed {result.seed}"
        link = quote(Path(os.path.relpath(path, out)).as_posix())
        lines.setdefault(name, []).append(f"[{escape_cell(told)}]({link})")
    return "".join(f"- {escape_cell(name)}: {', '.join(links)}\n" for name, links in sorted(lines.items()))


def _tau_table(found: Correlations) -> str:
    parts = [f"### {found.mode.capitalize()} backbones\n"]
    if found.columns:
        head = ["scalar"] + [
            f"[{s.task}]({page_name(s.task)}) {escape_cell(s.protocol['name'])} {escape_cell(s.primary)}"
            for s in found.columns
        ]
        parts += [table(head, [[escape_cell(s.label), *map(tau_cell, line)] for s, line in found.lines], left=1)]
    if found.untold:
        listed = ", ".join(f"{escape_cell(name)} (n = {n})" for name, n in found.untold.items())
        parts += [f"{UNTOLD}: {listed}.\n"]
    return "\n".join(parts)


# The web page's chapter on analyses, as HTML: scalars by backbone, and their correlation with scores.

NAMES = (Column(name="backbone", sorted="ascending"), Column(name="method"), Column(name="weights"))


def chapter(standings: Sequence[Section]) -> str:
    """Return the chapter; "" where there is no analysis."""
    sections = [s for s in shown(standings) if not s.ranked]
    if not sections:
        return ""
    found = correlations(standings)
    head = '<h3 id="analyses-correlation">Correlation with downstream scores</h3>\n'
    notes = f'{head}<p class="prose note">{inline(tau_note(found))}</p>\n' if found else ""
    return (
        f'<p class="prose note">{inline(VALUES)}</p>\n{_values_html(sections)}{notes}'
        f"{''.join(map(_correlations_html, found))}"
    )


def _values_html(sections: Sequence[Section]) -> str:
    heads = [*NAMES, *(_head(s, task=s.task) for s in sections)]
    lines = []
    for rows in by_backbone(sections).values():
        cells = [_cell(s, row) for s, row in zip(sections, rows, strict=True)]
        row = next(filter(None, rows))
        names = [words(tables.escape_cell(row.method) or MISSING), words(f"`{row.weights8}`")]
        search = f"{row.backbone} {row.method} {row.weights8}"
        lines.append(table_row(row.backbone, [*names, *cells], search))
    for section in sections:
        for name, value in references(section).items():
            cells = [
                number_html(f"{value:.4f}", value) if s is section else number_html(MISSING, None) for s in sections
            ]
            names = [words("for reference"), words(MISSING)]
            lines.append(table_row(name, [*names, *cells], f"{name} reference"))
    return html_table("analyses-values", "Analyses by backbone", heads, lines, "overview")


def _head(section: Section, task: str = "") -> Column:
    protocol = f"<small>{escape(str(section.protocol['name']))}</small>"
    name = f"{escape(section.task)}{protocol}{escape(section.primary)}"
    return Column(name=name, kind="number", first="descending", task=task)


def _cell(section: Section, row: Row | None) -> str:
    interval = row.metrics.get(section.primary) if row else None
    return number_html(headline(section, row), interval.mean if interval else None)


def _correlations_html(found: Correlations) -> str:
    title = f"{found.mode.capitalize()} backbones"
    parts = [f'<section class="filtered" data-mode="{found.mode}">\n<h4>{title}</h4>\n']
    if found.columns:
        heads = [Column(name="scalar"), *(_head(s) for s in found.columns)]
        lines = [
            table_row(s.label, [number_html(tau_cell(c), c.tau) for c in line], s.label) for s, line in found.lines
        ]
        ident = slug("analyses", found.mode)
        parts.append(html_table(ident, f"Kendall's tau-b, {found.mode}", heads, lines))
    if found.untold:
        listed = ", ".join(f"{name} (n = {n})" for name, n in found.untold.items())
        parts.append(f'<p class="prose note">{escape(f"{UNTOLD}: {listed}.")}</p>\n')
    return "".join([*parts, "</section>\n"])
