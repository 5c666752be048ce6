"""Masks of an annotation file: one valid file, then every kind of invalid shape."""

import copy
from pathlib import Path
from typing import Any

import pytest

from adapters.detection.data import check_masks
from bench.errors import UserError

POLYGON = [[1.0, 2, 9, 2, 5, 8], [3, 4]]  # COCO has points left over from drawing
RUNS = {"size": [40, 60], "counts": [1200, 7, 1193]}
GOOD: dict[str, Any] = {
    "images": [{"id": 7, "width": 60, "height": 40}],
    "annotations": [
        {"id": 1, "image_id": 7, "segmentation": POLYGON, "area": 24.0, "iscrowd": 0},
        {"id": 2, "image_id": 7, "segmentation": RUNS, "area": 7, "iscrowd": 1},
        {"id": 3, "image_id": 7, "segmentation": {"size": [40, 60], "counts": "`T1"}, "area": 0, "iscrowd": 1},
    ],
}
FILE = Path("instances.json")


def test_polygons_and_run_lengths_pass() -> None:
    check_masks(FILE, GOOD)


NAN = float("nan")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": []}, "annotation 1 of image 7 has no shape"),
    ({"segmentation": None}, "no shape"),
    ({"segmentation": [[1, 2, 3, 4]]}, "at least three points"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "at least three points"),
    ({"segmentation": [[1, 2, NAN, 4, 5, 6]]}, "no shape"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6], [1, float("inf")]]}, "no shape"),
    ({"segmentation": [[1, 2, "3", 4, 5, 6]]}, "no shape"),
    ({"segmentation": {**RUNS, "size": [60, 40]}}, "of the image"),
    ({"segmentation": {**RUNS, "counts": [1200, 7]}}, "run lengths"),
    ({"segmentation": {"size": [40, 60]}}, "run lengths"),
    ({"area": NAN}, "area nan"),
    ({"area": "24"}, "finite number of pixels"),
    ({"iscrowd": 2}, "iscrowd 2"),
    ({"iscrowd": 1}, "holds no object: 3 annotations"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_invalid_shapes_are_refused_in_one_paragraph(change: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0] |= change
    with pytest.raises(UserError, match=message) as caught:
        check_masks(FILE, content)
    assert str(FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["segmentation", "area", "iscrowd"])
def test_a_missing_key_is_named(key: str) -> None:
    content = copy.deepcopy(GOOD)
    del content["annotations"][1][key]
    with pytest.raises(UserError, match=f"annotation 2 has no '{key}'"):
        check_masks(FILE, content)


def test_a_file_without_objects_is_refused() -> None:
    with pytest.raises(UserError, match="holds no object: 0 annotations"):
        check_masks(FILE, {**GOOD, "annotations": []})
