"""The data set of image and depth pairs, and the transforms of MIM-Depth that OpenMMLab has not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.openmmlab import runner as _runner  # noqa: F401  first: it readies the process for OpenMMLab  # isort: skip

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from adapters.openmmlab import depth_data


@DATASETS.register_module()
class DepthPairs(BaseSegDataset):  # type: ignore[misc]  # mmengine is untyped
    """Every image of a folder with its depth; mmsegmentation's NYUDataset wants a digit in each name."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the pairs in the order in which they were checked."""
        folders = (Path(self.data_prefix[key]) for key in ("img_path", "depth_map_path"))
        return [
            {"img_path": str(image), "depth_map_path": str(depth), "seg_fields": []}
            for image, depth in depth_data.pairs(*folders)
        ]


@TRANSFORMS.register_module()
class LowerCentreCrop(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Keeps the middle of the lower edge: KITTI's benchmark crop of 352x1216."""

    def __init__(self, size: Sequence[int], keys: Sequence[str]) -> None:
        """`size` is (height, width); `keys` of the results, of one size all, are cropped."""
        self.size, self.keys = size, keys

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop; predictions will be resized to the crop, not to the file."""
        (height, width), (rows, columns) = self.size, results[self.keys[0]].shape[:2]
        top, left = rows - height, (columns - width) // 2
        for key in self.keys:
            results[key] = results[key][top:, left : left + width]
        if "img" in self.keys:
            results["ori_shape"] = results["img_shape"] = tuple(self.size)
        return results


@TRANSFORMS.register_module()
class ColourJitter(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Brightness and contrast, gamma, then hue, saturation and value, each at a rate of one half.

    The strengths are albumentations' defaults, which MIM-Depth takes: contrast factor 0.8-1.2, brightness
    +-0.2 of white, gamma 0.8-1.2, hue +-20 of 180, saturation +-30 and value +-20 of 255.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `img` (H, W, BGR, 8 bits)."""
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
