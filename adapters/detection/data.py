"""The masks of an annotation file, checked before anything is trained on them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.detection.protocol import Layout
from adapters.openmmlab import coco
from bench.datasets.dataset import Items
from bench.errors import UserError

SHAPE = ("segmentation", "area", "iscrowd")
EXPECTED = (
    "Expected are polygons, each of at least three points x, y in pixels, or run lengths: "
    '{"size": [height, width] of the image, "counts": ...}'
)


def check_masks(file: Path, content: Mapping[str, Any]) -> None:
    """Check that every annotation has a valid shape, and that some annotation is not a crowd.

    Args:
        content: of the file, which `coco.check` has accepted.

    Raises:
        UserError: a missing or invalid segmentation, area or iscrowd (named by its annotation); no object.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for a in content["annotations"]:
        for key in (key for key in SHAPE if key not in a):
            raise UserError(
                f"In {file}, annotation {a['id']} has no '{key}'. Instance segmentation needs of every object its "
                f"{', '.join(SHAPE)}, as in COCO's instances files. Add it, or remove the annotation."
            )
        if not _is_shape(a["segmentation"], sizes[a["image_id"]]):
            raise UserError(
                f"In {file}, annotation {a['id']} of image {a['image_id']} has no shape: its segmentation is "
                f"{str(a['segmentation'])[:120]}. {EXPECTED}. Correct it, or remove the annotation."
            )
        if a["iscrowd"] not in (0, 1) or not (coco.is_finite(a["area"]) and a["area"] >= 0):
            raise UserError(
                f"In {file}, annotation {a['id']} has the area {a['area']} and iscrowd {a['iscrowd']}. Expected are a "
                f"finite number of pixels and 0 or 1. Correct them, or remove the annotation."
            )
    if all(a["iscrowd"] for a in content["annotations"]):
        raise UserError(
            f"{file} holds no object: {len(content['annotations'])} annotations, all of them crowds. There is nothing "
            f"to detect in its {len(sizes)} images. Give the file that belongs to them."
        )


def _is_shape(given: Any, size: list[int]) -> bool:
    """Whether `given` is run lengths of the image's size, or polygons, at least one of three points."""
    if isinstance(given, dict):
        return given.get("size") == size and _are_counts(given.get("counts"), size)
    if not isinstance(given, list) or not all(isinstance(polygon, list) for polygon in given):
        return False
    enough = (len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in given)
    return any(enough) and all(_are_finite(polygon) for polygon in given)


def _are_counts(counts: Any, size: list[int]) -> bool:
    if isinstance(counts, list):
        return _are_finite(counts) and sum(counts) == math.prod(size)
    return isinstance(counts, str) and counts != ""


def _are_finite(numbers: list[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # finds NaN and infinity too; fast for millions of points
    except TypeError:
        return False


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return a split's images with their boxes and outlines."""
    annotations, images = layout.paths(split)
    return coco.items(folder / annotations, folder / images)
