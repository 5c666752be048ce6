"""`python -m bench.datasets`: on every real data set that is at hand, and on miniatures with something wrong."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import catalogue, check
from bench.datasets.catalogue import Entry
from bench.datasets.dataset import Facts

Datasets = Callable[..., tuple[int, str]]
ROOT = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[4] / "shared/data"))
SUBSETS = {
    "ade20k": ["train: missing: ade20k is not complete", "val: 3 of 2,000 images: a subset, 150"],
    "ap10k": ["train: missing", "nearest there", "test: 2 of 1,997 images: a subset, 54 classes; 2 opened"],
    "coco": ["train: 80 of 118,287", "val: 79 of 5,000 images: a subset", "val: 39 of 5,000 images",
             "detections: missing: coco is not complete"],
    "crowdpose": ["train: missing", "test: 2 of 8,000 images: a subset", "detections: missing"],
    "cub": ["train: 180 of 5,994 images: a subset, 10 of 200 classes", "test: 114 of 5,794"],
    "geirhos": ["test: 1,200 images, 16 classes; 8 opened: 224x224 to 224x224 pixels"],
    "got10k": ["train: missing", "val: 3 of 180 sequences: a subset", "test: missing"],
    "hololens": ["train: 98 images; 8 opened: 336x224 to 336x224 pixels", "val: 23 images"],
    "imagenet-samples": ["val: 1,000 images; 8 opened"],
    "kitti": ["train: missing", "test: 4 of 652 images: a subset; 4 opened: 1242x375"],
    "lasot": ["train: missing", "nearest there", "test: 2 of 280 sequences: a subset; 2 opened",
              "testing_set.txt: not as published (MD5 7a39", "as a subset's would be"],
    "nyu": ["train: missing", "test: 5 of 654 images: a subset; 5 opened: 224x224 to 640x480"],
    "otb": ["test: 4 of 100 sequences: a subset; 4 opened"],
    "pets": ["train: 300 of 3,680 images: a subset, 37 classes", "test: 298 of 3,669 images"],
    "tiny-imagenet": ["train: 3,200 of 100,000 images: a subset, 200 classes; 8 opened", "val: 800 of"],
    "voc": ["train: 63 of 1,464 images: a subset, 21 classes", "val: 64 of 1,449 images: a subset"],
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("name", SUBSETS)
def test_every_real_data_set_at_hand_is_checked_and_drawn(datasets: Datasets, tmp_path: Path, name: str) -> None:
    if not ROOT.is_dir():
        pytest.skip(f"no real images: {ROOT} does not exist (set BENCH_DATA)")
    status, printed = datasets("check", name, "--data-root", ROOT)
    assert status == 0, printed
    assert "WRONG" not in printed
    for expected in SUBSETS[name]:
        assert expected in printed
    picture = tmp_path / "picture.png"
    assert datasets("sample", name, "--data-root", ROOT, "--out", picture) == (0, f"{picture}\n")
    with Image.open(picture) as image:
        assert min(image.size) > 100


@pytest.mark.data
def test_all_items_are_opened_in_parallel(datasets: Datasets) -> None:
    if not (ROOT / "hololens").is_dir():
        pytest.skip(f"no real images: {ROOT}/hololens does not exist (set BENCH_DATA)")
    status, printed = datasets("check", "hololens", "--data-root", ROOT, "--full")
    assert status == 0
    assert "train: 98 images; all opened: 336x224 to 336x224 pixels" in printed


def write_cityscapes(root: Path, count: int = 12) -> Path:
    """Each split of one city, in the official layout; 40x20 images."""
    folder = root / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "munster")):
        for part in ("leftImg8bit", "gtFine"):
            (folder / part / split / city).mkdir(parents=True)
        for k in range(count):
            name = f"{split}/{city}/{city}_{k:06}_000019"
            colour = Image.new("RGB", (40, 20), (10 * k, 90, 20))
            colour.save(folder / f"leftImg8bit/{name}_leftImg8bit.png")
            labels = np.full((20, 40), k % 19, np.uint8)
            labels[:5] = 255
            Image.fromarray(labels).save(folder / f"gtFine/{name}_gtFine_labelTrainIds.png")
    return folder


def test_a_data_set_in_its_official_layout(datasets: Datasets, tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    status, printed = datasets("check", "cityscapes", "--data-root", tmp_path)
    assert status == 0, printed
    assert "train: 12 of 2,975 images: a subset, 19 classes; 8 opened: 40x20 to 40x20" in printed
    assert "val: 12 of 500 images: a subset" in printed
    status, printed = datasets("check", "segmentation/cityscapes", "--data-root", tmp_path, "--full")
    assert status == 0
    assert "12 of 500 images: a subset, 19 classes; all opened" in printed


def label_too_large(folder: Path) -> None:
    mask = folder / "gtFine/val/munster/munster_000000_000019_gtFine_labelTrainIds.png"
    Image.fromarray(np.full((20, 40), 19, np.uint8)).save(mask)


def missing_mask(folder: Path) -> None:
    (folder / "gtFine/val/munster/munster_000007_000019_gtFine_labelTrainIds.png").unlink()


def other_size(folder: Path) -> None:
    mask = folder / "gtFine/val/munster/munster_000011_000019_gtFine_labelTrainIds.png"
    Image.new("L", (20, 20)).save(mask)


def cut_off(folder: Path) -> None:
    image = folder / "leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png"
    image.write_bytes(image.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (label_too_large, "munster_000000_000019_gtFine_labelTrainIds.png has the value 19: with 19"),
        (missing_mask, "has no mask: expected"),
        (other_size, "munster_000011_000019_gtFine_labelTrainIds.png measures 20x20"),
        (cut_off, "munster_000000_000019_leftImg8bit.png"),
    ],
)
def test_problems_are_reported_and_the_other_items_checked(
    datasets: Datasets, tmp_path: Path, harm: Callable[[Path], None], expected: str
) -> None:
    harm(write_cityscapes(tmp_path))
    status, printed = datasets("check", "cityscapes", "--data-root", tmp_path)
    assert status == 1
    wrong = [line for line in printed.splitlines() if "WRONG" in line]
    assert len(wrong) == 1
    assert "val: " in wrong[0]
    assert expected in wrong[0]
    assert "train: 12 of 2,975" in printed


def test_only_all_items_show_what_is_wrong_in_between(datasets: Datasets, tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path, count=40)
    looked_at = check.places(40)
    between = next(k for k in range(40) if k not in looked_at)
    mask = folder / f"gtFine/train/aachen/aachen_{between:06}_000019_gtFine_labelTrainIds.png"
    mask.write_bytes(b"no image")
    assert datasets("check", "cityscapes", "--data-root", tmp_path)[0] == 0
    status, printed = datasets("check", "cityscapes", "--data-root", tmp_path, "--full")
    assert status == 1
    assert f"WRONG train: The image {mask} (8 bytes) cannot be read" in printed


def test_a_folder_too_deep_is_found(datasets: Datasets, tmp_path: Path) -> None:
    write_cityscapes(tmp_path).rename(tmp_path / "inner")
    (tmp_path / "cityscapes").mkdir()
    (tmp_path / "inner").rename(tmp_path / "cityscapes/inner")
    status, printed = datasets("check", "cityscapes", "--data-root", tmp_path)
    assert status == 2
    assert f"expected {tmp_path}/cityscapes/leftImg8bit/train; nearest there: {tmp_path}/cityscapes/inner" in printed


def test_a_wrong_request_names_the_nearest_data_set(datasets: Datasets, tmp_path: Path) -> None:
    status, printed = datasets("check", "citiscapes")
    assert status == 2
    assert printed.startswith("bench.datasets: Unknown data set 'citiscapes'. Did you mean cityscapes or ")
    status, printed = datasets("check", "qqq")
    assert (status, printed) == (
        2,
        "bench.datasets: Unknown data set 'qqq'. All of them: python -m bench.datasets list\n",
    )
    status, printed = datasets("check", "cityscapes", "--data-root", tmp_path / "nowhere")
    assert status == 2
    assert "is not a folder" in printed
    status, printed = datasets("sample", "cityscapes", "--data-root", tmp_path)
    assert status == 2
    assert "cityscapes/leftImg8bit/train" in printed


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5]}],
    "categories": [{"id": 7, "name": "cat"}],
}


def write_coco(root: Path, split: str, **changes: object) -> None:
    folder = root / "coco"
    for name in (f"{split}2017", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(folder / f"{split}2017/a.jpg")
    file = folder / f"annotations/instances_{split}2017.json"
    file.write_text(json.dumps({**COCO, **changes}))


def test_annotations_of_images_that_are_not_there(datasets: Datasets, tmp_path: Path) -> None:
    write_coco(tmp_path, "train")
    lost = {"id": 2, "file_name": "b.jpg", "width": 40, "height": 20}
    write_coco(tmp_path, "val", images=[*COCO["images"], lost])
    status, printed = datasets("check", "detection/coco", "--data-root", tmp_path)
    assert status == 1
    assert "lists 1 images that are not in" in printed
    assert "b.jpg" in printed
    assert "train: 1 of 118,287 images: a subset, 1 of 80 classes; 1 opened: 40x20" in printed
    write_coco(tmp_path, "val", annotations=[{**COCO["annotations"][0], "bbox": [50, 1, 5, 5]}])
    status, printed = datasets("check", "detection/coco", "--data-root", tmp_path)
    assert status == 1
    assert "WRONG val" in printed
    assert "no box of some area in their image" in printed


def of_cityscapes(facts: Facts) -> Entry:
    """The entry with other official numbers."""
    entry = catalogue.find("cityscapes")[0]
    dataset = dataclasses.replace(entry.dataset, facts=facts)
    task = dataclasses.replace(entry.tasks[0], dataset=dataset)
    return Entry(dataset=dataset, tasks=(task,))


def test_counts_and_lists_are_compared_with_what_is_published(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)

    def found(counts: dict[str, int], classes: int = 19) -> list[check.Finding]:
        facts = Facts(counts=counts, classes=classes, md5={"list.txt": LINES_MD5})
        return list(check.check(of_cityscapes(facts), tmp_path, full=False))

    *_, of_list = found({"train": 12, "val": 12})
    assert (of_list.message, of_list.wrong) == ("missing", True)
    for ending in ("\n", "\r\n"):
        (tmp_path / "cityscapes/list.txt").write_bytes(f"a{ending}b{ending}".encode())
        *splits, of_list = found({"train": 12, "val": 12})
        assert of_list.message == "as published"
        assert [finding.wrong for finding in splits] == [False, False]
        assert splits[0].message.startswith("12 images, 19 classes")
    (tmp_path / "cityscapes/list.txt").write_text("b\na\n")
    assert found({"train": 12, "val": 12})[-1].wrong
    assert not found({"train": 13, "val": 12})[-1].wrong
    assert [f.wrong for f in found({"train": 11, "val": 12})] == [True, False, False]
    assert "12 of 11 images: more than there are" in found({"train": 11, "val": 12})[0].message
    assert found({"train": 12, "val": 12}, classes=18)[0].wrong


LINES_MD5 = "8cdeb44417f3c26826595d5820cf5700"  # printf 'a\nb' | md5sum
