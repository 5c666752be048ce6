"""Box and mask AP against pycocotools, which runs in a process of its own: here its name is taken."""

import json
import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.detection.metric import DetectionMetric

HEIGHT, WIDTH, IMAGES = 200, 300, 12
CLASSES = ("cat", "dog", "fox")  # in the file the ids are 7, 3, 90; the fox is nowhere
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP/cat", "AP/dog", "AP/fox")
Found = Mapping[str, np.ndarray]

ORACLE = """
import contextlib, io, json, sys
import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

def results(kind):
    for image, one in enumerate(json.load(open("{folder}/found.json"))):
        for box, score, label, area in zip(one["boxes"], one["scores"], one["labels"], one["masks"]):
            found = {{"image_id": image, "category_id": [7, 3, 90][label], "score": score}}
            if kind == "bbox":
                found["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            else:
                pixels = np.zeros(({height}, {width}), np.uint8, order="F")
                pixels[area[1] : area[3], area[0] : area[2]] = 1
                found["segmentation"] = mask.encode(pixels)
            yield found

def average(precision):
    defined = precision[precision > -1]
    return 100 * defined.mean() if defined.size else None

values = {{}}
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO("{folder}/truth.json")
    for kind, name in (("bbox", "bbox"), ("segm", "mask")):
        evaluation = COCOeval(truth, truth.loadRes(list(results(kind))), kind)
        evaluation.params.catIds, evaluation.params.useCats = [7, 3, 90], 1
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        stats = [100 * s if s > -1 else None for s in evaluation.stats[:6]]
        order = evaluation.params.catIds
        classes = [average(evaluation.eval["precision"][:, :, order.index(c), 0, -1]) for c in (7, 3, 90)]
        values[name] = stats + classes
print(json.dumps(values))
"""


def truth(crowds: bool = False) -> list[dict[str, Any]]:
    """Objects of every size in nine of the images; every fifth may be a crowd."""
    rng = np.random.default_rng(0)
    found = []
    for image in range(IMAGES - 3):
        for _ in range(rng.integers(1, 6)):
            left, top = (int(v) for v in rng.integers(0, (WIDTH - 150, HEIGHT - 120)))
            side = int(rng.choice([12, 50, 110]))
            width, height = side + int(rng.integers(0, 10)), side
            outline = [left, top, left + width, top, left + width, top + height, left, top + height]
            found.append(
                {
                    "id": len(found) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice([7, 3])),
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(crowds and len(found) % 5 == 0),
                    "segmentation": [outline],
                }
            )
    for a in (a for a in found if a["iscrowd"]):
        a["segmentation"] = crowd(a["bbox"])
    return found


def crowd(box: list[int]) -> dict[str, Any]:
    """COCO's uncompressed code: lengths of runs down the columns, outside first."""
    left, top, width, height = box
    runs = [left * HEIGHT + top]
    for _ in range(width):
        runs += [height, HEIGHT - height]
    runs[-1] = HEIGHT * WIDTH - sum(runs[:-1])
    return {"size": [HEIGHT, WIDTH], "counts": runs}


def write(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    content = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT, "file_name": f"{i}.png"} for i in range(IMAGES)],
        "categories": [{"id": 3, "name": "dog"}, {"id": 90, "name": "fox"}, {"id": 7, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def perfect(annotations: list[dict[str, Any]], image: int) -> Found:
    own = [a for a in annotations if a["image_id"] == image and not a["iscrowd"]]
    boxes = np.array([a["bbox"] for a in own], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([{7: 0, 3: 1}[a["category_id"]] for a in own], int)
    return {"boxes": boxes, "masks": boxes.astype(int), "labels": labels, "scores": np.ones(len(own))}


def noisy(annotations: list[dict[str, Any]], image: int) -> Found:
    """Objects shifted, some mislabelled, some lost, and boxes of nothing; the mask is not the box."""
    rng = np.random.default_rng(image)
    right = perfect(annotations, image)
    boxes = right["boxes"] + rng.normal(0, 4, right["boxes"].shape)
    seen = rng.random(len(boxes)) < 0.8
    corners = rng.integers(0, 100, (4, 2)).astype(float)
    wrong = np.hstack([corners, corners + rng.integers(8, 100, (4, 2))])
    boxes = np.vstack([boxes[seen], wrong, boxes[:1]])
    labels = np.concatenate([right["labels"][seen], rng.integers(0, 3, 4), right["labels"][:1]])
    masks = np.clip(boxes + rng.integers(-3, 4, boxes.shape), 0, (WIDTH, HEIGHT) * 2).astype(int)
    return {"boxes": boxes, "masks": masks, "labels": labels, "scores": rng.random(len(boxes))}


def nothing(annotations: list[dict[str, Any]], image: int) -> Found:
    return {
        "boxes": np.zeros((0, 4)),
        "masks": np.zeros((0, 4), int),
        "labels": np.zeros(0, int),
        "scores": np.zeros(0),
    }


def measure(file: Path, found: Mapping[int, Found]) -> dict[str, float]:
    metric = DetectionMetric(ann_file=str(file))
    metric.dataset_meta = {"classes": CLASSES}
    for image, one in found.items():
        masks = torch.zeros(len(one["masks"]), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, one["masks"], strict=True):
            mask[y1:y2, x1:x2] = True
        instances = {
            "bboxes": torch.from_numpy(one["boxes"]),
            "scores": torch.from_numpy(one["scores"]),
            "labels": torch.from_numpy(one["labels"]),
            "masks": masks,
        }
        sample = {"img_id": image, "ori_shape": (HEIGHT, WIDTH), "pred_instances": instances}
        metric.process({}, [sample])
    return dict(metric.evaluate(len(found)))


@pytest.mark.parametrize("crowds", [False, True])
def test_equals_pycocotools(
    tmp_path: Path, crowds: bool, python: Callable[[str], "subprocess.CompletedProcess[str]"]
) -> None:
    """Three of the images are without objects, and predictions lie there too."""
    annotations = truth(crowds)
    file = write(tmp_path, annotations)
    found = {image: noisy(annotations, image) for image in range(IMAGES)}
    plain = [{k: v.tolist() for k, v in one.items()} for one in found.values()]
    (tmp_path / "found.json").write_text(json.dumps(plain))
    done = python(ORACLE.format(folder=tmp_path, height=HEIGHT, width=WIDTH))
    assert done.returncode == 0, done.stderr

    metrics = measure(file, found)
    for kind, expected in json.loads(done.stdout).items():
        assert 5 < expected[0] < 95
        for name, value in zip(NAMES, expected, strict=True):
            ours = metrics[f"{kind}_{name}"]
            assert ours == pytest.approx(math.nan if value is None else value, nan_ok=True), name
    assert len(metrics) == 2 * len(NAMES)


@pytest.mark.parametrize("crowds", [False, True])
def test_truth_fed_back_scores_100(tmp_path: Path, crowds: bool) -> None:
    annotations = truth(crowds)
    found = {image: perfect(annotations, image) for image in range(IMAGES)}

    metrics = measure(write(tmp_path, annotations), found)
    for name, value in metrics.items():
        assert value == pytest.approx(math.nan if "fox" in name else 100, nan_ok=True), name


def test_nothing_found_scores_0(tmp_path: Path) -> None:
    annotations = truth()
    metrics = measure(write(tmp_path, annotations), {i: nothing(annotations, i) for i in range(IMAGES)})

    assert {name.partition("_")[2] for name in metrics} == set(NAMES)
    for name, value in metrics.items():
        assert value == pytest.approx(math.nan if "fox" in name else 0, nan_ok=True), name


def test_only_tested_images_count(tmp_path: Path) -> None:
    """All other objects would be missed."""
    annotations = truth()
    metrics = measure(write(tmp_path, annotations), {0: perfect(annotations, 0)})

    assert metrics["bbox_AP"] == metrics["mask_AP"] == pytest.approx(100)


def test_images_without_objects_alone_have_no_ap(tmp_path: Path) -> None:
    annotations = truth()
    metrics = measure(write(tmp_path, annotations), {IMAGES - 1: noisy(annotations, 0)})

    assert all(math.isnan(value) for value in metrics.values())
