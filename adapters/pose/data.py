"""The persons of a keypoint annotation file and a detector's boxes, counted as mmpose does, and checked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.openmmlab import coco
from adapters.pose.protocol import Layout
from bench.datasets.dataset import Items
from bench.errors import UserError

BOX = "a list of {image_id, category_id, bbox: [x, y, width, height], score}"


def read(annotations: Path) -> Any:
    """Return the content of a file that `coco.check` has accepted."""
    return json.loads(annotations.read_text("utf-8"))


def images(annotations: Mapping[str, Any], limit: int | None) -> list[int]:
    """Return the ids of the first `limit` images (None: all), in the file's order."""
    return [image["id"] for image in annotations["images"]][:limit]


def num_persons(annotations: Mapping[str, Any], limit: int | None, file: Path) -> int:
    """Count the persons with keypoints in the first `limit` images; raises UserError if there are none."""
    seen = set(images(annotations, limit))
    found = sum(a["image_id"] in seen and _has_keypoints(a) for a in annotations["annotations"])
    if not found:
        raise UserError(
            f"{file} has no person to crop: in the first {len(seen)} images ({len(annotations['annotations'])} "
            "annotations in all) nobody has num_keypoints above 0 and iscrowd 0. Give annotations with keypoints."
        )
    return found


def check_scored(annotations: Mapping[str, Any], file: Path, *, has_area: bool, crowded: bool) -> None:
    """Raise UserError if a split lacks a key that keypoint AP is computed from."""
    needed = (("annotations", "area", has_area), ("images", "crowdIndex", crowded))
    for rows, key in ((rows, key) for rows, key, wanted in needed if wanted):
        if lacking := [row["id"] for row in annotations[rows] if key not in row]:
            raise UserError(
                f"In {file}, {len(lacking)} of '{rows}' have no '{key}' (the first has the id {lacking[0]}): keypoint "
                "AP is computed from it. Add it, or use the file of the data set's authors."
            )


def _has_keypoints(annotation: Mapping[str, Any]) -> bool:
    """Return whether mmpose crops it: it leaves crowd regions and persons without keypoints to the evaluation."""
    points = annotation.get("keypoints", [0, 0, 0])
    labelled = annotation.get("num_keypoints", 1) and max(*points[::3], *points[1::3]) > 0
    return bool(labelled) and not annotation.get("iscrowd", 0)


def detections(file: Path, known: Sequence[int], limit: int | None) -> list[int]:
    """Return which boxes of a detector's file lie in the first `limit` of the `known` images.

    Indices count its boxes of category 1 (persons), as mmpose does. Raises UserError for a file that is not such a
    list, or that contains other images.
    """
    try:
        boxes = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"The boxes {file} are not JSON ({error}); expected is {BOX}.") from None
    if not isinstance(boxes, list):
        raise UserError(f"The boxes {file} are a {type(boxes).__name__}; expected is {BOX}.")
    everywhere, used = set(known), set(known[:limit])
    for number, box in enumerate(boxes):
        if wrong := _wrong(box, everywhere):
            raise UserError(
                f"Box {number} of {file}, {json.dumps(box)[:120]}, {wrong}; expected is {BOX}, all of images of the "
                f"tested split. Give the detector's file of this split."
            )
    persons = [box for box in boxes if box["category_id"] == 1]
    return [i for i, box in enumerate(persons) if box["image_id"] in used]


def _wrong(box: Any, known: set[int]) -> str:
    """Return what is wrong with a box; "" for nothing."""
    keys = ("image_id", "category_id", "bbox", "score")
    if not isinstance(box, dict) or (missing := [key for key in keys if key not in box]):
        return "is not such a record" if not isinstance(box, dict) else f"has no {missing[0]}"
    if box["image_id"] not in known:
        return f"names the image {box['image_id']}, which the annotations do not have"
    numbers = [*box["bbox"], box["score"]] if isinstance(box["bbox"], list) else []
    if len(numbers) != 5 or not all(map(coco.is_finite, numbers)):
        return "has something else than five finite numbers as bbox and score"
    return "" if min(box["bbox"][2:]) >= 0 else "has a bbox of negative size"


def items(folder: Path, split: str, layout: Layout) -> Items | None:
    """Return a split's images with their poses; None for a detector's boxes."""
    if split == "detections":
        return None
    file, pictures = (folder / path for path in layout.paths(split))
    return coco.items(file, pictures, num_keypoints=layout.num_keypoints, points_may_leave=layout.points_may_leave)
