"""Vertical CutDepth: a strip of the image, of full height, shows its depth instead.

Kim et al. 2022 (GLPDepth, arXiv 2201.07436, section 3.3), after Ishii and Yamashita 2021 (arXiv 2107.07684).
"""

from typing import Any

from adapters.openmmlab import runner as _runner  # noqa: F401  first: it readies the process for OpenMMLab  # isort: skip

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

PART = 0.75  # the widest strip, as a part of what is right of its left edge


@TRANSFORMS.register_module()
class VerticalCutDepth(BaseTransform):  # type: ignore[misc]  # mmcv is untyped
    """Replaces a strip of `img` (H, W, 3, 8 bits) by `gt_depth_map` (H, W, metres), at rate `prob`.

    The strip starts at a uniform column l, and is a uniform part of PART (W - l) wide, at least 1. By default
    depth 0 to max_depth is shown as 0 to 255. MIM-Depth writes the file's raw values into 8 bits, so they
    wrap modulo 256: `wrapped` does that.
    """

    def __init__(self, prob: float, max_depth: float, wrapped: bool = False) -> None:
        """`prob` is upstream's every fourth image, drawn by image instead of counted."""
        self.prob, self.max_depth, self.wrapped = prob, max_depth, wrapped

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Show the strip, or leave the image."""
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
