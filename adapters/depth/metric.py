"""The errors of monocular depth: per image over its pixels of known depth, then averaged."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from adapters.depth.config import MIN_DEPTH
from adapters.depth.protocol import METRICS as NAMES


def errors(depth: Tensor, truth: Tensor) -> dict[str, float]:
    """Return the nine METRICS of one image's pixels; both arguments are one-dimensional, in metres, and positive.

    RMSE and SqRel are in metres, delta1 to delta3 fractions of 1, the others have no unit (Eigen et al.
    2014, arXiv 1406.2283). SILog is sqrt(mean(d^2) - 0.5 mean(d)^2) as in MIM-Depth, not KITTI's.
    """
    depth, truth = depth.double(), truth.double()
    difference, d = depth - truth, depth.log() - truth.log()
    ratio = torch.maximum(depth / truth, truth / depth)
    values = (
        difference.square().mean().sqrt(),
        *((ratio < 1.25**k).double().mean() for k in (1, 2, 3)),
        (difference.abs() / truth).mean(),
        (difference.square() / truth).mean(),
        d.square().mean().sqrt(),
        (depth.log10() - truth.log10()).abs().mean(),
        (d.square().mean() - 0.5 * d.mean().square()).sqrt(),
    )
    return dict(zip(NAMES, (float(v) for v in values), strict=True))


def measured(truth: Tensor, max_depth: float, crop: Sequence[float]) -> Tensor:
    """Return a mask (H, W) of the pixels that count: 1 mm < truth < max_depth, inside the crop.

    `crop` is top, bottom, left, right as parts of the image, rounded down to pixels.
    """
    height, width = truth.shape
    # The parts stand for whole pixels, but 471 / 480 * 480 is 470.99… in floating point.
    top, bottom, left, right = (
        int(part * side + 1e-6) for part, side in zip(crop, (height, height, width, width), strict=True)
    )
    inside = torch.zeros_like(truth, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    return inside & (truth > MIN_DEPTH) & (truth < max_depth)


@METRICS.register_module()
class DepthErrors(BaseMetric):  # type: ignore[misc]  # mmengine is untyped
    """The mean of `errors` over images; images without a measured pixel are left out, and counted.

    mmsegmentation's DepthMetric has no Garg crop, adds NaN for such an image, and fails on a choice of metrics.
    Predictions are clamped to at least 1 mm, as logarithms require.
    """

    def __init__(self, max_depth: float, crop: Sequence[float]) -> None:
        """See `measured`."""
        super().__init__()
        self.max_depth, self.crop = max_depth, crop

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Measure each image of a batch."""
        for sample in data_samples:
            depth = sample["pred_depth_map"]["data"].squeeze(0)
            truth = sample["gt_depth_map"]["data"].squeeze(0).to(depth.device)
            counted = measured(truth, self.max_depth, self.crop)
            found = errors(depth[counted].clamp(min=MIN_DEPTH), truth[counted])
            self.results.append(found if counted.any() else None)

    def compute_metrics(self, results: list[dict[str, float] | None]) -> Mapping[str, float]:
        """Return the means; NaN if no image could be measured."""
        found = [result for result in results if result is not None]
        without = len(results) - len(found)
        if without:
            print_log(f"{without} images without depth to measure", "current", logging.WARNING)
        means = {name: sum(r[name] for r in found) / len(found) if found else float("nan") for name in NAMES}
        return {**means, "images_without_depth": float(without)}
