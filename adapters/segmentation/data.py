"""Images and masks of a segmentation data set: listed, checked once before training, and read one by one."""

import json
from collections.abc import Sequence
from pathlib import Path

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import mmseg.datasets  # noqa: F401  registers the data sets
import numpy as np
from mmseg.registry import DATASETS

from adapters.segmentation.config import IGNORED
from adapters.segmentation.protocol import Layout
from bench.datasets.dataset import Example, Items
from bench.datasets.images import checked_once, open_whole, read
from bench.errors import UserError

Pair = tuple[Path, Path]


def pairs(folder: Path, layout: Layout, split: str) -> list[Pair]:
    """Return every (image, mask) of "train" or "val", sorted or as listed; raises UserError if one is missing."""
    name = getattr(layout, split)
    images = folder / layout.images.format(split=name)
    masks = folder / layout.masks.format(split=name)
    if layout.listing:
        listing = folder / layout.listing.format(split=name)
        names = listing.read_text().split()
    else:
        listing = images
        found = sorted(images.rglob(f"*{layout.image_suffix}"))
        names = [str(p.relative_to(images))[: -len(layout.image_suffix)] for p in found]
    if not names:
        raise UserError(
            f"{listing} names no images ({layout.image_suffix}) for the split '{split}'. Put them there, with a mask "
            f"of the same name ({layout.mask_suffix}) in {masks}."
        )
    both = [(images / f"{n}{layout.image_suffix}", masks / f"{n}{layout.mask_suffix}") for n in names]
    for image, mask in both:
        if not image.is_file():
            raise UserError(
                f"The image {image}, which {listing} names, does not exist. Add it, or remove it from the list."
            )
        if not mask.is_file():
            raise UserError(
                f"The image {image} has no mask: expected {mask}. Add the mask, or remove the image from the split."
            )
    return both


def check(both: Sequence[Pair], num_classes: int, layout: Layout, cache: Path) -> None:
    """Check every image and mask, as `check_pair` does. Unchanged files are read once."""
    files = [path for pair in both for path in pair]
    with checked_once(cache, "masks", files, num_classes, layout.reduce_zero_label) as unread:
        for image, mask in both if unread else ():
            check_pair(image, mask, num_classes, layout)


def check_pair(image: Path, mask: Path, num_classes: int, layout: Layout) -> None:
    """Read an image and its mask; raises UserError, with the file and the reason, if the mask is invalid."""
    size = open_whole(image).size
    labels = open_whole(mask)
    if labels.mode not in ("L", "P"):
        raise UserError(
            f"The mask {mask} is a picture of mode {labels.mode}; expected is one channel of 8 bits (L or P), whose "
            "values are class numbers. Convert it to one class number per pixel."
        )
    if labels.size != size:
        raise UserError(
            f"The mask {mask} measures {labels.size[0]}x{labels.size[1]} and its image {image.name} "
            f"{size[0]}x{size[1]}. Make them equal (resize masks by nearest neighbour)."
        )
    last = num_classes if layout.reduce_zero_label else num_classes - 1
    found = np.flatnonzero(np.bincount(np.asarray(labels).ravel(), minlength=256))
    if wrong := [int(value) for value in found if last < value != IGNORED]:
        zero = " (0 means no class)" if layout.reduce_zero_label else ""
        raise UserError(
            f"The mask {mask} has the value {', '.join(map(str, wrong[:5]))}: with {num_classes} classes, 0 to "
            f"{last}{zero} and {IGNORED} (ignored) are allowed. Correct the mask, or the list of classes."
        )


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return every image of "train" or "val" with its mask, for `python -m bench.datasets`."""
    both = pairs(folder, layout, split)
    classes = class_names(folder, layout)
    zero = int(layout.reduce_zero_label)
    names = {k + zero: name for k, name in enumerate(classes)}

    def example(index: int) -> Example:
        image, mask = both[index]
        check_pair(image, mask, len(classes), layout)
        regions = np.asarray(open_whole(mask)).astype(int)
        return Example(image=read(image), caption=image.stem, regions=regions, names=names)

    return Items(count=len(both), read=example, classes=classes)


def class_names(folder: Path, layout: Layout) -> list[str]:
    """Return the class names of the data set's own file, or mmsegmentation's."""
    if layout.classes:
        return list(json.loads((folder / layout.classes).read_text())["classes"])
    return list(DATASETS.get(layout.upstream).METAINFO["classes"])
