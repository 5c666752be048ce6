"""The square crops that a tracker sees, and the training pairs of a template and a search crop.

Coordinates are continuous: pixel i covers i to i + 1, in frames and in crops. Boxes are x, y, width, height.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

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
SMALLEST = 10.0  # pixels: smallest box that a search crop is scaled to (SwinTrack's min_object_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """A mapping between a frame and a square crop of it.

    Args:
        centre: x, y in the frame of the point at `middle` in the crop.
        middle: x, y in the crop.
        scale: pixels of the crop per pixel of the frame, horizontally and vertically.
        size: pixels of the crop's side.
    """

    centre: tuple[float, float]
    middle: tuple[float, float]
    scale: tuple[float, float]
    size: int

    def to_crop(self, boxes: Boxes) -> Boxes:
        """Map boxes (..., 4) of the frame to pixels of the crop."""
        corners = (boxes[..., :2] - self.centre) * self.scale + self.middle
        return np.concatenate((corners, boxes[..., 2:] * self.scale), -1)

    def to_frame(self, boxes: Boxes) -> Boxes:
        """Map boxes (..., 4) of the crop to pixels of the frame."""
        corners = (boxes[..., :2] - self.middle) / self.scale + self.centre
        return np.concatenate((corners, boxes[..., 2:] / self.scale), -1)

    def take(self, frame: Frame) -> Frame:
        """Resample a frame (H, W, 3) bilinearly to (size, size, 3), with its mean colour outside of it."""
        scale, middle = np.array(self.scale), np.array(self.middle)
        shift = middle - scale * self.centre + (scale - 1) / 2  # OpenCV counts from pixel centres
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        taken = cv2.warpAffine(frame, matrix, (self.size, self.size), borderValue=cv2.mean(frame)[:3])
        return taken.astype(np.uint8, copy=False)


def around(box: Boxes, factor: float, size: int, smallest: float = 0.0) -> Crop:
    """Return the crop of `size` pixels a side with a box (4,) at its centre.

    Its side in the frame is sqrt((w + p) (h + p)) with p = (factor - 1) (w + h) / 2, which is `factor` times the side
    of a square box; SwinTrack (arXiv 2112.00995) calls 2 for the template and 4 for the search "area factors". Sides
    below `smallest` pixels count as `smallest`.
    """
    width, height = np.maximum(box[2:], smallest)
    padding = (factor - 1) * (width + height) / 2
    scale = float(size / np.sqrt((width + padding) * (height + padding)))
    x, y = box[:2] + box[2:] / 2
    return Crop(centre=(float(x), float(y)), middle=(size / 2, size / 2), scale=(scale, scale), size=size)


def jittered(crop: Crop, box: Boxes, scale: float, translation: float, random: np.random.Generator) -> Crop:
    """Return the crop moved and stretched at random, with some of its box (4,) still inside.

    As in SwinTrack, each axis is divided by exp(scale * normal), and the box is moved from the centre uniformly by
    up to `translation` / 4 times the sum of its sides in the crop.
    """
    while True:
        wide, high = crop.scale / np.exp(scale * random.standard_normal(2))
        reach = float(box[2] * wide + box[3] * high) * translation / 2
        x, y = crop.size / 2 - (random.random(2) - 0.5) * reach
        moved = dataclasses.replace(crop, scale=(float(wide), float(high)), middle=(float(x), float(y)))
        if overlaps(moved.to_crop(box), crop.size, crop.size):
            return moved


def overlaps(box: Boxes, width: float, height: float) -> bool:
    """Return whether a box (4,) has an area inside a picture."""
    return bool((clipped(box, width, height)[2:] > 0).all())


def clipped(box: Boxes, width: float, height: float) -> Boxes:
    """Return the part of a box (4,) inside a picture; its area is 0 if it is outside."""
    low, high = box[:2], box[:2] + box[2:]
    size = np.array([width, height])
    low, high = np.clip(low, 0, size), np.clip(high, 0, size)
    return np.concatenate((low, high - low))


@DATASETS.register_module()
class Pairs:
    """An epoch of training pairs, each of a random source, sequence and two frames, as SwinTrack draws them.

    Sources (data sets) are equally likely, and so are the sequences of a source.

    Args:
        sources: the arguments of `sequences.load` for each source: layout, folder, split.
        pairs: their number in an epoch.
        limit: number of sequences of each source that are used; None for all.
        gap: largest distance of template and search in frames.
        scale, translation: jitter of the search crop, see `jittered`.
        grey: probability that both crops become grey.
        colour: jitter of brightness, contrast and saturation, independent for each crop.
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
        """Load the sequences; raises UserError for a source without a usable one."""
        loaded = [load(s["layout"], Path(s["folder"]), s["split"]) for s in sources]
        self.sources = [found.sequences[:limit] for found in loaded]
        self.pairs, self.gap, self.grey = pairs, gap, grey
        self.sizes, self.jitter = (template_size, img_size), (scale, translation)
        self.colours = v2.ColorJitter(colour, colour, colour)

    def __len__(self) -> int:
        """Return the number of pairs in an epoch."""
        return self.pairs

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Draw a pair by numpy's seed, not by `index`: crops uint8 RGB (3, S, S), and the box (4,) in the search.

        The box is centre x, y, width and height as shares of the crop's side, cut at its borders.
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


def present(video: Video) -> NDArray[np.bool_]:
    """Return which frames show the target, with a box that has an area."""
    return ~video.absent & (video.boxes[:, 2:] > 0).all(1)


def frames(video: Video, gap: int, random: np.random.Generator) -> tuple[int, int]:
    """Draw two frames that show the target, at most `gap` apart; the same frame twice only if there is no other."""
    shown = np.flatnonzero(present(video))
    first = random.choice(shown)
    near = shown[(abs(shown - first) <= gap) & (shown != first)]
    second = random.choice(near) if len(near) else first
    return int(first), int(second)
