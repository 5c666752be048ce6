"""How the page looks and is reached: both colour schemes, narrow and wide, on paper, by keyboard, read aloud."""

import re
from itertools import pairwise

import pytest
from PIL import Image

from leaderboards.standings import sections
from leaderboards.web_page import write

pytestmark = pytest.mark.long  # a real browser

# Every text that shows, with its colour and the first opaque background behind it.
TEXTS = """(() => {
    const opaque = (one) => {
        const colour = getComputedStyle(one).backgroundColor;
        return one === document.documentElement || !/, 0\\)$/.test(colour) ? colour : opaque(one.parentElement);
    };
    const own = (one) => Array.from(one.childNodes).some((n) => n.nodeType === 3 && n.data.trim());
    const shown = Array.from(document.querySelectorAll("body *")).filter((one) => own(one) && one.checkVisibility());
    return shown.map((one) => {
        const style = getComputedStyle(one);
        return [one.textContent.slice(0, 40), one.closest("svg") ? style.fill : style.color, opaque(one)];
    });
})()"""
FOCUSABLE = "a[href], button, input:not(:disabled), select, summary, [tabindex='0']"
CONTROLS = {"button", "link", "searchbox", "combobox", "checkbox", "DisclosureTriangle"}
PARTS = {"navigation", "search", "form", "region", "table", "columnheader", "rowheader", "heading"}


def luminance(colour):
    """Relative luminance, as WCAG 2.2 defines it."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    lin = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]


def contrast(one, two):
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour(page, name):
    return page.run(
        f"""(() => {{
            const probe = document.body.appendChild(document.createElement("i"));
            probe.style.color = "var(--{name})";
            const found = getComputedStyle(probe).color;
            probe.remove();
            return found;
        }})()"""
    )


def test_contrast_is_the_one_of_the_definition():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page, scheme):
    page.look(scheme=scheme)
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    texts = page.run(TEXTS)
    assert len(texts) > 100
    faint = {(text, round(contrast(ink, paper), 2)) for text, ink, paper in texts if contrast(ink, paper) < 4.5}
    assert not faint


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rows_under_the_pointer_and_marks_have_enough_contrast(page, scheme):
    page.look(scheme=scheme)
    for ink in ("ink", "muted"):
        assert contrast(colour(page, ink), colour(page, "shade")) >= 4.5
    for mark in ("field", "link", *(f"method-{index}" for index in range(6))):
        assert contrast(colour(page, mark), colour(page, "paper")) >= 3


def test_a_preference_for_dark_gives_the_dark_scheme(page):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.run(paper)
    page.look(scheme="dark")
    assert luminance(page.run(paper)) < 0.02 < 0.9 < luminance(light)


@pytest.mark.parametrize("width", [320, 360, 768, 1600])
def test_only_a_tables_own_box_scrolls_sideways(page, width):
    page.look(width=width)
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.run("document.documentElement.scrollWidth") == width
    over = """Array.from(document.querySelectorAll("body *")).filter((one) => !one.closest(".scroll, .skip, svg")
        && one.checkVisibility() && one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML)"""
    assert page.run(over) == []
    scrolls = "Array.from(document.querySelectorAll('.scroll')).some((one) => one.scrollWidth > one.clientWidth)"
    assert page.run(scrolls) == (width < 1600)


def test_the_plot_is_redrawn_at_another_width(page):
    page.look(width=360)
    box = page.run("document.querySelector('#plot svg').getBoundingClientRect().toJSON()")
    assert box["width"] == page.run("document.querySelector('#plot svg').viewBox.baseVal.width")
    assert box["right"] <= 360


def test_paper_gets_light_colours_whole_tables_and_no_controls(page):
    page.look(scheme="dark", media="print", width=1032)  # A4 across, less the margins
    assert page.run("document.documentElement.scrollWidth") == 1032
    assert luminance(page.run("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert not page.run("document.getElementById('filters').checkVisibility()")
    assert page.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


def test_the_tab_key_reaches_everything_and_shows_where_it_is(page):
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    reachable = f"Array.from(document.querySelectorAll({FOCUSABLE!r})).filter((one) => one.checkVisibility()).length"
    stop = """(() => {
        const one = document.activeElement;
        const ring = getComputedStyle(one.querySelector(":scope > .hit") ?? one);
        const shown = one.matches(".point") ? [ring.stroke, ring.strokeWidth] : [ring.outlineStyle, ring.outlineWidth];
        window.stops = (window.stops ?? new Set()).add(one);
        return [one.tagName, ...shown];
    })()"""
    for _ in range(page.run(reachable)):
        page.press("Tab")
        tag, style, width = page.run(stop)
        assert tag != "BODY"
        assert style != "none", tag
        assert float(width.removesuffix("px")) >= 2, tag
    assert page.run("window.stops.size") == page.run(reachable)


def test_the_first_stop_skips_to_the_tables(page):
    page.press("Tab")
    assert page.run("document.activeElement.innerText") == "Skip to the tables"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter")
    assert page.run("document.activeElement.id") == "main"


def test_controls_tables_and_marks_have_accessible_names(page):
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    names = [(n["role"]["value"], n["name"]["value"]) for n in nodes if not n["ignored"]]
    found = [(role, name) for role, name in names if role in CONTROLS | PARTS]
    assert {role for role, _ in found} == CONTROLS | PARTS
    assert [role for role, name in found if not name.strip()] == []
    assert ("searchbox", "Backbone or method") in found
    tables = [name for role, name in found if role == "table"]
    assert len(tables) == len(set(tables)) > 4


def test_headings_descend_by_one_and_the_page_has_a_title(page):
    levels = page.run("Array.from(document.querySelectorAll('h1, h2, h3, h4'), (one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.run("[document.documentElement.lang, document.title]") == [
        "en",
        "Leaderboards of pretrained vision backbones",
    ]
    assert page.run("Array.from(document.querySelectorAll('th')).every((one) => one.scope)")
    ids = page.run("Array.from(document.querySelectorAll('[id]'), (one) => one.id)")
    assert len(ids) == len(set(ids))
    targets = page.run("Array.from(document.querySelectorAll('a[href^=\"#\"]'), (one) => one.hash.slice(1))")
    assert set(targets) <= set(ids)


def test_the_page_requests_nothing_and_logs_no_errors(page):
    page.click("th button")
    page.click("#log")
    page.type("#text", "mae")
    requests = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert len(requests) == 1
    assert requests[0].startswith("file:")
    complaints = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
    assert [event for event in page.events if event["method"] in complaints] == []


def test_a_picture_next_to_a_record_is_shown_with_its_description(chromium, result, tmp_path):
    place = tmp_path / "classification/scenes/vit@a1a1a1a1/d1d1d1d1-seed0-attention-distance.png"
    place.parent.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(place)
    write(sections([result()]), [], tmp_path / "out", {place: result()})
    chromium.look()
    chromium.open(tmp_path / "out/index.html")
    chromium.run("document.querySelector('img').scrollIntoView()")
    size = "(async (one) => { await one.decode(); return [one.naturalWidth, one.naturalHeight]; })"
    assert chromium.run(f"{size}(document.querySelector('img'))") == [30, 20]
    text = "attention distance of vit on classification/scenes, frozen, seed 0"
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    assert text in [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "image"]
    assert chromium.run("document.querySelector('figcaption').innerText") == text
