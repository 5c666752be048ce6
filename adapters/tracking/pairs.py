"""The square picture that a tracker sees of a frame, and the way from the frame to it and back.

Coordinates are continuous: pixel i covers i to i + 1, in the frame as in the crop. Boxes are x, y,
width, height.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from adapters.tracking.sequences import Sequence as Video
from adapters.tracking.sequences import load, read_frame

Boxes = NDArray[np.float64]
Frame = NDArray[np.uint8]

TEMPLATE, SEARCH = 2.0, 4.0  # sides of the crops, in sides of a square target
SMALLEST = 10.0  # pixels; a search never closes in on less (SwinTrack's min_object_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """What part of a frame is seen, and how large.

    Args:
        centre: x, y in the frame of what lies at `middle` in the crop.
        middle: x, y in the crop.
        scale: pixels of the crop to one of the frame, horizontally and vertically.
        size: pixels of the crop's side.
    """

    centre: tuple[float, float]
    middle: tuple[float, float]
    scale: tuple[float, float]
    size: int

    def to_crop(self, boxes: Boxes) -> Boxes:
        """Boxes (..., 4) of the frame, in pixels of the crop."""
        corners = (boxes[..., :2] - self.centre) * self.scale + self.middle
        return np.concatenate((corners, boxes[..., 2:] * self.scale), -1)

    def to_frame(self, boxes: Boxes) -> Boxes:
        """Boxes (..., 4) of the crop, in pixels of the frame."""
        corners = (boxes[..., :2] - self.middle) / self.scale + self.centre
        return np.concatenate((corners, boxes[..., 2:] / self.scale), -1)

    def take(self, frame: Frame) -> Frame:
        """Resample a frame (H, W, 3) bilinearly to (size, size, 3); its mean colour lies around it."""
        scale, middle = np.array(self.scale), np.array(self.middle)
        shift = middle - scale * self.centre + (scale - 1) / 2  # OpenCV counts from pixel centres
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        return cv2.warpAffine(frame, matrix, (self.size, self.size), borderValue=cv2.mean(frame)[:3]).astype(
            np.uint8, copy=False
        )


def around(box: Boxes, factor: float, size: int, smallest: float = 0.0) -> Crop:
    """The crop of `size` pixels a side with a box (4,) in its middle.

    Its side in the frame is sqrt((w + p) (h + p)) with p = (factor - 1) (w + h) / 2: `factor` times
    that of a square box. SwinTrack (arXiv 2112.00995) calls 2 for the template and 4 for the search
    "area factors". A box below `smallest` pixels counts as that large.
    """
    width, height = np.maximum(box[2:], smallest)
    padding = (factor - 1) * (width + height) / 2
    scale = float(size / np.sqrt((width + padding) * (height + padding)))
    x, y = box[:2] + box[2:] / 2
    return Crop(centre=(float(x), float(y)), middle=(size / 2, size / 2), scale=(scale, scale), size=size)


def jittered(crop: Crop, box: Boxes, scale: float, translation: float, random: np.random.Generator) -> Crop:
    """The crop moved and stretched at random, such that it still holds some of its box (4,).

    Each axis is divided by exp(scale * normal), and the box moved from the middle by up to
    `translation` / 4 times the sum of its sides in the crop, uniformly, as SwinTrack has it.
    """
    while True:
        wide, high = crop.scale / np.exp(scale * random.standard_normal(2))
        reach = float(box[2] * wide + box[3] * high) * translation / 2
        x, y = crop.size / 2 - (random.random(2) - 0.5) * reach
        moved = dataclasses.replace(crop, scale=(float(wide), float(high)), middle=(float(x), float(y)))
        if overlaps(moved.to_crop(box), crop.size, crop.size):
            return moved


def overlaps(box: Boxes, width: float, height: float) -> bool:
    """Whether a box (4,) has an area inside a picture."""
    return bool((clipped(box, width, height)[2:] > 0).all())


def clipped(box: Boxes, width: float, height: float) -> Boxes:
    """The part of a box (4,) inside a picture; without area where there is none."""
    low, high = box[:2], box[:2] + box[2:]
    size = np.array([width, height])
    low, high = np.clip(low, 0, size), np.clip(high, 0, size)
    return np.concatenate((low, high - low))


# Training pairs: a template and a search crop of one video, as SwinTrack draws them.
#
# Of each pair only its two frames are read, and each once.


@DATASETS.register_module()
class Pairs:
    """An epoch of `pairs` pairs, each of a source, a sequence and two frames drawn at random.

    Sources (data sets) weigh alike, and so do the sequences of one.

    Args:
        sources: what `sequences.load` takes, for each source: layout, folder, split.
        limit: how many sequences of each source are used.
        gap: most frames between template and search.
        scale, translation: jitter of the search crop, as `crops.jittered` has it.
        grey: probability that both crops lose their colours.
        colour: jitter of brightness, contrast and saturation, of each crop by itself.
    """

    def __init__(
        self,
        sources: Sequence[Mapping[str, str]],
        pairs: int,
        template_size: int,
        img_size: int,
        gap: int,
        scale: float,
        translation: float,
        grey: float,
        colour: float,
        limit: int | None = None,
    ) -> None:
        """Raises UserError for a source of which no sequence can be used."""
        loaded = [load(s["layout"], Path(s["folder"]), s["split"]) for s in sources]
        self.sources = [found.sequences[:limit] for found in loaded]
        self.pairs, self.gap, self.grey = pairs, gap, grey
        self.sizes, self.jitter = (template_size, img_size), (scale, translation)
        self.colours = v2.ColorJitter(colour, colour, colour)

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return self.pairs

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """A pair that does not depend on `index`: crops uint8 RGB (3, S, S), and the box (4,) in the search.

        The box is centre x, y, width and height as parts of the crop, cut at its borders.
        """
        random = np.random.default_rng(np.random.randint(2**31))
        videos = self.sources[random.integers(len(self.sources))]
        video = videos[random.integers(len(videos))]
        first, second = frames(video, self.gap, random)
        seen = {k: read_frame(video.frames[k]) for k in {first, second}}
        template = around(video.boxes[first], TEMPLATE, self.sizes[0])
        plain = around(video.boxes[second], SEARCH, self.sizes[1])
        search = jittered(plain, video.boxes[second], *self.jitter, random)
        pictures = self._augmented([template.take(seen[first]), search.take(seen[second])], random)
        box = clipped(search.to_crop(video.boxes[second]), search.size, search.size)
        box[:2] += box[2:] / 2
        box = torch.tensor(box / search.size, dtype=torch.float32)
        return {"template": pictures[0], "search": pictures[1], "box": box}

    def _augmented(self, pictures: Sequence[Frame], random: np.random.Generator) -> list[Tensor]:
        tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
        if random.random() < self.grey:
            tensors = [v2.functional.rgb_to_grayscale(t, num_output_channels=3) for t in tensors]
        return [self.colours(t) for t in tensors]


def present(video: Video) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The frames that show the target, with a box that has an area."""
    shown: np.ndarray[Any, np.dtype[np.bool_]] = ~video.absent & (video.boxes[:, 2:] > 0).all(1)
    return shown


def frames(video: Video, gap: int, random: np.random.Generator) -> tuple[int, int]:
    """Two frames that show the target, at most `gap` apart; the same one only where there is no other."""
    shown = np.flatnonzero(present(video))
    first = random.choice(shown)
    near = shown[(abs(shown - first) <= gap) & (shown != first)]
    second = random.choice(near) if len(near) else first
    return int(first), int(second)
