"""Small images of coloured rectangles, their boxes and their masks, shared by the tests of detection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.detection import SCENES_LAYOUT

CLASSES = ("red", "green", "blue")
IDS = (7, 3, 90)  # of the categories; labels are places in CLASSES


def draw(rng: np.random.Generator, image_id: int, first: int) -> tuple[np.ndarray, list[Any]]:
    """A grey 48x80 image with three rectangles whose colour is their class; every fourth image has none."""
    pixels = rng.integers(80, 120, (48, 80, 3))
    found: list[Any] = []
    for k in range(3 if image_id % 4 != 3 else 0):
        width, height = (int(v) for v in rng.integers(14, 22, 2))
        left, top = 26 * k + int(rng.integers(0, 26 - width + 1)), int(rng.integers(0, 48 - height))
        label = int(rng.integers(0, 3))
        pixels[top : top + height, left : left + width, label] += 120
        right, bottom = left + width, top + height
        outline = [left, top, right, top, right, bottom, left, bottom]
        found.append(
            {
                "id": first + k,
                "image_id": image_id,
                "category_id": IDS[label],
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [outline],
            }
        )
    return pixels.astype(np.uint8), found


def write(folder: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (folder / f"images/{split}").mkdir(parents=True)
        annotations: list[Any] = []
        for i in range(count):
            pixels, found = draw(rng, i, len(annotations) + 1)
            Image.fromarray(pixels).save(folder / f"images/{split}/{i}.png")
            annotations += found
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 80} for i in range(count)],
            "categories": [{"id": i, "name": n} for i, n in zip(IDS, CLASSES, strict=True)],
            "annotations": annotations,
        }
        file = folder / SCENES_LAYOUT.annotations.format(split=split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return folder
