"""COCO's box and mask AP by faster-coco-eval: in percent, unrounded, also by size and by class."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.openmmlab import runner  # noqa: F401  # first: prepares the process for OpenMMLab  # isort: skip

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS

KINDS = {"bbox": "bbox", "segm": "mask"}  # COCO's name -> the record's
AREAS = {"APs": 1, "APm": 2, "APl": 3}  # of COCO's ranges: all, under 32^2, under 96^2, above


@METRICS.register_module()
class DetectionMetric(CocoMetric):  # type: ignore[misc]  # mmengine is untyped
    """mmdetection's COCO metric without rounding, on the tested images.

    `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_APs`, `bbox_APm`, `bbox_APl`, `bbox_AP/<class>`, and the same of `mask`.
    NaN where there are no objects; 0 where there are, and none is found. Label k is the category named `classes[k]`.
    """

    default_prefix = None

    def compute_metrics(self, results: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, float]:
        """Return the scores of the predictions of all tested images."""
        truth, found = self._coco_api, [prediction for _, prediction in results]
        numbers = {category["name"]: category["id"] for category in truth.dataset["categories"]}
        categories = [numbers[name] for name in self.dataset_meta["classes"]]
        images = [prediction["img_id"] for prediction in found]
        metrics: dict[str, float] = {}
        for kind, name in KINDS.items():
            detections = [d for one in found for d in _detections(one, categories, kind)]
            table = precision(truth, detections, kind, images, categories)
            values = _summary(table, self.dataset_meta["classes"])
            metrics |= {f"{name}_{key}": value for key, value in values.items()}
        return metrics


def precision(
    truth: COCO, detections: list[dict[str, Any]], kind: str, images: Sequence[int], categories: Sequence[int]
) -> np.ndarray:
    """Return COCO's table of precision, with the classes in the given order; -1 where a class has no object.

    Axes: 10 overlaps (0.50 to 0.95), 101 recalls, classes, 4 areas, 3 numbers of detections.
    """
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), kind)
    evaluation.params.imgIds, evaluation.params.catIds = images, categories
    evaluation.evaluate()
    evaluation.accumulate()
    rank = np.argsort(np.argsort(categories))  # the evaluator sorts the categories
    table: np.ndarray = evaluation.eval["precision"][:, :, rank]
    return table


def _detections(found: Mapping[str, Any], categories: Sequence[int], kind: str) -> list[dict[str, Any]]:
    """Return one image's predictions in COCO's results format; masks have no box there, so their area is their own."""
    corners = found["bboxes"]
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    shapes = boxes if kind == "bbox" else found["masks"]
    key = "bbox" if kind == "bbox" else "segmentation"
    return [
        {"image_id": found["img_id"], "category_id": categories[label], "score": float(score), key: shape}
        for label, score, shape in zip(found["labels"], found["scores"], shapes, strict=True)
    ]


def _summary(precision: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Return means of the table of `precision`, by metric."""
    values = {
        "AP": precision[:, :, :, 0, -1],
        "AP50": precision[0, :, :, 0, -1],
        "AP75": precision[5, :, :, 0, -1],
        **{name: precision[:, :, :, area, -1] for name, area in AREAS.items()},
        **{f"AP/{name}": precision[:, :, k, 0, -1] for k, name in enumerate(classes)},
    }
    return {name: _mean(value) for name, value in values.items()}


def _mean(precision: np.ndarray) -> float:
    """Return the mean in percent, without the -1 of classes that have no object."""
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")
