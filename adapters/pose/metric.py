"""Keypoint AP by faster-coco-eval through mmpose's CocoMetric, and PCK; in percent, unrounded."""

from collections.abc import Sequence
from typing import Any

from adapters.openmmlab import runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import numpy as np
from faster_coco_eval import COCO
from mmengine.registry import METRICS
from mmpose.evaluation.metrics import CocoMetric, PCKAccuracy
from numpy.typing import NDArray

from adapters.openmmlab.coco_evaluation import KeypointEval

# Indices into the evaluator's tables: COCO's ranges of area, and similarities 0.50, 0.55 to 0.95.
ALL, MEDIUM, LARGE = 0, 1, 2
AT_50, AT_75 = slice(0, 1), slice(5, 6)
ANY = slice(None)
# Ranges of `crowdIndex` as in CrowdPose's own evaluation, and so in all published numbers (its paper, section 4.1,
# puts the first bound at 0.1).
CROWDING = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}


@METRICS.register_module()
class KeypointAPMetric(CocoMetric):  # type: ignore[misc]  # mmengine is untyped
    """AP and AR over object keypoint similarity, as COCO defines them, in percent and unrounded.

    AP, AP50, AP75, AR, AR50, AR75; by area APm, APl, ARm, ARl; with `by_crowding` AP_easy, AP_medium and AP_hard
    instead (CrowdPose, whose persons have no area). NaN where no person belongs to a kind. Several categories
    (AP-10K's species) are averaged over those that occur.
    """

    default_prefix = None

    def __init__(self, by_crowding: bool = False, limit: int | None = None, **settings: Any) -> None:
        """Evaluate on the first `limit` images; `settings` go to mmpose's CocoMetric."""
        super().__init__(**settings)
        self.by_crowding = by_crowding
        self.images = list(self.coco.getImgIds())[:limit]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the scores; also without any prediction, which mmpose's own method does not allow."""
        if results:
            return dict(super().compute_metrics(results))
        return self._scores(COCO({**self.coco.dataset, "annotations": []}))

    def _do_python_keypoint_eval(self, outfile_prefix: str) -> Sequence[tuple[str, float]]:
        detections = self.coco.loadRes(f"{outfile_prefix}.keypoints.json")
        return list(self._scores(detections).items())

    def _scores(self, detections: COCO) -> dict[str, float]:
        precision, recall = self._tables(detections, self.images)
        scores = {
            "AP": _mean(precision, ANY, ALL),
            "AP50": _mean(precision, AT_50, ALL),
            "AP75": _mean(precision, AT_75, ALL),
            "AR": _mean(recall, ANY, ALL),
            "AR50": _mean(recall, AT_50, ALL),
            "AR75": _mean(recall, AT_75, ALL),
        }
        if self.by_crowding:
            return scores | self._by_crowding(detections)
        areas = {"m": MEDIUM, "l": LARGE}
        scores |= {f"AP{name}": _mean(precision, ANY, area) for name, area in areas.items()}
        return scores | {f"AR{name}": _mean(recall, ANY, area) for name, area in areas.items()}

    def _by_crowding(self, detections: COCO) -> dict[str, float]:
        index = {image: self.coco.imgs[image]["crowdIndex"] for image in self.images}
        levels = {
            name: [image for image, value in index.items() if low <= value < high]
            for name, (low, high) in CROWDING.items()
        }
        return {
            f"AP_{name}": _mean(self._tables(detections, images)[0], ANY, ALL) if images else np.nan
            for name, images in levels.items()
        }

    def _tables(self, detections: COCO, images: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return precision (similarities, recalls, categories, areas) and recall (similarities, categories, areas)."""
        sigmas = self.dataset_meta["sigmas"]
        evaluator = KeypointEval(self.coco, detections, "keypoints", sigmas, self.use_area)
        evaluator.params.imgIds = list(images)
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator.eval["precision"][..., 0], evaluator.eval["recall"][..., 0]


def _mean(table: NDArray[Any], similarities: slice, area: int) -> float:
    """Return the mean in percent, without the -1 of entries that no person belongs to."""
    values = table[similarities, ..., area]
    counted = values[values > -1]
    return 100 * float(counted.mean()) if counted.size else np.nan


@METRICS.register_module()
class PCKMetric(PCKAccuracy):  # type: ignore[misc]  # mmengine is untyped
    """Keypoints within `thr` times the longer side of the person's box, as "PCK@<thr>" in percent.

    The mean over kinds of keypoints, which is informative even while AP is near 0.
    """

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return PCK, named after its threshold."""
        pck = super().compute_metrics(results)["PCK"]
        return {f"PCK@{self.thr}": 100 * float(pck)}
