"""COCO's box and mask AP by faster-coco-eval: in percent, unrounded, by size and of every class."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.openmmlab import runner  # noqa: F401  # first: it readies the process  # isort: skip

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS

KINDS = {"bbox": "bbox", "segm": "mask"}  # COCO's name and ours
AREAS = {"APs": 1, "APm": 2, "APl": 3}  # of COCO's ranges: all, under 32^2, under 96^2, above


@METRICS.register_module()
class DetectionMetric(CocoMetric):  # type: ignore[misc]  # mmengine is untyped
    """mmdetection's COCO metric without its rounding, on the images that were tested.

    `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_APs`, `bbox_APm`, `bbox_APl`, `bbox_AP/<class>`, and
    the same of `mask`; NaN where there is nothing to find. Nothing found where there is something
    is 0. A label k is the category named `classes[k]`, whatever its place in the file.
    """

    default_prefix = None

    def compute_metrics(self, results: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, float]:
        """Evaluate the predictions of every image that was tested."""
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
    """COCO's table of precision, -1 where a class has no object, classes in the order given.

    Its axes: 10 overlaps (.5 to .95), 101 recalls, classes, 4 areas, 3 numbers of detections.
    """
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), kind)
    evaluation.params.imgIds, evaluation.params.catIds = images, categories
    evaluation.evaluate()
    evaluation.accumulate()
    rank = np.argsort(np.argsort(categories))  # it sorts the categories
    table: np.ndarray = evaluation.eval["precision"][:, :, rank]
    return table


def _detections(found: Mapping[str, Any], categories: Sequence[int], kind: str) -> list[dict[str, Any]]:
    """One image's predictions as COCO's results; a mask's area is its own, not its box's."""
    corners = found["bboxes"]
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    shapes = boxes if kind == "bbox" else found["masks"]
    key = "bbox" if kind == "bbox" else "segmentation"
    return [
        {"image_id": found["img_id"], "category_id": categories[label], "score": float(score), key: shape}
        for label, score, shape in zip(found["labels"], found["scores"], shapes, strict=True)
    ]


def _summary(precision: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Means over precision (10 overlaps, 101 recalls, classes, 4 areas, numbers of detections)."""
    values = {
        "AP": precision[:, :, :, 0, -1],
        "AP50": precision[0, :, :, 0, -1],
        "AP75": precision[5, :, :, 0, -1],
        **{name: precision[:, :, :, area, -1] for name, area in AREAS.items()},
        **{f"AP/{name}": precision[:, :, k, 0, -1] for k, name in enumerate(classes)},
    }
    return {name: _mean(value) for name, value in values.items()}


def _mean(precision: np.ndarray) -> float:
    """In percent; -1 marks a class without an object."""
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")
