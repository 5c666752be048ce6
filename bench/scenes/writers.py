"""Files in the standard formats, and the hashes that identify what was written."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.scenes.puppets import KEYPOINTS, SKELETON
from bench.scenes.things import CATEGORIES

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file: its path under the world's root, its bytes' and its pixels' sha256."""

    path: str
    size: int
    sha256: str
    pixels: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Writes below a root and remembers every file."""

    root: Path
    files: list[Written] = field(default_factory=list)

    def _write(self, path: str, content: bytes, pixels: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.files.append(
            Written(
                path=path,
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                pixels=hashlib.sha256(pixels).hexdigest(),
            )
        )

    def image(self, path: str, pixels: NDArray[Any]) -> None:
        """Write uint8 (H, W), uint8 (H, W, 3) or uint16 (H, W) as PNG, or as JPEG by its suffix."""
        pixels = np.ascontiguousarray(pixels)
        buffer = io.BytesIO()
        if path.endswith(".jpg"):
            Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        else:
            # Little zlib: noise hardly compresses, and the time goes into rendering.
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        self._write(path, buffer.getvalue(), pixels.tobytes())

    def text(self, path: str, content: str) -> None:
        """Write text as UTF-8."""
        data = content.encode()
        self._write(path, data, data)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths."""
    from faster_coco_eval.core import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def coco_files(records: list[dict[str, Any]], seed: int) -> dict[str, str]:
    """Return the JSON texts of the instances and the person_keypoints file of one split.

    Args:
        records: one a scene: {"image": {...}, "annotations": [...]}, in order of index.
    """
    images = [{"id": k, **record["image"]} for k, record in enumerate(records)]
    instances: list[dict[str, Any]] = []
    for k, record in enumerate(records):
        for annotation in record["annotations"]:
            instances.append({"id": len(instances) + 1, "image_id": k, **annotation})
    people = [a for a in instances if "keypoints" in a]
    bare = [{k: v for k, v in a.items() if not k.endswith("keypoints")} for a in instances]
    categories = [
        {"id": k + 1, "name": name, "supercategory": "object"} for k, name in enumerate(CATEGORIES)
    ]
    puppet = {**categories[0], "keypoints": list(KEYPOINTS), "skeleton": [*map(list, SKELETON)]}
    info = {"description": "embedded world: scenes", "seed": seed}
    return {
        name: json.dumps({"info": info, "licenses": [], "images": images, "annotations": found,
                          "categories": kinds}, separators=(",", ":"))
        for name, found, kinds in (
            ("instances", bare, categories), ("person_keypoints", people, [puppet]),
        )
    }  # fmt: skip
