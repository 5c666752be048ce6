"""Is a COCO-style annotation file true of its images? Asked once, before anything is trained on it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from adapters.openmmlab.images import checked_once, unreadable
from bench.errors import UserError

# COCO's own train2017 has two boxes of height 0 (cocodataset/cocoapi issue 355); every loader drops them.
FLAT_IN_COCO = frozenset({200365, 550395})
NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
SLACK = 1.0  # pixels by which a point may lie outside: some tools count them from 1
SHOWN = 3

Rows = Sequence[Mapping[str, Any]]


def check(
    file: Path,
    images: Path,
    cache: Path,
    *,
    classes: Sequence[str] | None = None,
    num_keypoints: int = 0,
    points_may_leave: bool = False,
) -> None:
    """Read the file, and the header of every image it lists; unchanged files are read once.

    Args:
        images: the folder that file names are relative to.
        classes: names that the categories must have, where they are fixed.
        num_keypoints: of every annotated pose; 0 for files without poses.
        points_may_leave: for data sets that place hidden joints beyond the border, as CrowdPose does.

    Raises:
        UserError: no such file, no JSON, a missing key, image, category or image id; an image of
            another size than stated; a box that is no box; a keypoint outside its image.
    """
    content = _read(file)
    listed, annotations = content["images"], content["annotations"]
    _check_ids(file, content, classes)
    _check_boxes(file, annotations)
    if num_keypoints:
        sizes = {image["id"]: (image["width"], image["height"]) for image in listed}
        _check_keypoints(file, annotations, num_keypoints, None if points_may_leave else sizes)
    paths = [images / image["file_name"] for image in listed]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{file} lists {len(paths)} images, of which {len(missing)} do not exist: {_some(missing)}. Restore them, "
            f"or take them and their annotations off the list."
        )
    with checked_once(cache, "annotated", [file, *paths]) as unread:
        for image, path in zip(listed, paths, strict=True) if unread else ():
            _check_size(file, image, path)


def _read(file: Path) -> dict[str, Any]:
    """Parse the file; its three lists then have the keys that are read of them."""
    if not file.is_file():
        raise UserError(f"There is no annotation file {file}. Expected is COCO's JSON format.")
    try:
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"The annotation file {file} is not JSON ({error}): it is cut off or damaged. Restore it from its source."
        ) from None
    for name, keys in NEEDED.items():
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not (rows or name == "annotations"):
            raise UserError(
                f"The annotation file {file} has no list '{name}'. Expected is COCO's format: {', '.join(NEEDED)}."
            )
        lacking = [(row, key) for row in rows for key in keys if key not in row]
        if lacking:
            row, key = lacking[0]
            raise UserError(
                f"In {file}, {len(lacking)} of '{name}' lack a key, the first one '{key}': {str(row)[:200]}. Add it."
            )
    return content


def _check_ids(file: Path, content: Mapping[str, Rows], classes: Sequence[str] | None) -> None:
    names = {category["id"]: category["name"] for category in content["categories"]}
    if classes is not None and set(classes) != set(names.values()):
        differ = sorted(set(classes) ^ set(names.values()))
        raise UserError(
            f"The categories of {file} are not those that this data set has: {_some(differ)} on one side only. "
            f"Expected are {len(classes)}: {_some(classes)}. Correct the list of categories."
        )
    images = {image["id"] for image in content["images"]}
    for key, known in (("category_id", names.keys()), ("image_id", images)):
        bad = [a for a in content["annotations"] if a[key] not in known]
        if bad:
            shown = _some(f"annotation {a['id']}: {a[key]}" for a in bad)
            raise UserError(
                f"In {file}, {len(bad)} annotation(s) have a {key} that the file does not list: "
                f"{shown}. Listed are {_some(sorted(known))}. Correct or remove them."
            )


def _check_boxes(file: Path, annotations: Rows) -> None:
    bad = [a for a in annotations if not _is_box(a["bbox"]) and a["image_id"] not in FLAT_IN_COCO]
    if bad:
        shown = _some(f"annotation {a['id']} of image {a['image_id']}: {a['bbox']}" for a in bad)
        raise UserError(
            f"In {file}, {len(bad)} annotation(s) have no box of some area: {shown}. Expected are four finite numbers: "
            f"left, top, and a width and a height above 0, in pixels. Correct or remove them."
        )


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
    return numbers and box[2] > 0 and box[3] > 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check_keypoints(
    file: Path,
    annotations: Rows,
    count: int,
    sizes: Mapping[Any, tuple[int, int]] | None,
) -> None:
    for a in (a for a in annotations if "keypoints" in a):
        values = a["keypoints"]
        if len(values) != 3 * count or not all(map(_is_finite, values)):
            raise UserError(
                f"In {file}, annotation {a['id']} has {len(values)} keypoint values: {str(values)[:120]}. Expected are "
                f"{3 * count} finite numbers: x, y and visibility (0, 1 or 2) of {count} keypoints."
            )
        if sizes is None:
            continue
        width, height = sizes[a["image_id"]]
        points = zip(values[::3], values[1::3], values[2::3], strict=True)
        for index, (x, y, visibility) in enumerate(points):
            inside = -SLACK <= x <= width + SLACK and -SLACK <= y <= height + SLACK
            if visibility and not inside:
                raise UserError(
                    f"In {file}, keypoint {index} of annotation {a['id']} lies at ({x:g}, {y:g}), outside its image "
                    f"{a['image_id']} of {width}x{height} pixels, though it is labelled (visibility {visibility}). "
                    f"Correct it, or set its visibility to 0."
                )


def _check_size(file: Path, image: Mapping[str, Any], path: Path) -> None:
    try:
        with Image.open(path) as opened:
            found = opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None
    if found != (image["width"], image["height"]):
        raise UserError(
            f"The image {path} measures {found[0]}x{found[1]} pixels, and {file} says {image['width']}x"
            f"{image['height']}: its boxes would lie elsewhere. Restore the image, or correct the file."
        )


def _some(items: Iterable[Any]) -> str:
    shown = [str(item) for item in items]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return "; ".join(shown[:SHOWN]) + more
