import dataclasses
import json

from pages_of_records import cells

from leaderboards import pages, render
from leaderboards.standings import sections


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
    head, *rows = cells(pages.few_images_page(sections(records)))
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
    _, *rows = cells(pages.few_images_page(sections([*records, tuned])))
    assert rows == [
        ["scratch", "10.00", "\N{EN DASH}"],
        ["1 image", "20.00", "60.00"],
        ["10 images", "21.00", "\N{EN DASH}"],
    ]


def test_another_architecture_is_not_the_reference(result):
    records = [pretrained(result, 1, 0, 20.0), scratch(result, 10.0, backbone="resnet")]
    _, *rows = cells(pages.few_images_page(sections(records)))
    assert rows == [["1 image", "20.00"]]


def test_without_few_images_there_is_no_page(result):
    records = [result(), scratch(result, 10.0)]
    assert pages.few_images_page(sections(records)) is None
    assert pages.FEW_IMAGES not in render.all_pages(sections(records))
