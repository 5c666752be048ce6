"""The tables of the page in a browser: what they state, how they sort, what the filters leave."""

import pytest

pytestmark = pytest.mark.long  # a real browser

TASK = "classification/scenes, frozen, digest d1"
TUNED = "segmentation/voc, finetune"
OVERVIEW = "Frozen backbones"


def column(table, name):
    (index,) = [i for i, head in enumerate(table[0]) if head.split()[0] == name]
    return [row[index] for row in table[1:]]


def head(caption, name):
    """A selector of the button in a column's head, marked by the page for this test."""
    return f"""(() => {{
        const table = Array.from(document.querySelectorAll("table"))
            .find((one) => one.caption.textContent.startsWith("{caption}"));
        const found = Array.from(table.tHead.rows[0].cells).find((one) => one.innerText.split(/\\s/)[0] === "{name}");
        document.querySelectorAll("[data-probe]").forEach((one) => delete one.dataset.probe);
        found.dataset.probe = "";
    }})()"""


BUTTON = "[data-probe] button"
SORT = "document.querySelector('[data-probe]').getAttribute('aria-sort')"


def test_winner_tie_single_seed_and_loser_are_marked(page):
    table = page.table(TASK)
    # t(2 degrees of freedom) = 4.30265; 0.2 and 0.1 are the standard deviations of best and worst.
    assert column(table, "top1") == ["80.20 ± 0.50", "80.15 ± 0.76 ≈", "79.00", "50.10 ± 0.25"]
    assert column(table, "backbone") == ["best", "tied", "single", "worst"]
    assert column(table, "rank") == ["1-3", "1-3", "1-4", "3-4"]
    assert column(table, "n") == ["3", "3", "1", "3"]
    assert column(page.table(TUNED), "rank") == ["1", "2"]
    bold = "Array.from(document.querySelectorAll('td strong'), (one) => one.textContent)"
    assert set(page.run(bold)) == {"80.20 ± 0.50", "60.10 ± 0.25", "90.00 ± 0.00"}


def test_the_overview_has_current_numbers_with_ranks_and_other_ns(page):
    cells = column(page.table(OVERVIEW), "classification/scenes")
    assert cells == [
        "80.20 ± 0.50\nrank 1-3 of 4",
        "79.00 (n = 1)\nrank 1-4 of 4",
        "80.15 ± 0.76 ≈\nrank 1-3 of 4",
        "50.10 ± 0.25\nrank 3-4 of 4",
    ]


def test_failed_runs_and_stale_digests_are_listed(page):
    text = page.run("document.body.innerText")
    assert "failed: worst@scratch seed 3: out of memory" in text
    assert "classification/scenes, frozen, digest d1d1d1d1: 1 failed" in text
    assert "classification/scenes, frozen, digest 0d0d0d0d: 1 backbone, superseded by d1d1d1d1" in text
    assert column(page.table("classification/scenes, frozen, digest 0d"), "top1") == ["90.00 ± 0.00"]


def test_published_numbers_have_source_and_protocol_and_no_rank(page):
    table = page.table("segmentation/voc, published")
    assert table[1] == ["ViT-B/16", "mae", "ImageNet-1k", "mIoU", "99.9", "UPerNet", "a paper, table 1"]
    assert not [name for name in table[0] if "rank" in name]
    assert "ViT-B/16" not in str(page.table(TUNED))
    assert "ViT-B/16" not in page.run("document.getElementById('data').textContent")


def test_a_click_sorts_and_the_next_reverses(page):
    page.run(head(TASK, "device-hours/run"))
    page.click(BUTTON)
    assert column(page.table(TASK), "backbone") == ["worst", "best", "tied", "single"]
    assert page.run(SORT) == "ascending"
    page.click(BUTTON)
    assert column(page.table(TASK), "backbone") == ["single", "tied", "best", "worst"]
    assert page.run(SORT) == "descending"
    assert page.run("document.querySelectorAll('#classification-scenes-frozen-d1d1d1d1 + * [aria-sort]').length") == 1


def test_the_keyboard_sorts_too(page):
    page.run(head(TASK, "backbone"))
    for key, names in (("Enter", ["best", "single", "tied", "worst"]), (" ", ["worst", "tied", "single", "best"])):
        page.run(f"document.querySelector('{BUTTON}').focus()")
        page.press(key)
        assert column(page.table(TASK), "backbone") == names


def test_numbers_sort_as_numbers_and_a_missing_one_is_last_both_ways(page):
    page.run(head(TASK, "images/s"))
    page.click(BUTTON)
    assert column(page.table(TASK), "images/s") == ["1000.0", "100.0", "1.0", "-"]
    page.click(BUTTON)
    assert column(page.table(TASK), "images/s") == ["1.0", "100.0", "1000.0", "-"]
    page.click(BUTTON)
    assert column(page.table(TASK), "backbone") == ["worst", "best", "single", "tied"]


def test_text_hides_rows_and_counts_the_others(page):
    rows = page.run("document.querySelectorAll('tr[data-name]').length")
    assert page.run("document.getElementById('count').innerText") == f"{rows} of {rows} rows shown"
    page.type("#text", "SIMmim tied")
    assert column(page.table(TASK), "backbone") == ["tied"]
    assert column(page.table(OVERVIEW), "backbone") == ["tied"]
    # In both overviews and in both tasks.
    assert page.run("document.getElementById('count').innerText") == f"4 of {rows} rows shown"
    assert page.run("document.getElementById('count').getAttribute('aria-live')") == "polite"
    page.click("[type=reset]")
    assert len(page.table(TASK)) == 5
    assert page.run("document.getElementById('count').innerText") == f"{rows} of {rows} rows shown"


def choose(page, field, value):
    page.run(
        f"""document.getElementById("{field}").value = "{value}";
        document.getElementById("{field}").dispatchEvent(new Event("input", {{ bubbles: true }}))"""
    )


def test_task_and_mode_hide_everything_else(page):
    choose(page, "task", "segmentation/voc")
    shown = "Array.from(document.querySelectorAll('h3'), (h) => h.checkVisibility() ? h.innerText : '').filter(Boolean)"
    assert page.run(shown) == ["Fine-tuned backbones", "segmentation/voc", "segmentation/voc"]
    choose(page, "task", "")
    choose(page, "mode", "frozen")
    assert page.run(shown)[:2] == ["Frozen backbones, embedded world", "classification/scenes"]
    assert not page.table(TUNED)


def test_a_text_without_matches_hides_every_table(page):
    page.type("#text", "nothing")
    assert page.run("document.getElementById('count').innerText").startswith("0 of ")
    assert not page.run(
        "Array.from(document.querySelectorAll('main table.sortable')).some((table) => table.checkVisibility())"
    )
