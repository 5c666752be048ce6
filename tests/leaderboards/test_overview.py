"""The overview of all tasks, and the card of each backbone."""

import dataclasses

from pages_of_records import rows, seeds, tables


def test_the_overview_is_backbones_by_tasks(result):
    records = seeds(result, 50.0, 50.0, backbone="a") + seeds(result, 60.0, backbone="b")
    miou = {"task": "segmentation/scenes", "digest": "e2" * 32, "primary": "mIoU"}
    records += seeds(result, 30.0, 30.0, backbone="a", **miou)
    overview = tables(records)["README.md"]
    a, b = rows(overview)
    assert a == ["a", "mae", "a1a1a1a1", "50.00 ± 0.00", "**30.00 ± 0.00**"]
    assert b == ["b", "mae", "a1a1a1a1", "**60.00** (n = 1)", "\N{EN DASH}"]
    assert "n = 2 unless a cell gives another n." in overview
    assert "[segmentation/scenes](segmentation-scenes.md) frozen mIoU ↑" in overview
    assert "- segmentation/scenes, frozen: digest `e2e2e2e2`" in overview
    assert "python -m bench.run --backbone NAME" in overview


def test_real_data_and_the_embedded_world_are_apart(result):
    miou = {"task": "segmentation/voc", "digest": "e2" * 32, "primary": "mIoU"}
    overview = tables([result(), *seeds(result, 30.0, **miou)])["README.md"]
    scenes, real = overview.split("\n## ")[1:3]
    assert scenes.startswith("Frozen backbones, embedded world\n")
    assert real.startswith("Frozen backbones\n")
    assert [row[-1] for row in rows(real)] == ["**30.00**"]
    assert "voc" not in scenes


def test_without_records_the_overview_shows_the_first_command():
    pages = tables([])
    assert list(pages) == ["README.md"]
    assert "No results yet" in pages["README.md"]


def test_the_mean_rank_is_over_families_and_only_for_complete_backbones(result):
    detect = {"task": "detection/scenes", "digest": "d2" * 32}
    other = {"task": "detection/coco", "digest": "d3" * 32}
    depth = {"task": "depth/scenes", "digest": "d4" * 32}
    depth |= {"primary": "RMSE", "higher_is_better": False}
    records = []
    for backbone, top1, ap, rmse in (("a", 50.0, 20.0, 0.5), ("b", 60.0, 10.0, 0.9)):
        records += seeds(result, top1, top1 + 1, backbone=backbone)
        records += seeds(result, ap, ap + 2, backbone=backbone, **detect)
        records += seeds(result, rmse, rmse + 0.1, backbone=backbone, **depth)
    records += seeds(result, 99.0, 99.5, backbone="single-task")
    overview = tables(records)["README.md"]
    assert {row[0]: row[3] for row in rows(overview)} == {
        "a": "1.33 (1.3\N{EN DASH}1.3)",  # 2, 1, 1: without the one that leads a single task
        "b": "1.67 (1.7\N{EN DASH}1.7)",
        "single-task": "\N{EN DASH}",
    }
    assert "mean rank" not in tables([*records, *seeds(result, 5.0, backbone="x", **other)])


def test_a_family_counts_once_in_the_mean_rank(result):
    records = []
    for number in range(3):
        task = {"task": f"depth/{number}/scenes", "digest": f"{number}" * 64}
        records += seeds(result, 1.0, 2.0, backbone="a", **task)
        records += seeds(result, 2.0, 3.0, backbone="b", **task)
    records += seeds(result, 9.0, 9.1, backbone="a") + seeds(result, 8.0, 8.1, backbone="b")
    assert {r[0]: r[3][:4] for r in rows(tables(records)["README.md"])} == {"a": "1.50", "b": "1.50"}


def test_a_card_has_what_a_backbone_is_and_all_its_numbers(result):
    header = {"recipe": "mae-1600", "pretraining": "{}", "commit": "abc"}
    made = result(backbone="vit/b")
    made = dataclasses.replace(made, backbone={**made.backbone, "pretraining": header})
    old = {"digest": "e2" * 32, "finished": "2020-01-01T00:00:00+00:00"}
    pages = tables([made, result(backbone="vit/b", seed=1, **old), result(backbone="other", metrics={"top1": 40.0})])
    card = pages["backbone-vit-b@a1a1a1a1.md"]
    assert "- method: mae\n" in card
    assert "- loading: 1 matched, 0 missing, 0 unexpected, 0 resampled\n" in card
    assert "- header of the file: recipe: mae-1600\n" in card
    first, second = [line for line in card.splitlines() if line.startswith("| [classification")]
    cells = [cell.strip() for cell in first.strip("|").split(" | ")]
    assert cells[1:9] == [*("frozen", "frozen", "top1 ↑", "**50.00**"), *("1\N{EN DASH}2", "2", "`d1d1d1d1`", "1")]
    assert "(superseded)" in second
    assert "(backbone-vit-b@a1a1a1a1.md)" in pages["README.md"]


def test_an_output_of_pretraining_has_no_card_until_it_gets_a_name_of_its_own(result):
    header = {"pretraining": '{"method": {"name": "mae"}, "seed": 0}'}
    made = result(pretraining=header)
    for file, has_card in (("backbone.safetensors", False), ("mae-vit.safetensors", True)):
        pages = tables([dataclasses.replace(made, backbone={**made.backbone, "weights": file})])
        assert ("backbone-vit@a1a1a1a1.md" in pages) == has_card
        assert ("[vit](backbone-vit@a1a1a1a1.md)" in pages["README.md"]) == has_card


def test_stale_digests_are_listed_in_the_overview(result):
    late = {"digest": "e2" * 32, "finished": "2026-03-01T00:00:00+00:00"}
    overview = tables([result(), result(**late)])["README.md"]
    assert "## Superseded\n\n- [classification/scenes]" in overview
    assert "digest `d1d1d1d1`, 1 backbones, superseded by `e2e2e2e2`" in overview
