"""Batches of random crops for pretraining, decoded in worker processes.

The images of a batch and their crops depend on (seed, iteration, slot) only, a slot being an image's place in the
step's batch. So a resumed run replays nothing, and the numbers of workers and processes change nothing. Flips,
colours and normalisation follow on the device, in `pretrain.augment`.
"""

import dataclasses
import functools
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bench.datasets.images import as_rgb
from bench.errors import UserError
from pretrain.sources import ImageSource

Box = tuple[int, int, int, int]  # left, upper, right, lower in pixels
ORDER, CROP = 6, 7  # this module's streams of random numbers, see bench.training.seeding
RATIO, TRIALS = (3 / 4, 4 / 3), 10  # of crops: aspect ratios, and boxes drawn before giving up
ALLOWED = 0.01  # share of a source's images that may be unusable

log = logging.getLogger(__name__)


class Unusable(ValueError):
    """An image that cannot be used; the message is the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A method's input, on its device.

    Args:
        images: float32 [N, 3, H, W], normalised: the first crop of every image.
        others: a second crop of the same images, for views that need two.
        labels: int64 [N], or each class's share if images are mixed, float32 [N, classes].
        occluders: bool [N, H, W], True where the first crop shows a thing that hides part of another.
    """

    images: Tensor
    others: Tensor | None = None
    labels: Tensor | None = None
    occluders: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawBatch:
    """A worker's batch: crops before augmentation.

    Args:
        images, others: uint8 [N, 3, S, S].
        slots: int64 [N], the images' places in the step's batch, which processes share.
        batch_size: images of the step's batch, over all processes.
        skipped: (name, reason) of the images that could not be used and were replaced by the next.
    """

    images: Tensor
    others: Tensor | None
    labels: Tensor | None
    occluders: Tensor | None
    slots: Tensor
    batch_size: int
    skipped: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "RawBatch":
        """Return the batch with its crops on a device; `slots` stay on the CPU, which reads them."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "RawBatch":
        """Return the batch in page-locked memory; torch's loader calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Any) -> "RawBatch":
        there = {name: value for name, value in vars(self).items() if isinstance(value, Tensor) and name != "slots"}
        return dataclasses.replace(self, **{name: change(value) for name, value in there.items()})


@dataclasses.dataclass
class CropBatches(Dataset):  # type: ignore[misc]  # torch is not followed
    """A data set whose item i is the raw batch of iteration i.

    Args:
        batch_size: images of one step over all processes; this process gets its share.
        crops: 1 or 2 random crops of every image, of a share of its area in `scale`, resized to img_size.
        occluders: also return the occluders' masks, which only the embedded world has.
        smallest: images with a shorter side, in pixels, are skipped (a patch, for example).

    Raises UserError for occluders of a source that has none.
    """

    source: ImageSource
    _: dataclasses.KW_ONLY
    batch_size: int
    img_size: int
    seed: int
    crops: int = 1
    scale: tuple[float, float] = (0.2, 1.0)
    occluders: bool = False
    smallest: int = 1
    rank: int = 0
    world_size: int = 1
    unusable: dict[int, str] = dataclasses.field(default_factory=dict)  # found by this process

    def __post_init__(self) -> None:
        """Check that the source has what is asked for."""
        assert self.batch_size % self.world_size == 0
        assert self.crops in (1, 2)
        if self.occluders and self.source.occluders is None:
            raise UserError(
                f"The masking 'occluders' needs annotations of which things hide others, and {self.source.name} has "
                f"none. Use --data scenes or species, or another --masking."
            )

    def __getitem__(self, iteration: int) -> RawBatch | UserError:
        """Return the batch of an iteration, or a UserError: torch's loader would change one raised in a worker."""
        slots = range(self.rank, self.batch_size, self.world_size)
        try:
            samples = [self._sample(iteration, slot) for slot in slots]
        except UserError as error:
            return error
        images, others, occluders, indices, skipped = zip(*samples, strict=True)
        labels = self.source.labels
        return RawBatch(
            images=torch.stack(images),
            others=torch.stack(others) if self.crops == 2 else None,
            labels=None if labels is None else torch.from_numpy(labels[list(indices)]),
            occluders=torch.from_numpy(np.stack(occluders)) if self.occluders else None,
            slots=torch.tensor(slots),
            batch_size=self.batch_size,
            skipped=tuple(dict.fromkeys(one for some in skipped for one in some)),
        )

    def _sample(self, iteration: int, slot: int) -> tuple[Any, ...]:
        """Return two crops (or one twice), occluders or None, the image's number, and the images skipped."""
        place = image_of(self.seed, iteration * self.batch_size + slot, len(self.source))
        skipped: list[tuple[str, str]] = []
        while True:
            index = int(self.source.chosen[place])
            try:
                pixels, occluders = self._cropped(index, iteration, slot)
                return pixels[0], pixels[-1], occluders, index, skipped
            except (OSError, Unusable) as error:
                self.unusable[index] = str(error).splitlines()[0]
                skipped.append((self.source.storage.where(index), self.unusable[index]))
                refuse(self.source, len(self.unusable), skipped[-1])
                place = (place + 1) % len(self.source)

    def _cropped(self, index: int, iteration: int, slot: int) -> tuple[Any, Any]:
        """Return an image's crops, uint8 [3, S, S], and the first one's occluders, bool [S, S]."""
        if index in self.unusable:
            raise Unusable(self.unusable[index])
        random = np.random.default_rng([self.seed, CROP, iteration, slot])
        draw = functools.partial(draw_box, random, self.scale)
        occluders = self.source.occluders
        return crops_of(
            self.source.storage.read(index),
            draw=lambda width, height: [draw(width, height) for _ in range(self.crops)],
            size=self.img_size,
            smallest=self.smallest,
            mask=occluders(index) if occluders and self.occluders else None,
        )


@functools.lru_cache(maxsize=2)
def order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return the permutation of an epoch's images."""
    return np.random.default_rng([seed, ORDER, epoch, 0]).permutation(length)


def image_of(seed: int, position: int, length: int) -> int:
    """Return the image at a position of the endless sequence of shuffled epochs."""
    return int(order(seed, position // length, length)[position % length])


def refuse(source: ImageSource, unusable: int, last: tuple[str, str]) -> None:
    """Raise UserError if too many of a source's images are unusable; `last` is (name, reason)."""
    if unusable <= ALLOWED * len(source):
        return
    raise UserError(
        f"{unusable} of the {len(source):,} images of {source.name} cannot be used; at most {ALLOWED:.0%} are "
        f"skipped. The last one is {last[0]}: {last[1]}. Restore or remove the bad images, and run the same command "
        f"again."
    )


class BatchLoader(DataLoader):  # type: ignore[misc]  # torch is not followed
    """torch's loader over `CropBatches`: raises a worker's UserError, and logs each skipped image once."""

    def __iter__(self) -> Iterator[RawBatch]:
        """Iterate over the batches."""
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            note(self.dataset.source, batch.skipped)
            yield batch


def note(source: ImageSource, skipped: Sequence[tuple[str, str]]) -> None:
    """Record and log the unusable images; raises UserError when there are too many."""
    for name, reason in skipped:
        if name in source.skipped:
            continue
        source.skipped[name] = reason
        log.warning("Skipped %s: %s (%d so far).", name, reason, len(source.skipped))
        refuse(source, len(source.skipped), (name, reason))


def loader(
    batches: CropBatches,
    *,
    start_iteration: int = 0,
    iterations: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> BatchLoader:
    """Load the batches of iterations start_iteration to iterations - 1, or without an end.

    Iterating raises UserError when too many images are unusable.
    """
    return BatchLoader(
        batches,
        sampler=range(start_iteration, sys.maxsize if iterations is None else iterations),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # Without a generator of its own, the loader would draw an unused number from the model's.
        generator=torch.Generator().manual_seed(batches.seed),
    )


def draw_box(random: np.random.Generator, scale: tuple[float, float], width: int, height: int) -> Box:
    """Draw a box with a share of the image's area in `scale` and an aspect ratio of 3/4 to 4/3.

    As torchvision's RandomResizedCrop: after ten boxes that do not fit, the largest centred one. The number of
    draws from `random` does not depend on the image's size.
    """
    areas = random.uniform(*scale, size=TRIALS) * width * height
    ratios = np.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1]), size=TRIALS))
    across, down = random.random(), random.random()
    for w, h in np.sqrt(np.stack([areas * ratios, areas / ratios], 1)).round().astype(int).tolist():
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def crops_of(
    content: bytes,
    *,
    draw: Callable[[int, int], list[Box]],
    size: int,
    smallest: int = 1,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[list[Tensor], NDArray[np.bool_] | None]:
    """Decode an image, crop it and resize the crops (bicubic).

    Args:
        draw: returns the crops' boxes for the image's width and height.
        size: the crops' height and width.
        smallest: an image with a shorter side is unusable.
        mask: bool [height, width], cropped and resized like the first crop.

    Returns:
        Crops, uint8 [3, size, size], and the first crop of the mask, bool [size, size].

    Raises:
        Unusable: the bytes are not a complete image, or the image is too small.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            boxes = draw(*_measured(image, smallest))
            shrunk = _shrink(image, boxes, size)
            rgb = as_rgb(image)
            crops = [_resized(rgb.crop(_divided(box, shrunk, rgb)), size) for box in boxes]
    except UnidentifiedImageError as error:
        raise Unusable(f"its {len(content):,} bytes are not an image of a known format") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(f"{error or type(error).__name__}") from error
    return crops, _cropped_mask(mask, boxes[0], size)


def _measured(image: Image.Image, smallest: int) -> tuple[int, int]:
    if min(image.size) < smallest:
        width, height = image.size
        raise Unusable(f"its {width} x {height} pixels are fewer than a patch of {smallest}")
    return image.size


def _shrink(image: Image.Image, boxes: list[Box], size: int) -> float:
    """Let the JPEG decoder halve the image while every crop has at least `size` pixels; return the factor.

    Other formats are decoded whole, with the factor 1.
    """
    width, height = image.size
    factor = min(min(right - left, lower - upper) for left, upper, right, lower in boxes) / size
    if factor < 2:
        return 1.0
    drafted = image.draft(None, (math.ceil(width / factor), math.ceil(height / factor)))
    return width / drafted[1][2] if drafted else 1.0


def _divided(box: Box, factor: float, image: Image.Image) -> Box:
    """Return the box in an image that is smaller by `factor`, rounded to pixels."""
    left, upper, right, lower = (round(edge / factor) for edge in box)
    return left, upper, min(right, image.width), min(lower, image.height)


def _resized(crop: Image.Image, size: int) -> Tensor:
    """Resize a crop to uint8 [3, size, size] by torch, whose kernel for bytes takes a quarter of PIL's time."""
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]


def _cropped_mask(mask: NDArray[np.bool_] | None, box: Box, size: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR, box=box)) >= 128
