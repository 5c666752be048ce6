"""What the embedded world's annotations say of its training images: species, and what hides what."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """Training images of the world at `root`, by their file names.

    Args:
        crops: speak of the crops about the subject, not of the whole images.
    """

    root: Path
    names: Sequence[str]
    crops: bool

    def species(self) -> list[str]:
        """The species of each image's subject."""
        return [str(self._scenes[name][0]["species"]) for name in self.names]

    def occluders(self, index: int) -> Mask:
        """True where an image shows a thing that hides part of another thing; bool [height, width]."""
        image, things = self._scenes[self.names[index]]
        found = np.zeros((image["height"], image["width"]), bool)
        for thing in things:
            if any(hides(thing, other) for other in things):
                found |= pixels(thing)
        x, y, width, height = image["species_crop"] if self.crops else (0, 0, *found.shape[::-1])
        return found[y : y + height, x : x + width]

    @functools.cached_property
    def _scenes(self) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
        content = json.loads((self.root / "annotations/instances_train.json").read_text())
        scenes: dict[int, Any] = {image["id"]: (image, []) for image in content["images"]}
        for annotation in content["annotations"]:
            scenes[annotation["image_id"]][1].append(annotation)
        return {image["file_name"]: (image, found) for image, found in scenes.values()}


def pixels(thing: dict[str, Any]) -> Mask:
    """Where an annotated thing is seen; bool [height, width]."""
    return np.asarray(coco_mask.decode(thing["segmentation"]), bool)


def hides(thing: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `thing` is nearer than `other`, of which a part is hidden, and seen where that would be.

    The annotations have the box, not the outline, of what `other` would be if it stood alone.
    """
    if other["visible_fraction"] == 1.0 or thing["distance"] >= other["distance"]:
        return False
    x, y, width, height = other["amodal_bbox"]
    return bool(pixels(thing)[y : y + height, x : x + width].any())
