"""Leaderboards from records: a page per task and an overview, as markdown.

python -m leaderboards.render [--results DIR] [--out DIR] [--extract README.md] [--check] [--print]
"""

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bench import processes
from bench.errors import UserError
from bench.files import write_atomic
from bench.processes import keep_memory
from bench.records import Result
from leaderboards import analyses, claims_page, export, published, web_page
from leaderboards import pages as few_images
from leaderboards.overview import overview
from leaderboards.pages import cards, task_pages
from leaderboards.published import Published
from leaderboards.replicates import compared
from leaderboards.standings import MANY, Section, read
from leaderboards.tables import ANALYSES, CLAIMS, MARK, OVERVIEW, card_name, table

HERE = Path(__file__).parent
PUBLISHED = HERE / "published.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 (stale page or unreadable record) or 2 (wrong request)."""
    args = _parser().parse_args(argv)
    try:
        return _render(args)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(  # noqa: T201
            f"{error.filename}: {error.strerror}. Give another folder with --out DIR, or mend this.", file=sys.stderr
        )
    return 2


def _render(args: argparse.Namespace) -> int:
    found, numbers = read(args.results), published.load(args.published)
    pages = all_pages(found.standings, numbers, found.pictures, args.out, args.results)
    stale = stale_pages(pages, args.out)
    without = {card_name(row) for row in compared(found.standings)} if args.extract else set()
    extracts = {path: put(path, pages, args.out, without) for path in args.extract}
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
    out: Path = HERE,
    records: Path | None = None,
) -> dict[str, str]:
    """Return every page as file name -> markdown: the overview, one a task, one a backbone, and what else there is.

    `pictures`, that lie beside records, are linked as seen from `out`; curves are read from the store `records`.
    """
    elsewhere = published.page(numbers)
    jobs: list[Callable[[], Mapping[str, str | None]]] = [
        lambda: {OVERVIEW: overview(standings, published.PAGE if elsewhere else None)},
        lambda: task_pages(standings, numbers),
        lambda: cards(standings),
        lambda: {few_images.PAGE: few_images.page(standings), published.PAGE: elsewhere},
        lambda: {ANALYSES: analyses.page(standings, pictures, out)},
        lambda: {CLAIMS: claims_page.page(standings, records)},
    ]
    found = processes.each(jobs, alone=sum(len(section.rows) for section in standings) < MANY)
    return {name: text for pages in found for name, text in pages.items() if text}


def stale_pages(pages: Mapping[str, str], out: Path) -> list[str]:
    """List the pages of `out` that are missing, differ, or are of a task without records."""
    found = {path.name: path.read_bytes() for path in out.glob("*.md")}
    ours = {name for name, text in found.items() if text.startswith(MARK.encode())}
    changed = {name for name, text in pages.items() if found.get(name) != text.encode()}
    return sorted(changed | ours - set(pages))


def write(pages: Mapping[str, str], stale: Sequence[str], out: Path) -> None:
    """Write the stale pages, delete those without records; raises UserError at a foreign file."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / name for name in stale):
        if path.exists() and not path.read_bytes().startswith(MARK.encode()):
            raise UserError(
                f"{path} was not written by this command and would be lost. "
                f"Give another folder with --out DIR, or move that file."
            )
    for name in stale:
        if name in pages:
            # Half a page, left by a kill, would lack its mark and be taken for the user's own.
            temporary = out / f".{name}.part"
            temporary.write_text(pages[name], encoding="utf-8", newline="\n")
            temporary.replace(out / name)
        else:
            (out / name).unlink()


def print_page(page: str) -> None:
    """Print a page: drawn on a terminal, as it is into a pipe."""
    text = page.removeprefix(MARK)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m leaderboards.render", description="Markdown tables from records.")
    add = parser.add_argument
    add("--results", type=Path, default=HERE / "results", metavar="DIR", help="records to read")
    add("--out", type=Path, default=HERE, metavar="DIR", help="folder of the pages")
    add("--published", type=Path, default=PUBLISHED, metavar="FILE", help="numbers of others")
    add(
        "--extract",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.md",
        help="also put the overview's tables, without the backbones that the claims compare, between its marks, "
        "<!-- tables --> and <!-- /tables -->, and the claims' verdicts between <!-- claims --> and <!-- /claims -->",
    )
    add("--csv", type=Path, metavar="FILE", help="also every number as CSV")
    add("--latex", type=Path, metavar="DIR", help="also a file of LaTeX tables (booktabs) a task")
    add("--html", type=Path, metavar="DIR", help="also one web page, with plots; needs no network")
    add("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    add("--print", action="store_true", help="also print the overview to the terminal")
    return parser


# The overview's tables and the claims' verdicts inside another file, a README, between marks.

TABLES, VERDICTS = ("tables", "claims")  # <!-- tables --> and <!-- /tables -->: what is between them is replaced
CARD = re.compile(r"\]\((backbone-[^)]+\.md)\)")


def put(path: Path, pages: Mapping[str, str], out: Path, without: Collection[str] = ()) -> str:
    """Return the file's text with what belongs between its marks, links leading from the file to `out`.

    Rows of the backbones whose pages are in `without` are left out, and how many they are is said. Marks of the
    claims may be left out. Raises UserError where the file has not each mark of the tables once.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--extract {path} cannot be read: {error}. Give a markdown file.") from None
    folder = os.path.relpath(out.resolve(), path.resolve().parent).replace(os.sep, "/")
    text = _replaced(path, text, TABLES, _tables(pages[OVERVIEW], folder, without))
    if any(mark in text for mark in _marks(VERDICTS)):
        text = _replaced(path, text, VERDICTS, _verdicts(pages.get(CLAIMS, "")))
    return text


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- /{name} -->\n"


def _replaced(path: Path, text: str, name: str, by: str) -> str:
    start, end = _marks(name)
    if text.count(start) != 1 or text.count(end) != 1:
        raise UserError(
            f"--extract {path} must have the lines {start.strip()} and {end.strip()} once each: what is between them "
            f"is replaced by the {name}. Add them where the {name} belong."
        )
    before, _, rest = text.partition(start)
    return f"{before}{start}{by}{end}{rest.partition(end)[2]}"


def _verdicts(page: str) -> str:
    """The table of all claims, which stands before the chapters."""
    lines = page.partition("\n## ")[0].splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("|"))


def _tables(overview: str, folder: str, without: Collection[str]) -> str:
    """The sections that hold tables, with their titles in bold."""
    parts, left_out = [], set()
    for section in overview.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        pages = {line: found[1] for line in lines if (found := CARD.search(line))}
        left_out |= set(pages.values()) & set(without)
        if kept := [line for line in lines if pages.get(line) not in without]:
            parts.append(f"**{title}**\n\n{_moved(kept, folder)}")
    if left_out:
        whole = f"[the overview]({folder}/{OVERVIEW})"
        parts.append(f"Of the backbones whose methods are compared, {len(left_out)} are in {whole} alone.\n")
    return "\n".join(parts)


def _moved(lines: Sequence[str], folder: str) -> str:
    """A table with its links led to the folder, aligned again."""
    led = [re.sub(r"\]\((?=[^)]+\.md\))", f"]({folder}/", line) for line in lines]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in led]
    return table(cells[0], cells[2:], left=3)


if __name__ == "__main__":
    keep_memory()  # ranks are compared block by block
    gc.disable()  # a hundred thousand records make no garbage, and are looked through for it again and again
    sys.exit(main())
