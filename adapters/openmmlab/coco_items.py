"""Data sets in COCO's format, image by image, for `python -m bench.datasets`."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.openmmlab import coco_annotations
from adapters.openmmlab.images import read
from bench.datasets.items import Example, Items

Annotations = Sequence[Mapping[str, Any]]


def items(
    file: Path, images: Path, *, num_keypoints: int = 0, points_may_leave: bool = False
) -> Items:
    """Every image that an annotation file lists; raises UserError where the file is not true in itself.

    Args:
        images: the folder that file names are relative to.
        num_keypoints, points_may_leave: as `coco_annotations.check` has them.
    """
    content = coco_annotations.labels(
        file, num_keypoints=num_keypoints, points_may_leave=points_may_leave
    )
    listed = content["images"]
    names = {category["id"]: category["name"] for category in content["categories"]}
    of: dict[Any, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for annotation in content["annotations"]:
        of[annotation["image_id"]].append(annotation)
    bones = _bones(content["categories"][0], num_keypoints)

    def example(index: int) -> Example:
        image = listed[index]
        path = images / image["file_name"]
        coco_annotations.check_size(file, image, path)
        found = of[image["id"]]
        boxes = [] if num_keypoints else found
        return Example(
            image=read(path),
            caption=path.stem,
            boxes=[(names[a["category_id"]], tuple(a["bbox"])) for a in boxes],
            outlines=_outlines(boxes),
            poses=_poses(found) if num_keypoints else (),
            bones=bones,
        )

    return Items(
        count=len(listed),
        read=example,
        classes=list(names.values()),
        problems=_gaps(file, images, [image["file_name"] for image in listed]),
    )


def _gaps(file: Path, images: Path, listed: Sequence[str]) -> list[str]:
    there = {str(path.relative_to(images)) for path in images.rglob("*")}
    missing = [name for name in listed if name not in there]
    if not missing:
        return []
    shown = ", ".join(missing[:3])
    return [f"{file} lists {len(missing)} images that are not in {images}: {shown}. Restore them."]


def _outlines(annotations: Annotations) -> list[tuple[int, list[float]]]:
    """Of things given as polygons; crowds are none."""
    shapes = enumerate(a.get("segmentation", ()) for a in annotations)
    return [(k, polygon) for k, shape in shapes if isinstance(shape, list) for polygon in shape]


def _poses(annotations: Annotations) -> list[NDArray[Any]]:
    return [np.reshape(a["keypoints"], (-1, 3)) for a in annotations if any(a.get("keypoints", ()))]


def _bones(category: Mapping[str, Any], num_keypoints: int) -> list[tuple[int, int]]:
    """Counted from 1 in the file; CrowdPose's in mmpose's form carries those of COCO, and gives none."""
    found = category.get("skeleton", [])
    if any(max(bone) > num_keypoints for bone in found):
        return []
    return [(start - 1, end - 1) for start, end in found]
