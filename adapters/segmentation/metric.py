"""IoU of every class, in percent."""

from collections.abc import Mapping

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import numpy as np
from mmengine.registry import METRICS
from mmseg.evaluation.metrics import IoUMetric
from torch import Tensor


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):  # type: ignore[misc]  # mmengine is untyped
    """mmsegmentation's IoU in percent, unrounded, also of every class.

    A class that occurs in neither masks nor predictions is NaN, and is left out of the means.
    """

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> Mapping[str, float]:
        """Return mIoU, mAcc, aAcc and every "iou/<class>", from the areas of all images."""
        # In double: float32 cannot count the pixels of a large split exactly.
        areas = [sum(area.double() for area in column) for column in zip(*results, strict=True)]
        table = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        per_class = dict(zip(self.dataset_meta["classes"], table["IoU"], strict=True))
        return {
            "mIoU": 100 * float(np.nanmean(table["IoU"])),
            "mAcc": 100 * float(np.nanmean(table["Acc"])),
            "aAcc": 100 * float(table["aAcc"]),
            **{f"iou/{name}": 100 * float(value) for name, value in per_class.items()},
        }
