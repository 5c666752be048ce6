"""`python -m bench.datasets list` and `layout`, and groups: what there is, before any of it is looked at."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.datasets import catalogue

Datasets = Callable[..., tuple[int, str]]
ROOT = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[4] / "shared/data"))


def test_every_data_set_is_listed_with_its_licence_and_whether_it_is_there(datasets: Datasets, tmp_path: Path) -> None:
    for folder in ("leftImg8bit", "gtFine"):
        for split in ("train", "val"):
            (tmp_path / "cityscapes" / folder / split).mkdir(parents=True)
    status, printed = datasets("list", "--data-root", tmp_path)
    assert status == 0
    row = next(line for line in printed.splitlines() if line.strip().startswith("cityscapes"))
    for expected in ("segmentation", "Cityscapes' terms", "11.2 GB", "train 2,975, val 500", "  train, val  "):
        assert expected in row
    known = {entry.dataset.name for entry in catalogue.entries()}
    assert known >= {"imagenet", "coco", "lasot", "nyu", "scenes", "cars", "places365", "cog-5"}
    for entry in catalogue.entries():
        assert entry.dataset.licence
        assert entry.dataset.source
        if entry.dataset.facts.counts:
            assert entry.dataset.facts.known_from, entry.dataset.name
    assert "Cityscapes' terms: non-commercial research" in datasets("layout", "cityscapes")[1]


def test_the_list_has_a_line_for_each_data_set_and_for_each_family_of_splits(datasets: Datasets) -> None:
    _, printed = datasets("list")
    *lines, _, hint = printed.splitlines()
    assert "--data-root DIR" in hint
    assert max(map(len, lines)) <= 120
    names = [line.split("  ")[0] for line in lines]
    assert len(names) == len(set(names)) < 50
    assert {"dtd, dtd-2 to 10", "cog-1 to 5", "coco", "cifar100"} <= set(names)


def test_a_group_is_all_of_its_data_sets(datasets: Datasets, tmp_path: Path) -> None:
    status, printed = datasets("layout", "k12")
    assert status == 0
    heads = [line for line in printed.splitlines() if not line.startswith(" ")]
    assert len(heads) == 12
    assert "cub (classification/cub)" in heads
    status, printed = datasets("check", "k12", "--data-root", tmp_path)
    assert status == 2
    assert printed.count("  missing: ") == 12


@pytest.mark.data
def test_a_group_without_some_of_its_data_sets_is_wrong(datasets: Datasets) -> None:
    if not ROOT.is_dir():
        pytest.skip(f"no real images: {ROOT} does not exist (set BENCH_DATA)")
    status, printed = datasets("check", "k12", "--data-root", ROOT)
    assert status == 1
    assert printed.count("  missing: ") == 10
    assert "10 of 12 data sets are missing: aircraft, caltech101, cars" in printed
    assert datasets("check", "coco", "--data-root", ROOT)[0] == 0  # without detections of persons


def test_the_layout_is_a_tree(datasets: Datasets) -> None:
    status, printed = datasets("layout", "segmentation/voc")
    assert status == 0
    lines = [line.rstrip() for line in printed.splitlines()]
    assert "  DIR/VOCdevkit/VOC2012/" in lines
    indent = {line.split()[0]: len(line) - len(line.lstrip()) for line in lines[2:]}
    assert indent["ImageSets/"] < indent["Segmentation/"] < indent["train.txt"]
    assert any(line.split()[:2] == ["train.txt", "train"] for line in lines)
