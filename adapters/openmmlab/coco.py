"""Annotation files in COCO's format: checked against their images once before training, and read item by item."""

import collections
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.datasets.dataset import Example, Items
from bench.datasets.images import checked_once, open_whole, read, unreadable
from bench.errors import UserError

# COCO's own train2017 has two boxes of height 0 (cocodataset/cocoapi issue 355); every loader drops them.
FLAT_IN_COCO = frozenset({200365, 550395})
NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
ID = (int, str)
KINDS: dict[str, tuple[type, ...]] = {
    **{"id": ID, "image_id": ID, "category_id": ID, "file_name": (str,), "name": (str,)},
    **{"width": (int, float), "height": (int, float)},
}
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # of whole files; decoders accept truncated ones
SLACK = 1.0  # pixels by which a point may lie outside: some tools count from 1
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
    """Check the file, and the header of every image it lists; unchanged files are read once.

    Args:
        images: the folder of the file names.
        classes: names that the categories must have; None for any.
        num_keypoints: of every annotated pose; 0 for files without poses.
        points_may_leave: whether hidden joints may lie outside the image, as in CrowdPose.

    Raises:
        UserError: no such file, invalid JSON, a missing key, image, category or image id; a repeated id; an image
            that is truncated or of another size than stated; an invalid box, or one outside its image; a keypoint
            outside its image.
    """
    content = labels(file, classes=classes, num_keypoints=num_keypoints, points_may_leave=points_may_leave)
    listed = content["images"]
    paths = [images / image["file_name"] for image in listed]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{file} lists {len(paths)} images, of which {len(missing)} do not exist: {_some(missing)}. Restore them, "
            f"or take them and their annotations off the list."
        )
    with checked_once(cache, "annotated", [file, *paths]) as unread:
        for image, path in zip(listed, paths, strict=True) if unread else ():
            check_size(file, image, path)


def labels(
    file: Path, *, classes: Sequence[str] | None = None, num_keypoints: int = 0, points_may_leave: bool = False
) -> dict[str, Any]:
    """Check the file as `check` does, without its images; return its content."""
    content = _read(file)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    _check_ids(file, content, classes)
    _check_boxes(file, content["annotations"], sizes)
    if num_keypoints:
        known = None if points_may_leave else sizes
        _check_keypoints(file, content["annotations"], num_keypoints, known)
    return content


def _read(file: Path) -> dict[str, Any]:
    """Parse the file; raises UserError unless its three lists have the keys in NEEDED."""
    if not file.is_file():
        raise UserError(f"The annotation file {file} does not exist. Expected is COCO's JSON format.")
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
        missing = ((row, [key for key in keys if not _has(row, key)]) for row in rows)
        lacking = [(row, absent[0]) for row, absent in missing if absent]
        if lacking:
            row, key = lacking[0]
            raise UserError(
                f"In {file}, {len(lacking)} of '{name}' lack a key or its value, the first one '{key}': "
                f"{str(row)[:200]}. Add it."
            )
    return content


def _has(row: Any, key: str) -> bool:
    return isinstance(row, dict) and key in row and isinstance(row[key], KINDS.get(key, object))


def _check_ids(file: Path, content: Mapping[str, Rows], classes: Sequence[str] | None) -> None:
    names = {category["id"]: category["name"] for category in content["categories"]}
    if classes is not None and set(classes) != set(names.values()):
        differ = sorted(set(classes) ^ set(names.values()))
        raise UserError(
            f"The categories of {file} are not those that this data set has: {_some(differ)} on one side only. "
            f"Expected are {len(classes)}: {_some(classes)}. Correct the list of categories."
        )
    for name in NEEDED:
        ids = collections.Counter(row["id"] for row in content[name])
        if twice := [given for given, times in ids.items() if times > 1]:
            raise UserError(
                f"In {file}, {len(twice)} id(s) stand for more than one of '{name}': {_some(twice)}. Give each an id "
                f"of its own, or remove what is there twice."
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


def _check_boxes(file: Path, annotations: Rows, sizes: Mapping[Any, tuple[int, int]]) -> None:
    bad = [
        a for a in annotations if not _is_box(a["bbox"], *sizes[a["image_id"]]) and a["image_id"] not in FLAT_IN_COCO
    ]
    if bad:
        shown = _some(f"annotation {a['id']} of image {a['image_id']}: {a['bbox']}" for a in bad)
        raise UserError(
            f"In {file}, {len(bad)} annotation(s) have no box of some area in their image: {shown}. Expected are four "
            f"finite numbers: left, top, and a width and a height above 0, in pixels. Correct or remove them."
        )


def _is_box(box: Any, image_width: float, image_height: float) -> bool:
    """Return whether `box` is a box, part of which lies inside the image."""
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
        return False
    left, top, width, height = box
    across = left < image_width and left + width > 0
    down = top < image_height and top + height > 0
    return bool(width > 0 and height > 0 and across and down)


def is_finite(value: Any) -> bool:
    """Return whether a value of a JSON file is a number, and neither NaN nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _check_keypoints(file: Path, annotations: Rows, count: int, sizes: Mapping[Any, tuple[int, int]] | None) -> None:
    for a in (a for a in annotations if "keypoints" in a):
        values = a["keypoints"] if isinstance(a["keypoints"], list) else []
        finite = len(values) == 3 * count and all(map(is_finite, values))
        if not finite or not {0, 1, 2}.issuperset(values[2::3]):
            raise UserError(
                f"In {file}, annotation {a['id']} has {len(values)} keypoint values: {str(a['keypoints'])[:120]}. "
                f"Expected are {3 * count} finite numbers: x, y and visibility (0, 1 or 2) of {count} keypoints. "
                f"Correct it, or remove the annotation."
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


def check_size(file: Path, image: Mapping[str, Any], path: Path) -> None:
    """Raise UserError if an image is truncated, or not of the size that the annotation file states."""
    try:
        with Image.open(path) as opened:
            found, end = opened.size, ENDS.get(opened.format or "", b"")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None
    if found != (image["width"], image["height"]):
        raise UserError(
            f"The image {path} measures {found[0]}x{found[1]} pixels, but {file} states {image['width']}x"
            f"{image['height']}: its boxes would lie elsewhere. Restore the image, or correct the file."
        )
    with path.open("rb") as content:
        content.seek(max(0, path.stat().st_size - 1024))
        if end not in content.read():  # only then decode the whole image, which takes longer
            open_whole(path)


def _some(items: Iterable[Any]) -> str:
    shown = [str(item) for item in items]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return "; ".join(shown[:SHOWN]) + more


def items(file: Path, images: Path, *, num_keypoints: int = 0, points_may_leave: bool = False) -> Items:
    """Return every listed image with its annotations, for `python -m bench.datasets`; arguments as in `check`.

    Raises UserError for an invalid annotation file.
    """
    content = labels(file, num_keypoints=num_keypoints, points_may_leave=points_may_leave)
    listed = content["images"]
    names = {category["id"]: category["name"] for category in content["categories"]}
    of: dict[Any, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for annotation in content["annotations"]:
        of[annotation["image_id"]].append(annotation)
    bones = _bones(content["categories"][0], num_keypoints)

    def example(index: int) -> Example:
        image = listed[index]
        path = images / image["file_name"]
        check_size(file, image, path)
        found = of[image["id"]]
        boxes = [] if num_keypoints else found
        return Example(
            image=read(path),
            caption=path.stem,
            boxes=[(names[a["category_id"]], tuple(a["bbox"])) for a in boxes],
            outlines=_outlines(boxes),
            poses=[np.reshape(a["keypoints"], (-1, 3)) for a in found if num_keypoints and any(a.get("keypoints", ()))],
            bones=bones,
        )

    return Items(
        count=len(listed),
        read=example,
        classes=list(names.values()),
        problems=_gaps(file, images, [image["file_name"] for image in listed]),
    )


def _gaps(file: Path, images: Path, listed: Sequence[str]) -> list[str]:
    """Return one message that names the listed images that do not exist, or none."""
    there = {str(path.relative_to(images)) for path in images.rglob("*")}
    missing = [name for name in listed if name not in there]
    shown = ", ".join(missing[:SHOWN])
    return [f"{file} lists {len(missing)} images that are not in {images}: {shown}. Restore them."] if missing else []


def _outlines(annotations: Rows) -> list[tuple[int, list[float]]]:
    """Return (index of the annotation, polygon) of all that are given as polygons; crowds are not."""
    shapes = enumerate(a.get("segmentation", ()) for a in annotations)
    return [(k, polygon) for k, shape in shapes if isinstance(shape, list) for polygon in shape]


def _bones(category: Mapping[str, Any], num_keypoints: int) -> list[tuple[int, int]]:
    """Return pairs of keypoint indices; none if the skeleton has other keypoints (CrowdPose's file has COCO's)."""
    found = category.get("skeleton", [])
    if any(max(bone) > num_keypoints for bone in found):
        return []
    return [(start - 1, end - 1) for start, end in found]  # the file counts from 1
