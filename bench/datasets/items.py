"""The items of a split with their labels, as `check` reads and `sample` draws them.

Each task family implements `Task.items(folder, split)` once for all of its data sets.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tasks are listed without numpy
    from numpy.typing import NDArray
    from PIL import Image

Box = tuple[float, float, float, float]  # left, top, width and height in pixels


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """An image and its labels, which have been checked.

    Args:
        image: RGB; for a video, `frames` frames of one size next to each other.
        caption: its class, or else its name.
        boxes: (name, box) of each object.
        outlines: (number of its box, x and y of the corners in turn) of each outline.
        regions: int [h, w], a key of `names` for each pixel; other values are unlabelled.
        poses: [k, 3] each: x, y, and a value above 0 for a labelled point; `bones` are the pairs of points to join.
        depth: float [h, w] in metres; 0 where it is not known.
    """

    image: "Image.Image"
    caption: str
    boxes: Sequence[tuple[str, Box]] = ()
    outlines: Sequence[tuple[int, Sequence[float]]] = ()
    regions: "NDArray[Any] | None" = None
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    poses: "Sequence[NDArray[Any]]" = ()
    bones: Sequence[tuple[int, int]] = ()
    depth: "NDArray[Any] | None" = None
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame."""
        return self.image.width // self.frames, self.image.height


@dataclasses.dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a split; its lists and labels have been read, its images have not.

    Args:
        read: returns an item by its number; raises UserError with the file and the problem.
        unit: what an item is, in the plural.
        classes: the names of the classes, if there are any.
        files, labels: of every item, if each is an image file with one class.
        problems: what cannot be used, one paragraph each.
    """

    count: int
    read: Callable[[int], Example]
    unit: str = "images"
    classes: Sequence[str] = ()
    files: Sequence[Path] = ()
    labels: Sequence[int] = ()
    problems: Sequence[str] = ()
