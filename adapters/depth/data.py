"""Images and depth maps of a data set: listed, checked once before training, augmented as in MIM-Depth."""

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

from adapters.depth.config import MIN_DEPTH
from adapters.depth.protocol import Layout
from bench.datasets.dataset import Example, Items
from bench.datasets.images import checked_once, open_whole, read
from bench.errors import UserError, unknown

Pair = tuple[Path, Path]
SUFFIXES = (".jpg", ".jpeg", ".png")
FLOATING = (".npy", ".npz", ".tif", ".tiff", ".exr", ".pfm")
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
USUAL_SCALES = (100, 256, 1000, 5000, 10000)


def calibrated(layout: Layout, folder: Path) -> Layout:
    """Return the layout with the values of the data set's calibration file; raises UserError for an invalid one."""
    file = folder / layout.calibration
    if not layout.calibration or not file.is_file():
        return layout
    expected = (
        'Expected is {"scale": units of a depth map per metre, "max_depth": metres}, both numbers above 0, or no such '
        f"file for {layout.scale:g} and {layout.max_depth:g}."
    )
    try:
        values = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}. {expected}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a {type(values).__name__}. {expected}")
    for key, value in values.items():
        if key not in ("scale", "max_depth"):
            raise UserError(f"{unknown(f'key in {file}', key, ('scale', 'max_depth'))} {expected}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise UserError(f"{file} has {key} = {json.dumps(value)}. {expected}")
    return dataclasses.replace(layout, **values)


def pairs(images: Path, depths: Path) -> list[Pair]:
    """Return every (image, depth map) below two folders, sorted; raises UserError if one is missing."""
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"{images} contains no images ({', '.join(SUFFIXES)}). Put them there, each with a 16-bit depth map of the "
            f"same name (.png) in {depths}."
        )
    both = [(image, (depths / image.relative_to(images)).with_suffix(".png")) for image in found]
    for image, depth in both:
        if not depth.is_file():
            raise _missing(image, depth)
    return both


def _missing(image: Path, depth: Path) -> UserError:
    others = (depth.with_suffix(suffix) for suffix in FLOATING)
    if other := next((p for p in others if p.is_file()), None):
        return UserError(
            f"The depth map {other} has a format that is not supported: expected is {depth.name}, 16-bit integers, 0 "
            "for no depth. Convert it: multiply metres by the scale (1000, KITTI's 256), round, and save as 16-bit "
            "PNG, NaN and infinity as 0."
        )
    return UserError(
        f"The image {image} has no depth map: expected {depth}. Add it, or remove the image from the split."
    )


def check(both: Sequence[Pair], layout: Layout, cache: Path) -> None:
    """Check every image and depth map, as `check_pair` does. Unchanged files are read once."""
    files = [path for pair in both for path in pair]
    settings = (layout.scale, layout.max_depth, layout.image_crop)
    with checked_once(cache, "depth", files, *settings) as unread:
        known = [check_pair(image, depth, layout) for image, depth in both] if unread else []
        if known and not any(known):
            raise UserError(
                f"None of the {len(known)} depth maps in {both[0][1].parent} has a depth: all their pixels are 0, "
                f"which means no depth. Give maps with depth, or remove the split."
            )


def check_pair(image: Path, path: Path, layout: Layout) -> bool:
    """Return whether any pixel has a depth; raises UserError, with the file and the reason, for an invalid map."""
    size, depth = open_whole(image).size, open_whole(path)
    _check_kind(depth, path, layout.scale)
    if depth.size != size:
        raise UserError(
            f"The depth map {path} measures {depth.size[0]}x{depth.size[1]} and its image {image.name} "
            f"{size[0]}x{size[1]}. Make them equal (resize depth by nearest neighbour)."
        )
    height, width = layout.image_crop or (1, 1)
    if size[0] < width or size[1] < height:
        raise UserError(
            f"The image {image} measures {size[0]}x{size[1]}, and {width}x{height} are cropped from each of this data "
            "set. Remove it, or use depth/folder for images of another size."
        )
    values = np.asarray(depth)
    _check_range(values, path, layout)
    return bool((values > 0).any())


def _check_kind(depth: Image.Image, path: Path, scale: float) -> None:
    convert = f"Save metres times {scale:g}, rounded, as a 16-bit PNG, 0 for no depth"
    if depth.mode == "F":
        wrong = int((~np.isfinite(np.asarray(depth))).sum())
        raise UserError(
            f"The depth map {path} holds floating-point numbers, {wrong} of them NaN or infinite; expected are 16-bit "
            f"integers. {convert}, also where it was NaN or infinite."
        )
    if depth.mode not in SIXTEEN_BITS:
        kind = "8 bits a pixel" if depth.mode in ("L", "P") else f"a picture of mode {depth.mode}"
        raise UserError(
            f"The depth map {path} is {kind}; expected is one channel of 16 bits: 8 cannot hold metric depth, and are "
            f"often a visualisation. {convert}."
        )


def _check_range(values: np.ndarray, path: Path, layout: Layout) -> None:
    """Raise UserError if most pixels with a depth lie out of range; a few such pixels are ignored everywhere."""
    known = values[values > 0]
    if not len(known):
        return
    metres = known / layout.scale
    beyond, beneath = (metres > layout.max_depth).mean(), (metres <= MIN_DEPTH).mean()
    if max(beyond, beneath) <= 0.5:
        return
    where = f"beyond {layout.max_depth:g} m" if beyond > beneath else "not above 1 mm"
    needed = np.percentile(known, 99) / layout.max_depth
    usual = next((s for s in USUAL_SCALES if needed <= s < 20 * needed), math.ceil(needed))
    raise UserError(
        f"Of the pixels of {path} that have a depth, most lie {where}: {metres.min():.4g} to {metres.max():.4g} m with "
        f"a scale of {layout.scale:g} a metre. The scale is wrong, or max_depth is: a scale of {usual} would put these "
        f"values, {known.min()} to {known.max()}, at {known.min() / usual:.4g} to {known.max() / usual:.4g} m. For "
        'data with their own scale or range use depth/folder, with a depth.json next to images/: {"scale": ..., '
        '"max_depth": ...}.'
    )


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return every image of a split with its depth, for `python -m bench.datasets`."""
    layout = calibrated(layout, folder)
    paths = (folder / p.format(split=split) for p in (layout.images, layout.depths))
    both = pairs(*paths)

    def example(index: int) -> Example:
        image, depth = both[index]
        check_pair(image, depth, layout)
        metres = np.asarray(open_whole(depth)).astype(float) / layout.scale
        return Example(image=read(image), caption=image.stem, depth=metres * (metres <= layout.max_depth))

    return Items(count=len(both), read=example)


@DATASETS.register_module()
class DepthPairs(BaseSegDataset):  # type: ignore[misc]  # mmengine is untyped
    """Every image of a folder with its depth; mmsegmentation's NYUDataset requires a digit in each name."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the pairs in the order of `pairs`."""
        folders = (Path(self.data_prefix[key]) for key in ("img_path", "depth_map_path"))
        return [
            {"img_path": str(image), "depth_map_path": str(depth), "seg_fields": []} for image, depth in pairs(*folders)
        ]


@TRANSFORMS.register_module()
class LowerCentreCrop(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Crops the middle of the lower edge, such as KITTI's benchmark crop of 352x1216."""

    def __init__(self, size: Sequence[int], keys: Sequence[str]) -> None:
        """Crop the `keys` of the results, which have one size, to `size` (height, width)."""
        self.size, self.keys = size, keys

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop; with "img", predictions will be resized to the crop, not to the file."""
        (height, width), (rows, columns) = self.size, results[self.keys[0]].shape[:2]
        top, left = rows - height, (columns - width) // 2
        for key in self.keys:
            results[key] = results[key][top:, left : left + width]
        if "img" in self.keys:
            results["ori_shape"] = results["img_shape"] = tuple(self.size)
        return results


@TRANSFORMS.register_module()
class ColourJitter(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Changes brightness and contrast, gamma, then hue, saturation and value, each with probability 1/2.

    The ranges are albumentations' defaults, which MIM-Depth uses: contrast factor 0.8-1.2, brightness
    +-0.2 of white, gamma 0.8-1.2, hue +-20 of 180, saturation +-30 and value +-20 of 255.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `img` (H, W, 3), BGR, 8 bits."""
        for change in (self._contrast, self._gamma, self._hue):
            if np.random.random() < 0.5:
                results["img"] = change(np.ascontiguousarray(results["img"]))
        return results

    @staticmethod
    def _contrast(image: np.ndarray) -> np.ndarray:
        factor, shift = np.random.uniform((0.8, -0.2), (1.2, 0.2))
        return cv2.LUT(image, _table(factor * np.arange(256) + 255 * shift))

    @staticmethod
    def _gamma(image: np.ndarray) -> np.ndarray:
        return cv2.LUT(image, _table(255 * (np.arange(256) / 255) ** np.random.uniform(0.8, 1.2)))

    @staticmethod
    def _hue(image: np.ndarray) -> np.ndarray:
        shifts = np.rint(np.random.uniform((-20, -30, -20), (20, 30, 20)))
        shifted = np.arange(256)[:, None] + shifts
        shifted[:, 0] %= 180  # hue is an angle, in units of two degrees
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        changed = cv2.LUT(hsv, _table(shifted)[None])
        return cv2.cvtColor(changed, cv2.COLOR_HSV2BGR)


def _table(values: np.ndarray) -> np.ndarray:
    table: np.ndarray = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return table


PART = 0.75  # the widest strip of CutDepth, as a part of the columns right of its left edge


@TRANSFORMS.register_module()
class VerticalCutDepth(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Replaces a strip of `img` (H, W, 3, 8 bits) by `gt_depth_map` (H, W, metres), with probability `prob`.

    Vertical CutDepth (Kim et al. 2022, GLPDepth, arXiv 2201.07436, section 3.3), after Ishii and Yamashita 2021
    (arXiv 2107.07684). The strip has full height, starts at a uniform column l, and is a uniform part of
    PART (W - l) wide, at least 1. Depth from 0 to max_depth becomes 0 to 255. MIM-Depth writes the file's raw values
    into 8 bits instead, so that they wrap modulo 256: `wrapped` does that.
    """

    def __init__(self, prob: float, max_depth: float, wrapped: bool = False) -> None:
        """Take the probability per image, where MIM-Depth counts every fourth image."""
        self.prob, self.max_depth, self.wrapped = prob, max_depth, wrapped

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the strip, or leave the image unchanged."""
        if np.random.random() >= self.prob:
            return results
        width = results["img"].shape[1]
        start, share = int(np.random.random() * width), np.random.random()
        strip = slice(start, start + max(int((width - start) * share * PART), 1))
        results["img"] = results["img"].copy()
        results["img"][:, strip] = self._shown(results, strip)[..., None]
        return results

    def _shown(self, results: dict[str, Any], strip: slice) -> np.ndarray:
        depth = results["gt_depth_map"][:, strip]
        if self.wrapped:
            shown = np.rint(depth / results["depth_rescale_factor"]) % 256
        else:
            shown = np.rint(255 * np.clip(depth / self.max_depth, 0, 1))
        bytes_: np.ndarray = shown.astype(np.uint8)
        return bytes_
