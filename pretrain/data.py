"""From an image's file to its random crops: decoded no larger than the crops need."""

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
RATIO = (3 / 4, 4 / 3)
TRIALS = 10


ORDER, CROP = 6, 7  # streams of random numbers, see bench.training.seeding
ALLOWED = 0.01  # the part of a source's images that may be unusable

log = logging.getLogger(__name__)


class Unusable(ValueError):
    """An image that cannot be pretrained on; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """What a method sees, on its device.

    Args:
        images: float32 [N, 3, H, W], normalised: the first crop of every image.
        others: a second crop of the same images, for views that need two.
        labels: int64 [N], or each class's share where images are mixed, float32 [N, classes].
        occluders: bool [N, H, W], True where the first crop shows what stands in front.
    """

    images: Tensor
    others: Tensor | None = None
    labels: Tensor | None = None
    occluders: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawBatch:
    """What a worker hands over: crops in bytes.

    Args:
        images, others: uint8 [N, 3, S, S].
        slots: int64 [N], the images' places in the step's batch, of which this process has its part.
        batch_size: images of the step's batch, over all processes.
        skipped: (name, reason) of the images that could not be used, and were replaced by the next.
    """

    images: Tensor
    others: Tensor | None
    labels: Tensor | None
    occluders: Tensor | None
    slots: Tensor
    batch_size: int
    skipped: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "RawBatch":
        """The same batch with its crops on a device; `slots` are read by the CPU and stay there."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "RawBatch":
        """The same batch in memory that a GPU reads without waiting; torch's loader calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Any) -> "RawBatch":
        names = ("images", "others", "labels", "occluders")
        there = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(self, **{name: change(value) for name, value in there.items()})


@dataclasses.dataclass
class CropBatches(Dataset):  # type: ignore[misc]  # torch is not followed
    """A source's batches by iteration, made in the process that asks.

    Args:
        batch_size: images of one step over all processes; this one gets its share.
        crops: 1 or 2 random crops of every image, of `scale` parts of its area, resized to img_size.
        occluders: also give what stands in front, which only the embedded world knows.
        smallest: an image with a side of fewer pixels, such as the patch's, is skipped.

    Raises UserError: occluders of a source that has none.
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
        """Refuse what the source cannot give."""
        assert self.batch_size % self.world_size == 0
        assert self.crops in (1, 2)
        if self.occluders and self.source.occluders is None:
            raise UserError(
                f"Masking by occluders needs to know what stands in front of what, and {self.source.name} does not "
                f"tell. Use --data scenes or species, or another masking."
            )

    def __getitem__(self, iteration: int) -> RawBatch | UserError:
        """The batch of an iteration; a user's mistake is handed over, not raised through torch's loader."""
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
        """Two crops (or one twice), occluders or None, the image's number, what was skipped."""
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
        """The crops of an image, uint8 [3, S, S], and the first one's occluders, bool [S, S]."""
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
    """The order of an epoch's images."""
    return np.random.default_rng([seed, ORDER, epoch, 0]).permutation(length)


def image_of(seed: int, position: int, length: int) -> int:
    """The image at a position of the endless sequence of shuffled epochs."""
    return int(order(seed, position // length, length)[position % length])


def refuse(source: ImageSource, unusable: int, last: tuple[str, str]) -> None:
    """Raise UserError when too many of a source's images cannot be used."""
    if unusable <= ALLOWED * len(source):
        return
    raise UserError(
        f"{unusable} of the {len(source):,} images of {source.name} cannot be used, more than the "
        f"{ALLOWED:.0%} that are passed over; the last is {last[0]}: {last[1]}. Restore or remove the bad images, "
        f"and run the same command again."
    )


class BatchLoader(DataLoader):  # type: ignore[misc]  # torch is not followed
    """torch's loader over `CropBatches`: raises a worker's UserError, and tells of skipped images once."""

    def __iter__(self) -> Iterator[RawBatch]:
        """The batches, iteration after iteration."""
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            note(self.dataset.source, batch.skipped)
            yield batch


def note(source: ImageSource, skipped: Sequence[tuple[str, str]]) -> None:
    """Count, name and, beyond the allowed, refuse the images that could not be used."""
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
    """Load the batches of iterations start_iteration to iterations - 1; without an end where None.

    Iterating over it raises UserError when too many images are unusable.
    """
    return BatchLoader(
        batches,
        sampler=range(start_iteration, sys.maxsize if iterations is None else iterations),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # Otherwise torch draws a number that nothing uses from the generator that the model uses.
        generator=torch.Generator().manual_seed(batches.seed),
    )


def draw_box(random: np.random.Generator, scale: tuple[float, float], width: int, height: int) -> Box:
    """Draw a box of a part of an image's area, in `scale`, and of an aspect ratio of 3/4 to 4/3.

    As torchvision's RandomResizedCrop does: the largest centred box of an allowed ratio where ten
    trials find none. It takes the same numbers from `random` whatever the image's size.
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
        draw: gives the crops' boxes for the image's width and height.
        size: the crops' height and width.
        smallest: an image with a shorter side is unusable.
        mask: bool [height, width], cropped and resized as the first crop.

    Returns:
        Crops, uint8 [3, size, size], and the first crop of the mask, bool [size, size].

    Raises:
        Unusable: the bytes are no whole image, or too small a one.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            boxes = draw(*_measured(image, smallest))
            shrunk = _shrink(image, boxes, size)
            rgb = as_rgb(image)
            crops = [_resized(rgb.crop(_divided(box, shrunk, rgb)), size) for box in boxes]
    except UnidentifiedImageError as error:
        raise Unusable(f"its {len(content):,} bytes are no image of a known kind") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(f"{error or type(error).__name__}") from error
    return crops, _cropped_mask(mask, boxes[0], size)


def _measured(image: Image.Image, smallest: int) -> tuple[int, int]:
    if min(image.size) < smallest:
        width, height = image.size
        raise Unusable(f"its {width} x {height} pixels are fewer than a patch of {smallest}")
    return image.size


def _shrink(image: Image.Image, boxes: list[Box], size: int) -> float:
    """Have the decoder halve the image while every crop keeps `size` pixels; return by how much.

    Only JPEG's can. The crops are then resized by less than a factor of 2.
    """
    width, height = image.size
    factor = min(min(right - left, lower - upper) for left, upper, right, lower in boxes) / size
    if factor < 2:
        return 1.0
    drafted = image.draft(None, (math.ceil(width / factor), math.ceil(height / factor)))
    return width / drafted[1][2] if drafted else 1.0


def _divided(box: Box, factor: float, image: Image.Image) -> Box:
    """The box in an image that is so many times smaller, to the nearest pixel."""
    left, upper, right, lower = (round(edge / factor) for edge in box)
    return left, upper, min(right, image.width), min(lower, image.height)


def _resized(crop: Image.Image, size: int) -> Tensor:
    """The crop as uint8 [3, size, size]: torch's own kernel for bytes takes a quarter of PIL's time."""
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]


def _cropped_mask(mask: NDArray[np.bool_] | None, box: Box, size: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR, box=box)) >= 128
