"""Persons and boxes, counted as mmpose counts them; files that cannot be used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.pose import data, train
from bench.errors import UserError

POINTS = [5, 5, 2, 0, 0, 0, 9, 9, 1, *[0] * 42]
ANNOTATIONS: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64, "crowdIndex": 0} for i in (7, 3, 5, 9)],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {"id": n, "image_id": image, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 9.0} | more
        for n, (image, more) in enumerate(
            [
                (7, {"keypoints": POINTS, "num_keypoints": 2, "iscrowd": 0}),
                (7, {"keypoints": POINTS, "num_keypoints": 2, "iscrowd": 1}),
                (7, {"keypoints": [0] * 51, "num_keypoints": 0, "iscrowd": 0}),
                (3, {"keypoints": POINTS, "num_keypoints": 2, "iscrowd": 0}),
                (3, {"keypoints": POINTS}),
                (5, {"keypoints": [0] * 51}),
                (5, {"iscrowd": 0}),
                (9, {"keypoints": POINTS, "num_keypoints": 2, "iscrowd": 0}),
            ],
            start=1,
        )
    ],
}
BOX = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(ANNOTATIONS))
    return path


def dataset(file: Path, **settings: Any) -> Any:
    from mmpose.registry import DATASETS

    names = {"from_file": str(train.INSTALLED_NAMES / "coco.py")}
    return DATASETS.get("CocoDataset")(ann_file=str(file), metainfo=names, test_mode=True, **settings)


@pytest.mark.parametrize(("limit", "images"), [(None, {7, 3, 9}), (2, {7, 3}), (1, {7})])
def test_persons_of_the_first_images_are_mmposes_first_persons(file: Path, limit: int | None, images: set[int]) -> None:
    count = data.num_persons(data.read(file), limit, file)
    limited = dataset(file, indices=count)

    assert {limited.get_data_info(i)["img_id"] for i in range(len(limited))} == images
    assert len(limited) == count
    assert (len(dataset(file)) == count) == (limit is None)


def test_a_file_without_persons_to_crop_is_refused(file: Path) -> None:
    content = data.read(file)
    content["annotations"] = content["annotations"][1:3]

    with pytest.raises(UserError, match=r"truth.json has no person to crop: .* 4 images \(2"):
        data.num_persons(content, None, file)


@pytest.mark.parametrize(("rows", "key"), [("annotations", "area"), ("images", "crowdIndex")])
def test_what_scores_need_must_be_there(file: Path, rows: str, key: str) -> None:
    content = data.read(file)
    data.check_scored(content, file, has_area=True, crowded=True)
    del content[rows][1][key]
    data.check_scored(content, file, has_area=rows != "annotations", crowded=rows != "images")

    with pytest.raises(UserError, match=f"1 of '{rows}' have no '{key}'"):
        data.check_scored(content, file, has_area=True, crowded=True)


def test_boxes_are_numbered_as_mmpose_loads_them(file: Path, tmp_path: Path) -> None:
    boxes = [
        {**BOX, "image_id": image, "category_id": category}
        for image, category in ((3, 1), (7, 2), (9, 1), (7, 1), (5, 1), (3, 1))
    ]
    found = tmp_path / "boxes.json"
    found.write_text(json.dumps(boxes))
    chosen = data.detections(found, [7, 3, 5, 9], 2)
    limited = dataset(file, bbox_file=str(found), indices=chosen)

    assert [limited.get_data_info(i)["img_id"] for i in range(len(limited))] == [3, 7, 3]
    assert np.allclose(limited.get_data_info(0)["bbox"], [[1, 2, 31, 42]])
    assert data.detections(found, [7, 3, 5, 9], None) == [0, 1, 2, 3, 4]


WRONG_BOXES = {
    "no JSON": ("[{", r"boxes.json are not JSON"),
    "no list": ("{}", r"boxes.json are a dict; expected is a list of"),
    "no record": ("[3]", r"Box 0 of .*boxes.json, 3, is not such a record"),
    "a key": ('[{"image_id": 7}]', r"has no category_id"),
    "an image": (json.dumps([BOX, BOX | {"image_id": 8}]), r"Box 1 .* names the image 8"),
    "not a number": (json.dumps([BOX | {"score": float("nan")}]), r"five finite numbers"),
    "three numbers": (json.dumps([BOX | {"bbox": [1, 2, 3]}]), r"five finite numbers"),
    "corners": (json.dumps([BOX | {"bbox": [9, 9, -4, 4]}]), r"a bbox of negative size"),
}


@pytest.mark.parametrize("what", WRONG_BOXES)
def test_invalid_boxes_are_refused(tmp_path: Path, what: str) -> None:
    content, message = WRONG_BOXES[what]
    (tmp_path / "boxes.json").write_text(content)

    with pytest.raises(UserError, match=message):
        data.detections(tmp_path / "boxes.json", [7, 3], None)
