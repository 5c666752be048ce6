"""Labels from rendered pictures: boxes, occlusion, keypoints with visibility, crops, and COCO's JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.scenes.layout import Camera, Scene
from bench.scenes.solids import rotate
from bench.scenes.things import CATEGORIES, KEYPOINTS, SKELETON

if TYPE_CHECKING:
    from bench.scenes.render import Picture

Box: TypeAlias = tuple[int, int, int, int]  # x, y, width, height in pixels
Mask: TypeAlias = NDArray[np.bool_]

SMALLEST = 16  # visible pixels; a thing with fewer gets no annotation
CROP_MARGIN = 1.1


def tight_box(mask: Mask) -> Box:
    """Return the bounding box of a mask; (0, 0, 0, 0) for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return (0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def visible_fraction(picture: Picture, index: int) -> float:
    """Return the visible share of the pixels that a thing would have if it were alone (0 if it would have none)."""
    alone = int(picture.alone[index].sum())
    return int((picture.thing == index).sum()) / alone if alone else 0.0


def projected(points: NDArray[np.float64], camera: Camera, size: int) -> NDArray[np.float64]:
    """Return (n, 3): column, row (pixel k covers [k, k + 1)) and depth in metres of world points."""
    local = rotate(camera.rotation, points - np.array(camera.eye))
    pixels = local[:, :2] / local[:, 2:] * (camera.focal * size) + 0.5 * size
    return np.concatenate([pixels, local[:, 2:]], axis=1)


def keypoint_triplets(scene: Scene, picture: Picture, index: int) -> list[float]:
    """Return COCO's 51 numbers (x, y, v) of a puppet.

    v = 2: the pixel shows this puppet, and its surface there is no nearer than the flesh about the
    joint; v = 1: in the image but hidden, by another thing or by the puppet itself; v = 0: outside.
    """
    thing, size = scene.things[index], picture.depth.shape[0]
    assert thing.keypoints is not None
    assert thing.flesh is not None
    out: list[float] = []
    rows = projected(thing.keypoints, scene.camera, size)
    for (x, y, z), flesh in zip(rows.tolist(), thing.flesh.tolist(), strict=True):
        if not (0.0 <= x < size and 0.0 <= y < size):
            out += [0.0, 0.0, 0]
            continue
        column, row = int(x), int(y)
        own = picture.thing[row, column] == index
        near = float(picture.depth[row, column]) > z - 1.5 * flesh - 0.01
        # Cut, not rounded: 12.999 stays in pixel 12.
        out += [int(x * 100) / 100, int(y * 100) / 100, 2 if own and near else 1]
    return out


def coco_annotations(scene: Scene, picture: Picture) -> list[dict[str, Any]]:
    """Return one COCO annotation, without ids and segmentation, for each visible object.

    Beyond COCO: visible_fraction; distance, metres along the optical axis to the nearest visible
    point; amodal_bbox, what the box would be if nothing were in front; species of a puppet.
    """
    found = []
    for index, thing in enumerate(scene.things):
        mask = picture.thing == index
        area = int(mask.sum())
        if thing.category not in CATEGORIES or area < SMALLEST:
            continue
        record: dict[str, Any] = {
            "category_id": CATEGORIES.index(thing.category) + 1,
            "bbox": list(tight_box(mask)),
            "area": area,
            "iscrowd": 0,
            "visible_fraction": round(visible_fraction(picture, index), 6),
            "amodal_bbox": list(tight_box(picture.alone[index])),
            "distance": round(float(picture.depth[mask].min()), 4),
            "thing": index,
        }
        if thing.category == "puppet":
            triplets = keypoint_triplets(scene, picture, index)
            labelled = sum(v > 0 for v in triplets[2::3])
            record |= {"species": thing.species, "keypoints": triplets, "num_keypoints": labelled}
        found.append(record)
    return found


def crop_window(box: Box, size: int) -> tuple[int, int, int]:
    """Return (x, y, side) of the square about a box, with a margin, moved to lie in the image."""
    x, y, width, height = box
    side = min(size, int(CROP_MARGIN * max(width, height) + 0.5))
    left = min(max(0, x + (width - side) // 2), size - side)
    top = min(max(0, y + (height - side) // 2), size - side)
    return left, top, side


def millimetres(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return depth as uint16 millimetres; 0 means none: sky, or farther than 65.535 m."""
    whole = np.floor(depth.astype(np.float64) * 1000.0 + 0.5)
    return np.where(whole > 65535, 0, whole).astype(np.uint16)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths."""
    from faster_coco_eval.core import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def coco_files(records: list[dict[str, Any]], seed: int) -> dict[str, str]:
    """Return the JSON of a split's instances and person_keypoints; records: {"image", "annotations"} of each scene."""
    images = [{"id": k, **record["image"]} for k, record in enumerate(records)]
    found = [{"image_id": k, **annotation} for k, record in enumerate(records) for annotation in record["annotations"]]
    instances = [{"id": number, **annotation} for number, annotation in enumerate(found, 1)]
    people = [a for a in instances if "keypoints" in a]
    bare = [{k: v for k, v in a.items() if not k.endswith("keypoints")} for a in instances]
    categories = [{"id": k + 1, "name": name, "supercategory": "object"} for k, name in enumerate(CATEGORIES)]
    puppet = {**categories[0], "keypoints": list(KEYPOINTS), "skeleton": [*map(list, SKELETON)]}
    info = {"description": "embedded world: scenes", "seed": seed}
    return {
        name: json.dumps(
            {"info": info, "licenses": [], "images": images, "annotations": found, "categories": kinds},
            separators=(",", ":"),
        )
        for name, found, kinds in (("instances", bare, categories), ("person_keypoints", people, [puppet]))
    }
