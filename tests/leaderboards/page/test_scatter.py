"""The scatter plot in a browser: points where the numbers are, measured against the axes' own ticks."""

import math

import pytest

from leaderboards.standings import sections
from leaderboards.web_page import scatter_data, write

pytestmark = pytest.mark.long  # a real browser

POINTS = """Array.from(document.querySelectorAll(".point"), (one) => {
    const { e, f } = one.transform.baseVal.consolidate().matrix;
    return { name: one.dataset.key, x: e, y: f, label: one.getAttribute("aria-label"),
             bars: Array.from(one.querySelectorAll(".interval"), (bar) => bar.getBBox().height) };
})"""
TICKS = """Array.from(document.querySelectorAll(".tick"), (one) => {
    const { x, y } = one.querySelector("line").getBBox();
    return { across: one.classList.contains("across"), value: Number(one.dataset.value), x, y,
             text: one.textContent };
})"""
FRAME = "(({ x, y, width, height }) => ({ x, y, width, height }))(document.querySelector('.frame').getBBox())"
TASK = "classification/scenes, frozen"
TOP1 = {"best": 80.2, "tied": 80.15, "worst": 50.1, "single": 79.0}
HOURS = {"best": 1.0, "tied": 10.0, "worst": 0.1, "single": 100.0}


def choose(page, axis, name, group=TASK):
    page.run(
        f"""(() => {{
            const select = document.getElementById("{axis}");
            const group = select.querySelector("optgroup[label='{group}']");
            select.value = Array.from(group.children).find((one) => one.textContent === "{name}").value;
            select.dispatchEvent(new Event("change"));
        }})()"""
    )


def pixel(page, axis, value, scale=float):
    """Where the first and the last tick of an axis put a value."""
    ticks = [tick for tick in page.run(TICKS) if tick["across"] == (axis == "x")]
    (low, start), (high, end) = ((scale(t["value"]), t[axis]) for t in (ticks[0], ticks[-1]))
    return start + (end - start) * (scale(value) - low) / (high - low)


def test_there_is_a_point_for_each_backbone_where_its_numbers_are(page):
    points = {point["name"]: point for point in page.run(POINTS)}
    assert points.keys() == TOP1.keys()
    for name, point in points.items():
        assert point["x"] == pytest.approx(pixel(page, "x", HOURS[name]), abs=1)
        assert point["y"] == pytest.approx(pixel(page, "y", TOP1[name]), abs=1)
    ys = [point["y"] for point in points.values()]
    frame = page.run(FRAME)
    assert all(frame["y"] < y < frame["y"] + frame["height"] for y in ys)


def test_logarithmic_cost_spreads_factors_evenly_and_leaves_the_metric_alone(page):
    before = {point["name"]: point["y"] for point in page.run(POINTS)}
    page.click("#log")
    points = {point["name"]: point for point in page.run(POINTS)}
    for name, point in points.items():
        assert point["x"] == pytest.approx(pixel(page, "x", HOURS[name], math.log), abs=1)
        assert point["y"] == before[name]
    xs = [points[name]["x"] for name in ("worst", "best", "tied", "single")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1)
    frame = page.run(FRAME)
    assert all(frame["x"] < x < frame["x"] + frame["width"] for x in xs)
    texts = [tick["text"] for tick in page.run(TICKS) if tick["across"]]
    assert {"0.1", "1", "10", "100"} <= set(texts)


def test_a_logarithmic_axis_is_offered_only_for_costs(page):
    assert not page.run("document.getElementById('log').disabled")
    choose(page, "x", "mIoU", "segmentation/voc, finetune")
    assert page.run("document.getElementById('log').disabled")


def test_a_metric_against_a_metric_has_the_backbones_with_both(page):
    choose(page, "x", "mIoU", "segmentation/voc, finetune")
    points = {point["name"]: point for point in page.run(POINTS)}
    assert points.keys() == {"best", "tied"}
    assert points["best"]["x"] == pytest.approx(pixel(page, "x", 60.1), abs=1)
    text = page.run("document.getElementById('scatter-count').innerText")
    assert text == "2 points. Not measured horizontally: 2 with the vertical measure."
    title = "mIoU (%), higher is better: segmentation/voc, finetune →"
    assert page.run("document.getElementById('x-title').innerText") == title


def test_bars_are_the_intervals_and_a_single_seed_has_none(page):
    points = {point["name"]: point for point in page.run(POINTS)}
    half = 4.302653 * 0.2 / math.sqrt(3)  # t of two degrees of freedom
    height = abs(pixel(page, "y", 80.2 + half) - pixel(page, "y", 80.2 - half))
    assert points["best"]["bars"] == [pytest.approx(height, abs=0.5)]
    assert points["single"]["bars"] == []


def test_a_point_shows_its_name_and_both_values(page):
    (label,) = [point["label"] for point in page.run(POINTS) if point["name"] == "best"]
    assert label.startswith("best, mae: top1 (%), higher is better: classification/scenes, frozen 80.20 ± 0.50; ")
    assert label.endswith("cost of a run (device-hours): classification/scenes, frozen 1")


def test_one_tab_stop_leads_to_all_points_by_arrows(page):
    assert page.run("document.querySelectorAll('.point[tabindex=\"0\"]').length") == 1
    page.run("document.getElementById('log').focus()")
    page.press("Tab")
    focused = "document.activeElement.dataset.key"
    assert page.run(focused) == "worst"  # the leftmost
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "Home", "End"):
        page.press(key)
        seen.append(page.run(focused))
    assert seen == ["best", "tied", "single", "single", "worst", "single"]
    assert page.run("document.getElementById('detail').innerText").startswith("single, moco: ")


def test_methods_differ_in_colour_and_shape_and_the_legend_lists_them(page):
    looks = "[one.getAttribute('d'), getComputedStyle(one).color]"
    glyphs = page.run(f"Array.from(document.querySelectorAll('.point .glyph'), (one) => {looks})")
    assert len({shape for shape, _ in glyphs}) == len({colour for _, colour in glyphs}) == 4
    entry = "[one.innerText, one.querySelector('path').getAttribute('d')]"
    entries = f"Array.from(document.querySelectorAll('#legend li'), (one) => {entry})"
    methods = dict(page.run(entries))
    assert methods.keys() == {"mae", "simmim", "moco", "\N{EN DASH}"}
    best = page.run("document.querySelector('.point[data-key=best] .glyph').getAttribute('d')")
    assert methods["mae"] == best


def test_the_same_points_are_a_table(page):
    page.click("#scatter details:last-of-type summary")
    rows = page.table("top1 (%)")[1:]
    assert rows == [
        ["worst", "-", "50.10 ± 0.25", "0.1"],
        ["best", "mae", "80.20 ± 0.50", "1"],
        ["tied", "simmim", "80.15 ± 0.76", "10"],
        ["single", "moco", "79.00", "100"],
    ]


def test_the_text_filter_applies_to_the_points(page):
    page.type("#text", "mae")
    assert [point["name"] for point in page.run(POINTS)] == ["best"]


def test_a_cost_of_zero_is_left_out_of_a_logarithmic_axis_and_counted(chromium, result, tmp_path):
    free, dear = ({"device_hours": hours} for hours in (0.0, 2.0))
    records = [result(backbone="free", cost=free), result(backbone="dear", cost=dear)]
    write(sections(records), [], tmp_path)
    chromium.look()
    chromium.open(tmp_path / "index.html")
    assert len(chromium.run(POINTS)) == 2
    chromium.click("#log")
    assert [point["name"] for point in chromium.run(POINTS)] == ["dear"]
    text = chromium.run("document.getElementById('scatter-count').innerText")
    assert text == "1 point. Not above zero, so not on a logarithmic axis: 1."


def test_a_diverged_seed_and_a_superseded_digest_are_not_points(result, standings):
    found = scatter_data(sections([result(metrics={"top1": math.nan}), result(backbone="whole")]))
    top1 = found["measures"][0]
    assert [found["backbones"][key]["label"] for key in top1["values"]] == ["whole"]
    measures = scatter_data(standings)["measures"]
    names = [(m["group"], m["name"]) for m in measures if not m["cost"]]
    assert names == [(TASK, "top1"), ("segmentation/voc, finetune", "mIoU")]
