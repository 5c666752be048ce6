"""COCO's box AP on random boxes: the harness's metric (faster-coco-eval) beside pycocotools.

    make bench

5,000 images with COCO's 80 classes, 7 objects and 50 detections each; both sides start from the same
lists in memory, in one process, in turn, and must agree on the AP.
"""

import contextlib
import io
import statistics
import sys
import time
from typing import Any

import numpy as np

# The real one, before the harness serves its own under this name.
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from adapters.openmmlab import runner  # noqa: F401  # readies the process  # isort: skip

from faster_coco_eval import COCO as FasterCOCO

from adapters.detection import metric

IMAGES, CLASSES, OBJECTS, DETECTIONS, ROUNDS = 5000, 80, 7, 50, 3
WIDTH, HEIGHT = 640, 480


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random boxes (count, 4; x, y, width, height in pixels), of all sizes alike."""
    size = 2 ** rng.uniform(3, 8.5, (count, 2))
    return np.hstack([rng.uniform(0, (WIDTH, HEIGHT), (count, 2)) * 0.7, size]).round(2)


def world() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's ground truth and results; half of the detections lie about an object."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for image in range(1, IMAGES + 1):
        objects, labels = boxes(rng, OBJECTS), rng.integers(1, CLASSES + 1, OBJECTS)
        for box, label in zip(objects.tolist(), labels.tolist(), strict=True):
            row = {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            truth.append({**row, "id": len(truth) + 1, "iscrowd": 0})
        near = rng.integers(0, OBJECTS, DETECTIONS // 2)
        moved = objects[near] * rng.uniform(0.9, 1.1, (len(near), 4))
        all_boxes = np.vstack([moved, boxes(rng, DETECTIONS - len(near))]).round(2)
        all_labels = [*labels[near], *rng.integers(1, CLASSES + 1, DETECTIONS - len(near))]
        for box, label, score in zip(all_boxes.tolist(), all_labels, rng.random(DETECTIONS), strict=True):
            row = {"image_id": image, "category_id": int(label), "bbox": box}
            found.append({**row, "score": float(score)})
    images = [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, IMAGES + 1)]
    categories = [{"id": k, "name": str(k)} for k in range(1, CLASSES + 1)]
    return {"images": images, "annotations": truth, "categories": categories, "info": {}}, found


def seconds_of_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[float, float]:
    """Time and AP of the reference; what it prints is thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth
        data.createIndex()
        start = time.perf_counter()
        evaluation = COCOeval(data, data.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return time.perf_counter() - start, 100 * float(precision[precision > -1].mean())


def seconds_of_harness(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[float, float]:
    """Time and AP of what `DetectionMetric` does for boxes."""
    data = FasterCOCO(truth)
    ids = [[row["id"] for row in truth[key]] for key in ("images", "categories")]
    start = time.perf_counter()
    precision = metric.precision(data, found, "bbox", *ids)[:, :, :, 0, -1]
    return time.perf_counter() - start, 100 * float(precision[precision > -1].mean())


def main() -> None:
    """Print both medians."""
    truth, found = world()
    sides = {"harness": seconds_of_harness, "pycocotools": seconds_of_pycocotools}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    scores = set()
    for _ in range(ROUNDS):
        for side, evaluate in sides.items():
            rows = [dict(row) for row in found]  # both write into them
            seconds, score = evaluate(truth, rows)
            taken[side].append(seconds)
            scores.add(round(score, 9))
    assert len(scores) == 1, scores
    sys.stdout.write(f"box AP of {len(found):,} detections on {IMAGES:,} images ({scores.pop():.4f}), s\n")
    for side, values in taken.items():
        low, high = min(values), max(values)
        sys.stdout.write(f"  {side:14} {statistics.median(values):7.2f}  ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    main()
