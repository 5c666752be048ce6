import dataclasses
import json
import math

from pages_of_records import cells, rows, seeds, tables

from leaderboards.pages import FEW_IMAGES, few_images_page, task_table
from leaderboards.standings import mode, sections
from leaderboards.tables import Cell, Column, Table, escape_cell

PAGE = "classification-scenes.md"


def test_the_winner_is_first_with_its_exact_interval(result):
    records = seeds(result, 50.0, 51.0, 52.0, backbone="weak", weights="b2" * 32)
    records += seeds(result, 69.0, 70.0, 71.0, backbone="strong")
    first, second = rows(tables(records)[PAGE])
    # 4.30265 / sqrt(3) = 2.48414
    start = [
        "strong",
        "mae",
        "a1a1a1a1",
        "**70.00 ± 2.48**",
        "1",
        "3",
        "0.2500",
        "100.0",
        "\N{EN DASH}",
        "CPU, 2 cores",
    ]
    assert first == start
    assert second[:5] == ["weak", "mae", "b2b2b2b2", "51.00 ± 2.48", "2"]


def test_lower_is_better_puts_the_smallest_first(result):
    lower = {"primary": "RMSE", "higher_is_better": False}
    records = seeds(result, 0.9, backbone="far", **lower)
    records += seeds(result, 0.287, backbone="near", **lower)
    page = tables(records)[PAGE]
    assert [row[0] for row in rows(page)] == ["near", "far"]
    assert rows(page)[0][3] == "**0.2870**"
    assert "RMSE ↓" in page
    assert "top1" not in page


def test_rows_that_tie_with_the_best_are_marked(result):
    records = seeds(result, 69.0, 70.0, 71.0, backbone="best")
    records += seeds(result, 68.0, 70.5, 68.5, backbone="close")
    records += seeds(result, 68.0, 69.0, 70.0, backbone="always-less")
    records += seeds(result, 49.0, 50.0, 51.0, backbone="far")
    records += seeds(result, 69.9, backbone="single")
    cells = {row[0]: row[3] for row in rows(tables(records)[PAGE])}
    assert cells["close"].endswith(" ≈")
    assert cells["always-less"] == "69.00 ± 2.48"  # by 1 with each seed
    assert cells["far"] == "50.00 ± 2.48"
    assert cells["single"] == "69.90"


def test_a_single_seed_has_no_interval_and_n_1(result):
    (row,) = rows(tables(seeds(result, 61.234))[PAGE])
    assert row[3:6] == ["**61.23**", "1", "1"]


def test_digests_are_never_mixed_and_the_older_is_superseded(result):
    old = seeds(result, 90.0, backbone="a") + seeds(result, 91.0, backbone="only-old")
    late = {"digest": "e2" * 32, "finished": "2026-03-01T00:00:00+00:00"}
    pages = tables(old + seeds(result, 40.0, backbone="a", **late))
    current, superseded = pages[PAGE].split("\n## ")[1:]
    assert current.startswith("frozen: frozen backbone, digest `e2e2e2e2`\n")
    assert superseded.startswith("frozen: frozen backbone, digest `d1d1d1d1` (superseded)\n")
    assert "by digest `e2e2e2e2`" in superseded
    assert [row[3] for row in rows(current)] == ["**40.00**"]
    assert [row[3] for row in rows(superseded)] == ["**91.00**", "90.00"]
    assert "90.00" not in pages["README.md"]
    assert "only-old" not in pages["README.md"]


def test_a_digest_that_only_failed_supersedes_nothing(result):
    late = {"digest": "e2" * 32, "finished": "2026-03-01T00:00:00+00:00"}
    failed = result(status="failed", error="out of memory", metrics={}, cost={}, **late)
    standings = sections([*seeds(result, 50.0), failed])
    assert [(s.digest[:2], bool(s.superseded_by)) for s in standings] == [("d1", False), ("e2", True)]


def test_frozen_and_finetuned_are_separate_tables(result):
    records = seeds(result, 50.0, protocol="frozen")
    records += seeds(result, 80.0, protocol="finetune", digest="e2" * 32)
    pages = tables(records)
    assert "superseded" not in pages[PAGE]
    finetuned, frozen = pages["README.md"].split("\n## ")[1:3]
    assert finetuned.startswith("Fine-tuned backbones, embedded world\n")
    assert [row[-1] for row in rows(finetuned)] == ["**80.00**"]
    assert [row[-1] for row in rows(frozen)] == ["**50.00**"]


def test_rows_of_one_name_are_distinguished_by_weights(result):
    records = seeds(result, 60.0, weights="a1" * 32) + seeds(result, 40.0, weights=None)
    pages = tables(records)
    for page in (pages[PAGE], pages["README.md"]):
        assert [row[2] for row in rows(page)] == ["a1a1a1a1", "scratch"]


def test_a_baseline_is_a_row_among_backbones(result):
    still = result(backbone="still", method="baseline", weights=None, metrics={"top1": 40.0})
    (section,) = sections([result(), still])
    assert [(row.backbone, row.method, row.weights8) for row in section.rows] == [
        ("vit", "mae", "a1a1a1a1"),
        ("still", "baseline", "baseline"),
    ]


def test_failed_runs_are_listed_with_their_first_line(result):
    failed = result(seed=1, status="failed", error="CUDA: out | of memory\n  at x\n", metrics={}, cost={})
    pages = tables([result(), failed])
    assert "- failed: vit@a1a1a1a1 seed 1: CUDA: out \\| of memory\n" in pages[PAGE]
    assert "at x" not in pages[PAGE]
    assert rows(pages[PAGE])[0][5] == "1"
    assert "- [classification/scenes](classification-scenes.md): 1 failed\n" in pages["README.md"]


def test_a_task_with_only_failed_runs_shows_a_message(result):
    failed = result(status="failed", error=None, metrics={}, cost={}, selection={})
    pages = tables([failed])
    assert "No run has finished." in pages[PAGE]
    assert "1 failed" in pages["README.md"]
    assert not rows(pages["README.md"])


def test_a_diverged_seed_makes_the_cell_nan_and_the_row_last(result):
    records = seeds(result, 70.0, math.nan, backbone="diverged") + seeds(result, 10.0, backbone="ok")
    page = tables(records)[PAGE]
    assert [(row[0], *row[3:6]) for row in rows(page)] == [
        ("ok", "**10.00**", "1", "1"),
        ("diverged", "nan", "\N{EN DASH}", "2"),
    ]
    assert "- not finite: diverged@a1a1a1a1 seed 1: top1\n" in page


def test_per_class_metrics_stay_in_the_record(result):
    metrics = {"mIoU": 40.0, "aAcc": 90.0, "iou/person": 12.0}
    page = tables([result(metrics=metrics, primary="mIoU")])[PAGE]
    assert "person" not in page
    assert page.index("mIoU ↑") < page.index("aAcc")


def test_a_metric_that_some_seeds_lack_has_its_own_n(result):
    records = [result(metrics={"top1": 50.0, "top5": 80.0}), result(seed=1)]
    records[1] = dataclasses.replace(records[1], metrics={"top1": 50.0})
    (row,) = rows(tables(records)[PAGE])
    assert row[5] == "80.00 (n = 1)"


def test_choosing_on_the_reported_split_is_called_optimistic(result):
    chosen = {"selected_on": "val", "reported_on": "val", "trials": [], "epoch": 1}
    assert "optimistic" not in tables([result()])[PAGE]
    assert "optimistic" in tables([result(selection=chosen)])[PAGE]


def test_provenance_names_protocol_data_split_selection_and_digest(result):
    page = tables([result()])[PAGE]
    assert "- protocol: a linear head; expected: none published\n" in page
    assert "- data: scenes, fingerprint ffffffff\n" in page
    assert "- reported on: val; hyper-parameters chosen on: train-part (2 trials)\n" in page
    assert f"- task version 1, digest `{'d1' * 32}`\n" in page
    assert "smoke" not in page


def test_a_protocol_that_chose_nothing_is_noted(result):
    fixed = {"selected_on": None, "reported_on": "val", "trials": [], "epoch": "last"}
    page = tables([result(selection=fixed)])[PAGE]
    assert "chosen on: none, the protocol fixes all of them\n" in page
    assert "optimistic" not in page


def test_a_smoke_run_is_marked(result):
    assert "the numbers are not results" in tables([result(protocol="frozen-smoke")])[PAGE]


def test_costs_are_means_and_name_every_device(result):
    fast = {"device_hours": 0.05, "images_per_second": 901.0, "device": "NVIDIA H200"}
    fast |= {"data_wait": 0.1234}
    (row,) = rows(tables([result(), result(seed=1, cost=fast)])[PAGE])
    assert row[-4:] == ["0.1500", "500.5", "0.123", "CPU, 2 cores; NVIDIA H200"]


def test_the_order_of_records_does_not_change_a_byte(result):
    records = seeds(result, 50.1, 50.2, 50.7, backbone="a") + seeds(result, 50.1, backbone="b")
    records += seeds(result, 50.1, backbone="c") + seeds(result, 9.0, digest="e2" * 32)
    records += [result(seed=i, status="failed", error="x", metrics={}, cost={}) for i in range(6, 9)]
    records += seeds(result, math.nan, math.nan, backbone="diverged")
    assert tables(records) == tables(records[::-1]) == tables(records[3:] + records[:3])


def test_a_pipe_in_a_name_does_not_split_its_cell(result):
    assert escape_cell("a|b\n`c`") == "a\\|b \\`c\\`"
    (row,) = rows(tables([result(backbone="odd|name")])[PAGE])
    assert row[0] == "odd\\|name"
    assert len(row) == 10


def test_one_table_as_aligned_markdown_and_as_html():
    head = ["name", Column(name="x", link="x.md", protocol="frozen", kind="number", first="descending")]
    table = Table(head=head, rows=[["a", "1.0"], [Cell(text="long name"), Cell(text="10.0", value=10)]], left=1)
    assert table.markdown() == (
        "| name      | [x](x.md) frozen |\n"
        "| --------- | ---------------: |\n"
        "| a         |              1.0 |\n"
        "| long name |             10.0 |\n"
    )
    html = table.html("t", "Caption")
    assert '<th scope="col" class="number" data-first="descending">x<small>frozen</small></th>' in html
    assert '<tr data-name="a"><th scope="row">a</th><td class="number">1.0</td></tr>' in html
    assert '<th scope="row">long name</th><td class="number" data-value="10">10.0</td>' in html


def test_task_table_is_the_pages_table(result):
    (section,) = sections([result()])
    assert task_table(section).markdown() in tables([result()])[PAGE]


def test_the_mode_is_the_protocols_flag_not_its_name():
    assert mode({"name": "linear", "frozen": True}) == "frozen"
    assert mode({"name": "frozen-then-tuned", "frozen": False}) == "fine-tuned"


# Few images.


def pretrained(result, images, subset_seed, top1, **changes):
    settings = {
        "method": {"name": "mae"},
        "arch": "vit",
        "recipe": {"name": "photographs"},
        "data": "imagenet-samples",
        "images": images,
        "subset_seed": subset_seed,
    }
    name = f"mae-{images}-{subset_seed}"
    made = result(backbone=name, weights=f"{images:032}{subset_seed:032}", metrics={"top1": top1})
    backbone = {**made.backbone, "arch": "vit", "pretraining": {"pretraining": json.dumps(settings)}}
    return dataclasses.replace(made, backbone=backbone, **changes)


def scratch(result, top1, **changes):
    return result(method="scratch", weights=None, metrics={"top1": top1}, **changes)


def test_sets_of_images_make_the_interval_and_scratch_is_the_first_line(result):
    records = [pretrained(result, 1, seed, top1) for seed, top1 in enumerate((20.0, 21.0, 22.0))]
    records += [pretrained(result, 1000, 0, 30.0), scratch(result, 10.0)]
    head, *rows = cells(few_images_page(sections(records)))
    assert head == ["pretrained on", "[classification/scenes](classification-scenes.md) frozen top1 ↑"]
    assert rows == [
        ["scratch", "10.00"],
        ["1 image", "21.00 ± 2.48 (3 sets)"],  # 4.30265 / sqrt(3) = 2.48414
        ["1000 images", "30.00"],
    ]


def test_a_protocol_without_few_images_has_no_column_and_a_missing_number_is_a_dash(result):
    other = {"protocol": "finetune", "digest": "d2" * 32}
    records = [pretrained(result, 1, 0, 20.0), pretrained(result, 10, 0, 21.0)]
    records += [scratch(result, 10.0), scratch(result, 50.0, **other)]
    tuned = dataclasses.replace(pretrained(result, 1, 0, 60.0), digest="d3" * 32)
    tuned = dataclasses.replace(tuned, protocol={**tuned.protocol, "name": "frozen-knn"})
    _, *rows = cells(few_images_page(sections([*records, tuned])))
    assert rows == [
        ["scratch", "10.00", "\N{EN DASH}"],
        ["1 image", "20.00", "60.00"],
        ["10 images", "21.00", "\N{EN DASH}"],
    ]


def test_another_architecture_is_not_the_reference(result):
    records = [pretrained(result, 1, 0, 20.0), scratch(result, 10.0, backbone="resnet")]
    _, *rows = cells(few_images_page(sections(records)))
    assert rows == [["1 image", "20.00"]]


def test_without_few_images_there_is_no_page(result):
    records = [result(), scratch(result, 10.0)]
    assert few_images_page(sections(records)) is None
    assert FEW_IMAGES not in tables(records)
