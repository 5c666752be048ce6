"""One good file, then every way in which a user's file can be wrong."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adapters.openmmlab.coco import check
from bench.errors import UserError

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 60, "height": 40},
        {"id": 8, "file_name": "b.png", "width": 30, "height": 50},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 5.5, 20, 10], "iscrowd": 0,
         "keypoints": [60, 40, 2, 0, 0, 0]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image in GOOD["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / image["file_name"])
    return tmp_path


def write(folder: Path, content: object) -> Path:
    file = folder / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(GOOD)
    change(content)
    return content


def test_a_good_file_passes_an_image_without_objects_and_a_crowd_included(folder: Path) -> None:
    check(write(folder, GOOD), folder, folder / "cache", classes=["dog", "cat"], num_keypoints=2)


WRONG = [
    ("{", "is not JSON"),
    ({"images": GOOD["images"]}, "no list 'annotations'"),
    ({**GOOD, "images": []}, "no list 'images'"),
    (changed(lambda c: c["images"][0].pop("width")), "first one 'width'"),
    (changed(lambda c: c["images"][0].update(file_name="c.png")), "1 do not exist: .*c.png"),
    (changed(lambda c: c["images"][1].update(width=31)), "30x50 pixels, but .* states 31x50"),
    (changed(lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10])), "annotation 1 of image 7"),
    (changed(lambda c: c["annotations"][0].update(bbox=[5, 5, -3, 10])), "no box of some area"),
    (changed(lambda c: c["annotations"][0].update(bbox=[5, float("nan"), 3, 1])), "four finite"),
    (changed(lambda c: c["annotations"][0].update(bbox=[5, 5, 3])), "four finite"),
    (changed(lambda c: c["annotations"][0].update(bbox=None)), "four finite"),
    (changed(lambda c: c["annotations"][0].update(bbox=[60, 5, 9, 9])), "area in their image"),
    (changed(lambda c: c["annotations"].append(None)), "1 of 'annotations' lack .* 'id': None"),
    (changed(lambda c: c["annotations"][0].update(image_id=[7])), r"lack .*'image_id': .*\[7\]"),
    (changed(lambda c: c["images"][0].update(file_name=7)), "first one 'file_name'"),
    (changed(lambda c: c["images"][1].update(id=7)), "more than one of 'images': 7"),
    (changed(lambda c: c["annotations"][1].update(id=1)), "more than one of 'annotations': 1"),
    (changed(lambda c: c["annotations"][1].update(category_id=5)), "category_id .* annotation 2: 5"),
    (changed(lambda c: c["annotations"][1].update(image_id=9)), "image_id .* annotation 2: 9"),
    (changed(lambda c: c["categories"][0].update(name="cow")), "cat; cow on one side only"),
    (
        changed(lambda c: c["annotations"][0].update(keypoints=[62, 3, 2, 0, 0, 0])),
        r"keypoint 0 of annotation 1 lies at \(62, 3\), outside .* 60x40",
    ),
    (changed(lambda c: c["annotations"][0].update(keypoints=[9, 3, 2])), "3 keypoint values.*6 finite numbers"),
    (changed(lambda c: c["annotations"][0].update(keypoints=[9, float("nan"), 2, 0, 0, 0])), "6 finite numbers"),
    (changed(lambda c: c["annotations"][0].update(keypoints=None)), "0 keypoint values: None"),
    (changed(lambda c: c["annotations"][0].update(keypoints=[9, 3, 7, 0, 0, 0])), r"visibility \(0, 1 or 2\)"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message for _, message in WRONG])
def test_an_invalid_file_is_refused_in_one_paragraph(folder: Path, content: object, message: str) -> None:
    file = write(folder, content)
    with pytest.raises(UserError, match=message) as caught:
        check(file, folder, folder / "cache", classes=["cat", "dog"], num_keypoints=2)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_and_a_damaged_image_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"annotation file .* does not exist"):
        check(folder / "none.json", folder, folder / "cache")
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png .* cannot be read"):
        check(write(folder, GOOD), folder, folder / "cache")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_that_is_cut_off_is_named_and_one_with_more_behind_it_passes(tmp_path: Path, suffix: str) -> None:
    image, path = dict(GOOD["images"][0], file_name=f"a.{suffix}"), tmp_path / f"a.{suffix}"
    file = write(tmp_path, {**GOOD, "images": [image]})
    Image.effect_noise((60, 40), 99).convert("RGB").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000))
    check(file, tmp_path, tmp_path / "cache")
    for part in (0.5, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(UserError, match=rf"a\.{suffix} .* cannot be read.* truncated"):
            check(file, tmp_path, tmp_path / "cache")


def test_the_two_flat_boxes_of_coco_itself_pass(folder: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][0]["id"] = 200365
    for annotation in content["annotations"]:
        annotation["image_id"] = 200365
    content["annotations"][0]["bbox"] = [296.65, 388.33, 1.03, 0.0]
    check(write(folder, content), folder, folder / "cache")


def test_points_may_leave_the_image_where_the_data_set_lets_them(folder: Path) -> None:
    content = changed(lambda c: c["annotations"][0].update(keypoints=[99, 3, 1, 0, 0, 0]))
    check(write(folder, content), folder, folder / "cache", num_keypoints=2, points_may_leave=True)


def test_images_are_opened_once_while_they_stay_as_they_are(folder: Path) -> None:
    file = write(folder, GOOD)
    check(file, folder, folder / "cache")
    stat = (folder / "a.png").stat()
    (folder / "a.png").write_bytes(b"x" * stat.st_size)
    os.utime(folder / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check(file, folder, folder / "cache")  # same size and time: taken for the same
    os.utime(folder / "a.png", ns=(0, 0))
    with pytest.raises(UserError, match=r"a\.png"):
        check(file, folder, folder / "cache")
