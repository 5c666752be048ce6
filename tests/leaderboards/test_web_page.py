"""The page as a file: what it is made of. `page/` looks at it in a browser."""

import html as entities
import json
import math
import re
from html.parser import HTMLParser

import pytest

from bench.errors import UserError
from leaderboards import web_page
from leaderboards.published import Published
from leaderboards.standings import read, sections
from leaderboards.tables import Cell, inline

PIXEL = bytes.fromhex("89504e470d0a1a0a")  # what a PNG begins with; nothing here draws it


@pytest.fixture
def out(tmp_path):
    return tmp_path / "page"


class Elements(HTMLParser):
    """Every start tag with its attributes, and tags that were closed in another order than opened."""

    VOID = ("meta", "link", "input", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.crossed = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.crossed.append(tag)


def test_one_file_contains_everything_and_refers_to_nothing_else(result, out):
    assert web_page.write(sections([result()]), [], out) == [out / "index.html"]
    elements = Elements((out / "index.html").read_text())
    assert not elements.open
    assert not elements.crossed
    loaded = [attrs[key] for _, attrs in elements.found for key in ("src", "href") if key in attrs]
    assert all(target.startswith(("#", "data:")) for target in loaded)
    addresses = set(re.findall(r"https?://[^\s\"']+", (out / "index.html").read_text()))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, which nothing fetches


def test_the_order_of_records_does_not_change_a_byte(result):
    records = [result(backbone=b, seed=s, metrics={"top1": 50 + s / 3}) for b in "abc" for s in range(3)]
    records += [result(digest="e2" * 32, finished="2025-01-01T00:00:00+00:00")]
    records += [result(seed=9, status="failed", error="x", metrics={}, cost={})]
    assert (
        web_page.html(sections(records))
        == web_page.html(sections(records[::-1]))
        == web_page.html(sections(records[4:] + records[:4]))
    )


def test_a_name_cannot_become_markup_or_end_the_script(result):
    name = '</script><script>alert(1)</script><b a="&'
    text = web_page.html(sections([result(backbone=name, method="<i>", metrics={"top1": 1.0, "<u>": 2.0})]))
    elements = Elements(text)
    assert not elements.crossed
    assert [tag for tag, _ in elements.found if tag in {"script", "b", "i", "u"}] == ["script", "script"]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["backbones"][0]["label"] == name
    assert entities.escape(name) in text
    (row,) = [attrs["data-name"] for tag, attrs in elements.found if "data-name" in attrs][1:]
    assert row == f"{name} <i> a1a1a1a1".lower()


def test_equal_names_are_distinguished_by_weights(result):
    found = web_page.html(sections([result(weights="a1" * 32), result(weights="b2" * 32)]))
    data = json.loads(re.search(r'id="data">(.*?)</script>', found, re.DOTALL)[1])
    assert [backbone["label"] for backbone in data["backbones"]] == ["vit@a1a1a1a1", "vit@b2b2b2b2"]


def test_without_records_the_page_shows_a_message(out):
    web_page.write([], [], out)
    text = (out / "index.html").read_text()
    assert "No results yet" in text
    assert 'id="scatter"' not in text


def test_a_task_with_only_failed_runs_shows_a_message(result):
    failed = result(status="failed", error="no <memory>", metrics={}, cost={}, selection={})
    text = web_page.html(sections([failed]))
    assert "No run has finished." in text
    assert "failed: vit@a1a1a1a1 seed 0: no &lt;memory&gt;" in text


def test_a_diverged_seed_is_listed_and_its_cell_has_no_sort_value(result):
    text = web_page.html(sections([result(metrics={"top1": math.nan})]))
    assert "not finite: vit@a1a1a1a1 seed 0: top1" in text
    assert '<td class="number">nan</td>' in text


def test_pictures_next_to_records_are_copied_and_described(write, results_dir, out):
    first, tenth = (write(seed=seed) for seed in (1, 10))
    names = {first: ["-attention-distance.png", ".png"], tenth: ["-cka.png"]}
    for record, ends in names.items():
        for end in ends:
            record.with_name(record.stem + end).write_bytes(PIXEL)
    first.with_name("ffffffff-seed1-stray.png").write_bytes(PIXEL)  # not next to a record
    found = read(results_dir)
    file, *pictures = web_page.write(found.standings, [], out, found.pictures)
    folder = out / "pictures/classification/scenes/vit@a1a1a1a1"
    stems = ["d1d1d1d1-seed1-attention-distance", "d1d1d1d1-seed1", "d1d1d1d1-seed10-cka"]
    assert pictures == [folder / f"{stem}.png" for stem in stems]
    assert all(path.read_bytes() == PIXEL for path in pictures)
    images = [attrs for tag, attrs in Elements(file.read_text()).found if tag == "img"]
    assert [(out / image["src"].replace("%40", "@")) for image in images] == pictures
    run = "of vit on classification/scenes, frozen, seed"
    assert [image["alt"] for image in images] == [f"attention distance {run} 1", f"Picture {run} 1", f"cka {run} 10"]


def test_published_numbers_have_no_rank_and_are_not_in_the_plot(result):
    number = Published(
        task="pose/coco",
        backbone="ViT-H",
        method="mae",
        pretraining="ImageNet-1k",
        protocol="ViTPose",
        metric="AP",
        value=79.1,
        source="a paper | table 1",
    )
    text = web_page.html(sections([result()]), [number])
    section = text[text.index('<section id="published"') : text.index("<footer>")]
    assert "a paper | table 1" in section
    assert ">rank<" not in section
    assert "ViT-H" not in text.replace(section, "")


def test_a_page_of_the_users_own_is_not_overwritten(result, out):
    out.mkdir()
    (out / "index.html").write_text("<h1>Mine</h1>")
    with pytest.raises(UserError, match=r"index\.html was not written by this command"):
        web_page.write(sections([result()]), [], out)
    assert (out / "index.html").read_text() == "<h1>Mine</h1>"
    (out / "index.html").unlink()
    for _ in range(2):
        web_page.write(sections([result()]), [], out)


def test_markdown_of_a_cell_becomes_html_once():
    assert inline("**a \\*b\\*** `c` <d> & ≈") == "<strong>a *b*</strong> <code>c</code> &lt;d&gt; &amp; ≈"
    cells = [Cell(text="?", value=value).html("number") for value in (None, math.nan)]
    assert cells == ['<td class="number">?</td>'] * 2
    exact = Cell(text="1.23", value=1.23456789012345).html("number")
    assert exact == '<td class="number" data-value="1.23456789">1.23</td>'
