"""The leaderboards as one web page: tables to sort and to filter, a scatter plot, the pictures of analyses.

`index.html` holds its style, script and data, asks no server for anything, and opens from a folder. Its cells are
those of the markdown; equal records give equal bytes.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from types import MappingProxyType
from urllib.parse import quote

from bench.errors import UserError
from bench.results import Result, write_atomic
from leaderboards import analysis_chapter, chapters
from leaderboards.markdown import LEGEND, MARK
from leaderboards.markup import bullets, inline, slug
from leaderboards.measures import scatter_data
from leaderboards.overview import REPRODUCE
from leaderboards.published import TITLE, Published
from leaderboards.standings import Section

PAGE = "index.html"
PICTURES = "pictures"
ASSETS = Path(__file__).with_suffix("")
SCRIPTS = ("tables.js", "scatter.js")  # in one module: the second draws what the first filters


def write(
    standings: Sequence[Section],
    published: Sequence[Published],
    out: Path,
    pictures: Mapping[Path, Result] = MappingProxyType({}),
) -> list[Path]:
    """Write the page, and copy the `pictures`, each of a record; returns the files.

    Raises UserError where `out` holds an index.html that this did not write.
    """
    page = out / PAGE
    if page.exists() and MARK not in page.read_text("utf-8", errors="replace")[:200]:
        raise UserError(
            f"{page} was not written by this command and would be lost. "
            f"Give another folder with --html DIR, or move that file."
        )
    copies = [out / picture_place(path) for path in pictures]
    for folder in {out, *(copy.parent for copy in copies)}:
        folder.mkdir(parents=True, exist_ok=True)
    for path, copy in zip(pictures, copies, strict=True):
        shutil.copyfile(path, copy)
    write_atomic(page, html(standings, published, pictures))
    return [page, *copies]


def picture_place(path: Path) -> Path:
    """Return a picture's place in the page's folder, which keeps its place among the records."""
    return Path(PICTURES, *path.parts[-4:])


def html(
    standings: Sequence[Section],
    published: Sequence[Published] = (),
    pictures: Mapping[Path, Result] = MappingProxyType({}),
) -> str:
    """Return the page as one text."""
    tasks = sorted({section.task for section in standings})
    data, plot = scatter_data(standings), (ASSETS / "scatter.html").read_text("utf-8")
    parts = {
        ("overview", "Overview"): chapters.overview(standings),
        ("analyses", "Analyses"): analysis_chapter.chapter(standings),
        ("scatter", "One measure against another"): plot if data["measures"] else "",
        ("tasks", "Tasks"): chapters.tasks(standings),
        ("published", TITLE): chapters.published(published),
        ("failed", "Failed runs"): chapters.failed(standings),
        ("superseded", "Superseded"): chapters.superseded(standings),
        ("pictures", "Pictures of analyses"): _figures(pictures),
    }
    links = [(ident, title) for (ident, title), body in parts.items() if body]
    return Template((ASSETS / "index.html").read_text("utf-8")).substitute(
        mark=MARK.strip(),
        style=(ASSETS / "style.css").read_text("utf-8"),
        script="".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS),
        legend=inline(LEGEND),
        contents=_contents(links) + _contents((slug("task", task), task) for task in tasks),
        tasks=_options({*tasks, *(number.task for number in published)}),
        main="".join(_chapter(ident, title, body) for (ident, title), body in parts.items()),
        reproduce=inline(REPRODUCE),
        data=_embedded(data),
    )


def _contents(links: Iterable[tuple[str, str]]) -> str:
    return bullets(
        (f'<a href="#{ident}">{escape(title)}</a>' for ident, title in links), "contents"
    )


def _options(tasks: Iterable[str]) -> str:
    return "".join(f"<option>{escape(task)}</option>\n" for task in sorted(tasks))


def _chapter(ident: str, title: str, body: str) -> str:
    head = f'<section id="{ident}" aria-labelledby="{ident}-title">\n<h2 id="{ident}-title">{title}</h2>\n'
    return f"{head}{body}</section>\n" if body else ""


def _figures(pictures: Mapping[Path, Result]) -> str:
    return "".join(_figure(path, result) for path, result in pictures.items())


def _figure(path: Path, result: Result) -> str:
    subject = re.sub(r"[-_.]+", " ", path.stem.partition("-seed")[2].lstrip("0123456789")).strip()
    run = (
        f"{result.backbone['name']} on {result.task}, {result.protocol['name']}, seed {result.seed}"
    )
    told = f"{subject or 'Picture'} of {run}"
    source = "/".join(picture_place(path).parts)
    image = f'<img src="{escape(quote(source))}" alt="{escape(told)}" loading="lazy">'
    return f"<figure>{image}<figcaption>{escape(told)}</figcaption></figure>\n"


def _embedded(data: object) -> str:
    # "</script>" or "<!--" in a name must not end the element.
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
