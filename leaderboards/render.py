"""Render records as leaderboards: an overview, a page per task and further pages, as markdown.

python -m leaderboards.render [--results DIR] [--out DIR] [--extract README.md] [--check] [--print]
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bench import processes
from bench.errors import UserError
from bench.files import write_atomic
from bench.processes import keep_memory
from bench.records import Result
from leaderboards import analyses, claims_page, export, published, web_page
from leaderboards.pages import FEW_IMAGES, cards, few_images_page, overview, task_pages
from leaderboards.published import Published
from leaderboards.standings import MANY, Row, Section, read
from leaderboards.tables import ANALYSES, CLAIMS, MARK, OVERVIEW, Table, arrow, decimals, escape_cell, number

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BOARDS = HERE / "boards"
PUBLISHED = HERE / "published.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 (stale page or unreadable record) or 2 (wrong request)."""
    args = _parser().parse_args(argv)
    try:
        return _render(args)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        print(f"{what}. Give another folder with --out DIR, or fix this one.", file=sys.stderr)  # noqa: T201
    return 2


def _render(args: argparse.Namespace) -> int:
    found, numbers = read(args.results), published.load(args.published)
    pages = all_pages(found.standings, numbers, found.pictures, args.out, args.results)
    stale = stale_pages(pages, args.out)
    verdicts = claims_page.summary(pages.get(CLAIMS, ""))
    extracts = {path: put(path, found.standings, args.out, verdicts) for path in args.extract}
    old = [path for path, text in extracts.items() if path.read_text("utf-8") != text]
    if args.check:
        lines = [f"stale: {path}" for path in [*(args.out / name for name in stale), *old]]
    else:
        write(pages, stale, args.out)
        for path in old:
            write_atomic(path, extracts[path])
        lines = [f"records: {found.records}, pages: {len(pages)}, overview: {args.out / OVERVIEW}"]
    if args.csv:
        export.write_csv(found.standings, args.csv)
    if args.latex:
        export.write_latex(found.standings, args.latex)
    if args.html:
        web_page.write(found.standings, numbers, args.html, found.pictures)
    if args.print:
        print_page(pages[OVERVIEW])
    for line in lines:
        print(line)  # noqa: T201
    for message in found.broken:
        print(message, file=sys.stderr)  # noqa: T201
    return 1 if found.broken or (args.check and (stale or old)) else 0


def all_pages(
    standings: Sequence[Section],
    numbers: Sequence[Published] = (),
    pictures: Mapping[Path, Result] = MappingProxyType({}),
    out: Path = BOARDS,
    records: Path | None = None,
) -> dict[str, str]:
    """Return all pages as file name -> markdown.

    Pictures next to records are linked relative to `out`, the folder of the pages; `records` is the store, for the
    curves that the claims need.
    """
    elsewhere = published.page(numbers)
    jobs: list[Callable[[], Mapping[str, str | None]]] = [
        lambda: {OVERVIEW: overview(standings, published.PAGE if elsewhere else None)},
        lambda: task_pages(standings, numbers),
        lambda: cards(standings),
        lambda: {FEW_IMAGES: few_images_page(standings), published.PAGE: elsewhere},
        lambda: {ANALYSES: analyses.page(standings, pictures, out)},
        lambda: {CLAIMS: claims_page.page(standings, records)},
    ]
    found = processes.each(jobs, alone=sum(len(section.rows) for section in standings) < MANY)
    return {name: text for pages in found for name, text in pages.items() if text}


def stale_pages(pages: Mapping[str, str], out: Path) -> list[str]:
    """List the pages of `out` that are missing, differ, or have no records any more."""
    found = {path.name: path.read_bytes() for path in out.glob("*.md")}
    ours = {name for name, text in found.items() if text.startswith(MARK.encode())}
    changed = {name for name, text in pages.items() if found.get(name) != text.encode()}
    return sorted(changed | ours - set(pages))


def write(pages: Mapping[str, str], stale: Sequence[str], out: Path) -> None:
    """Write the stale pages and delete those without records; raises UserError for a file of the user's own."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / name for name in stale):
        if path.exists() and not path.read_bytes().startswith(MARK.encode()):
            raise UserError(
                f"{path} was not written by this command and would be overwritten. "
                f"Give another folder with --out DIR, or move that file."
            )
    for name in stale:
        if name in pages:
            # Atomic: a partial page left by a killed process would be taken for a file of the user's own.
            write_atomic(out / name, pages[name], sync=False)
        else:
            (out / name).unlink()


def print_page(page: str) -> None:
    """Print a page: formatted on a terminal, as markdown into a pipe."""
    text = page.removeprefix(MARK)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leaderboards.render", description="Render the records of all runs as leaderboards in markdown."
    )
    add = parser.add_argument
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="records to read (default: leaderboards/results)")
    add("--out", type=Path, default=BOARDS, metavar="DIR", help="folder of the pages (default: leaderboards/boards)")
    numbers = "TOML file of published numbers (default: leaderboards/published.toml)"
    add("--published", type=Path, default=PUBLISHED, metavar="FILE", help=numbers)
    extract = (
        "also write a small table into this file, between the lines <!-- tables --> and <!-- /tables -->, and if it "
        "has the lines <!-- claims --> and <!-- /claims -->, the verdicts on the claims; repeatable (default: none)"
    )
    add("--extract", type=Path, action="append", default=[], metavar="FILE.md", help=extract)
    add("--csv", type=Path, metavar="FILE", help="also write every number to this CSV file (default: none)")
    add("--latex", type=Path, metavar="DIR", help="also write LaTeX tables, a file per task (default: none)")
    add("--html", type=Path, metavar="DIR", help="also write a web page with plots; works offline (default: none)")
    add("--check", action="store_true", help="write no pages; exit with status 1 if a page is missing or out of date")
    add("--print", action="store_true", help="also print the overview to the terminal")
    return parser


# A small table and the claims' verdicts between marks in another file, such as a README.

MAX_WIDTH = 120  # characters in a line; intervals are dropped from wider tables
MAX_ROWS = 8
TABLES, VERDICTS = "tables", "claims"  # the text between <!-- tables --> and <!-- /tables --> is replaced


def put(path: Path, standings: Sequence[Section], out: Path, verdicts: str = "") -> str:
    """Return the file's text with the extract between its marks, linked to the overview in `out`.

    `verdicts` goes between the marks of the claims, which are optional. Raises UserError unless the file has each
    mark of the tables once.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--extract {path} cannot be read: {error}. Give a markdown file.") from None
    folder = os.path.relpath(out.resolve(), path.resolve().parent).replace(os.sep, "/")
    text = _replaced(path, text, TABLES, extract(standings, f"[{folder}/]({folder}/{OVERVIEW})"))
    if f"<!-- {VERDICTS} -->\n" in text or f"<!-- /{VERDICTS} -->\n" in text:
        text = _replaced(path, text, VERDICTS, verdicts)
    return text


def _replaced(path: Path, text: str, name: str, by: str) -> str:
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    if text.count(start) != 1 or text.count(end) != 1:
        raise UserError(
            f"--extract {path} must contain the lines {start.strip()} and {end.strip()} exactly once: the text between "
            f"them is replaced by the {name}. Add both lines where the {name} belong."
        )
    before, _, rest = text.partition(start)
    return f"{before}{start}{by}{end}{rest.partition(end)[2]}"


def extract(standings: Sequence[Section], link: str) -> str:
    """Return a small table of the backbones that have every family's `finetune` result on the embedded world.

    Only backbones that have a card are in it, the best mean place first. `link` leads to the overview.
    """
    current = (s for s in standings if s.is_current and s.ranked)
    found = [s for s in current if s.protocol["name"] == "finetune" and s.task.endswith("/scenes")]
    by_name = [{row.key: row for row in s.rows if row.has_card} for s in found]
    complete = set.intersection(*map(set, by_name)) if by_name else set()
    if not complete:
        return f"No backbone has been fine-tuned in every family of the embedded world yet. All results: {link}.\n"
    places = {name: sum([*rows].index(name) for rows in by_name) for name in complete}
    names = sorted(complete, key=lambda name: (places[name], name))[:MAX_ROWS]
    rows = [[by_key[name] for by_key in by_name] for name in names]
    table = _short_table(found, rows, intervals=True)
    if len(table.partition("\n")[0]) > MAX_WIDTH:
        table = _short_table(found, rows, intervals=False)
    return (
        f"{table}\nFine-tuned on the embedded world; the columns are {', '.join(map(arrow, found))}.\n"
        "**Bold** is the best mean of the column; ± is the 95 % interval over seeds (none for a single seed).\n"
        f"All results: {link}.\n"
    )


def _short_table(sections: Sequence[Section], rows: Sequence[Sequence[Row]], *, intervals: bool) -> str:
    """Return a table of backbones by sections."""
    columns = []
    for section, column in zip(sections, zip(*rows, strict=True), strict=True):
        best, digits = min(map(section.rows.index, column)), decimals(section, section.primary)
        shown = [row.metrics[section.primary] for row in column]
        shown = shown if intervals else [replace(interval, half_width=None) for interval in shown]
        texts = [number(interval, digits) for interval in shown]
        columns.append([f"**{t}**" if row is section.rows[best] else t for row, t in zip(column, texts, strict=True)])
    head = ["backbone", *(section.task.partition("/")[0] for section in sections)]
    names = [escape_cell(row.backbone) for row, *_ in rows]
    return Table(head=head, rows=list(zip(names, *columns, strict=True)), left=1).markdown()


if __name__ == "__main__":
    keep_memory()  # ranks are computed in blocks whose arrays are reused
    gc.disable()  # a hundred thousand records make no garbage, but every collection would scan them
    sys.exit(main())
