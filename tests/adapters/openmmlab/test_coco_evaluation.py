import json
import logging
import math
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
import pytest
import torch

from adapters.openmmlab import coco_evaluation
from adapters.openmmlab.compatibility import prepare

prepare()

import mmdet.evaluation  # noqa: E402
import mmpose.evaluation  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from pycocotools import mask as rle  # noqa: E402  what mmdet imports: faster-coco-eval's

# The sigmas of COCO's keypoints (cocodataset.org, "keypoints evaluation").
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def write(path: Path, annotations: list[dict[str, Any]], **image: Any) -> str:
    ids = sorted({a["image_id"] for a in annotations})
    content = {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": "", **image} for i in ids],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": n, "iscrowd": 0, "category_id": 1, **a} for n, a in enumerate(annotations, 1)],
    }
    path.write_text(json.dumps(content))
    return str(path)


def scenes(count: int) -> dict[int, np.ndarray]:
    """Ground-truth boxes (x1 y1 x2 y2) by image, some small, some large."""
    rng = np.random.default_rng(0)
    found = {}
    for image in range(1, count + 1):
        corner = rng.integers(0, 300, (rng.integers(2, 6), 2))
        found[image] = np.hstack([corner, corner + rng.integers(12, 150, corner.shape)])
    return found


def box_mask(box: np.ndarray) -> np.ndarray:
    mask = np.zeros((480, 640), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def box_annotation(image: int, box: np.ndarray) -> dict[str, Any]:
    code = rle.encode(np.asfortranarray(box_mask(box)))
    width, height = (box[2:] - box[:2]).tolist()
    return {
        "image_id": image,
        "bbox": [int(box[0]), int(box[1]), width, height],
        "area": width * height,
        "segmentation": {"size": [480, 640], "counts": code["counts"].decode()},
    }


def box_metric(
    path: Path, truth: dict[int, np.ndarray], found: dict[int, tuple[np.ndarray, np.ndarray]], kind: str
) -> dict[str, float]:
    file = write(path / "truth.json", [box_annotation(i, b) for i in truth for b in truth[i]])
    metric = mmdet.evaluation.CocoMetric(ann_file=file, metric=kind)
    metric.dataset_meta = {"classes": ("person",)}
    for image, (boxes, scores) in found.items():
        instances = {
            "bboxes": torch.as_tensor(boxes, dtype=torch.float32),
            "scores": torch.as_tensor(scores),
            "labels": torch.zeros(len(boxes), dtype=torch.long),
            "masks": torch.as_tensor(np.stack([box_mask(b.astype(int)) for b in boxes])).bool(),
        }
        metric.process({}, [{"img_id": image, "ori_shape": (480, 640), "pred_instances": instances}])
    return metric.evaluate(len(found))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_as_detections_is_perfect(tmp_path: Path, kind: str) -> None:
    truth = scenes(8)
    found = {image: (boxes, np.ones(len(boxes))) for image, boxes in truth.items()}
    scores = box_metric(tmp_path, truth, found, kind)
    for name in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"):
        assert scores[f"coco/{kind}_{name}"] == 1.0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def slow_ap(truth: dict[int, np.ndarray], found: dict[int, tuple[np.ndarray, np.ndarray]], threshold: float) -> float:
    """Average precision of one class at one overlap, as COCO defines it: 101 recalls, greedy matches."""
    free = {image: list(range(len(boxes))) for image, boxes in truth.items()}
    ranked = sorted(
        ((s, image, b) for image, (boxes, scores) in found.items() for b, s in zip(boxes, scores, strict=True)),
        key=lambda item: -item[0],
    )
    hits = []
    for _, image, box in ranked:
        ious = {i: overlap(box, truth[image][i]) for i in free[image]}
        best = max(ious, key=lambda i: ious[i], default=None)
        hits.append(best is not None and ious[best] >= threshold)
        if hits[-1]:
            free[image].remove(best)
    total, right = sum(map(len, truth.values())), np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / total
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))


def test_ap_of_imperfect_detections_equals_the_definition(tmp_path: Path) -> None:
    truth, rng, found = scenes(20), np.random.default_rng(1), {}
    for image, boxes in truth.items():
        moved = boxes[: len(boxes) - image % 2] + rng.normal(0, 6, (len(boxes) - image % 2, 4))
        wrong = np.array([[400.0, 300, 460, 420]])
        found[image] = (np.vstack([moved, wrong]), rng.random(len(moved) + 1))
    scores = box_metric(tmp_path, truth, found, "bbox")
    expected = [slow_ap(truth, found, threshold) for threshold in THRESHOLDS]
    assert 0.2 < np.mean(expected) < 0.9
    rounding = 6e-4  # mmdet reports three decimals
    assert scores["coco/bbox_mAP"] == pytest.approx(np.mean(expected), abs=rounding)
    assert scores["coco/bbox_mAP_50"] == pytest.approx(expected[0], abs=rounding)
    assert scores["coco/bbox_mAP_75"] == pytest.approx(expected[5], abs=rounding)


def people(count: int) -> dict[int, np.ndarray]:
    """Keypoints (17, 2) of one person an image, each inside a box of 100 x 200 at (50, 50)."""
    rng = np.random.default_rng(0)
    return {image: 50 + rng.random((17, 2)) * [100, 200] for image in range(1, count + 1)}


def pose_metric(
    path: Path, truth: dict[int, np.ndarray], found: dict[int, np.ndarray], sigmas: np.ndarray, **settings: Any
) -> dict[str, float]:
    annotations = [
        {
            "image_id": image,
            "bbox": [50, 50, 100, 200],
            "area": 12000,
            "num_keypoints": 17,
            "keypoints": np.hstack([points, np.full((17, 1), 2)]).ravel().tolist(),
        }
        for image, points in truth.items()
    ]
    file = write(path / "truth.json", annotations, crowdIndex=0.5)
    metric = mmpose.evaluation.CocoMetric(ann_file=file, **settings)
    metric.dataset_meta = {"dataset_name": "coco", "num_keypoints": 17, "sigmas": sigmas}
    for image, points in found.items():
        sample = {
            "id": image,
            "img_id": image,
            "pred_instances": {"keypoints": points[None], "keypoint_scores": np.ones((1, 17))},
            "gt_instances": {"bbox_scores": np.ones(1), "bbox_scales": np.array([[125.0, 250.0]])},
        }
        metric.process({}, [sample])
    return metric.evaluate(len(found))


@pytest.mark.parametrize("kind", ["keypoints", "keypoints_crowd"])
def test_ground_truth_as_keypoints_is_perfect(tmp_path: Path, kind: str) -> None:
    truth = people(6)
    scores = pose_metric(tmp_path, truth, truth, SIGMAS, iou_type=kind)
    for name in ("AP", "AP .5", "AP .75", "AR"):
        assert scores[f"coco/{name}"] == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("use_area", [True, False])
def test_keypoint_ap_follows_from_the_similarity(tmp_path: Path, use_area: bool, scale: float) -> None:
    # Every point off by d: OKS = mean exp(-d^2 / (2 A (2 sigma)^2)), and with one person an image
    # AP is the part of the thresholds that OKS reaches. The area is 0.53 of the box without use_area.
    truth, sigmas = people(4), SIGMAS * scale
    offset = np.array([3.0, 4.0])
    area = 12000 if use_area else 0.53 * 100 * 200
    oks = np.mean([math.exp(-25 / (2 * area * (2 * s) ** 2)) for s in sigmas])
    found = {image: points + offset for image, points in truth.items()}
    scores = pose_metric(tmp_path, truth, found, sigmas, use_area=use_area)
    assert 0.5 < oks < 0.95
    assert np.abs(THRESHOLDS - oks).min() > 1e-3
    assert scores["coco/AP"] == pytest.approx(np.mean(oks >= THRESHOLDS))


def test_faster_coco_eval_answers_to_every_name() -> None:
    import mmdet.datasets.api_wrappers as wrappers
    from mmpose.evaluation.metrics import coco_metric

    readers = [wrappers.COCO.__base__, wrappers.COCOeval, coco_metric.COCO]
    assert all(cls.__module__.startswith("faster_coco_eval.") for cls in readers)
    assert coco_metric.COCOeval is coco_evaluation.KeypointEval
    assert rle is faster_coco_eval.mask


def test_evaluation_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = MMLogger.get_current_instance()  # writes to the screen too, where its level lets it
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # logging.disable() does not reach what it has cached
    try:
        truth = people(2)
        pose_metric(tmp_path, truth, truth, SIGMAS)
        box_metric(tmp_path, scenes(1), {1: (scenes(1)[1], np.ones(len(scenes(1)[1])))}, "bbox")
    finally:
        logger.setLevel(level)
    assert "".join(capfd.readouterr()) == ""
