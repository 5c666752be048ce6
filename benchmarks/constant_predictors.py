"""What one gets without looking: the floor under pose and depth, on the embedded world and on real data.

    PYTHONPATH=. python benchmarks/constant_predictors.py [DATA_ROOT]

Pose: every person has the training split's mean pose, relative to the box. Depth: every pixel is at
the training split's mean depth (for RMSE), or its median (for delta1).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.depth import FOLDER_LAYOUT, HOLOLENS, SCENES_LAYOUT, Layout
from adapters.depth.metric import errors, measured  # first: it readies the process

import torch  # isort: skip
from faster_coco_eval import COCO  # isort: skip

from adapters.openmmlab.coco_evaluation import KeypointEval
from adapters.pose import COCO as COCO_DATA
from bench.datasets.dataset import EmbeddedWorld

# COCO's sigmas: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
SIGMAS = [0.026, *[0.025] * 2, *[0.035] * 2, *[0.079] * 2, *[0.072] * 2]
SIGMAS += [*[0.062] * 2, *[0.107] * 2, *[0.087] * 2, *[0.089] * 2]


def persons(folder: Path, split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The annotation file, and its persons with labelled keypoints."""
    file = folder / f"annotations/person_keypoints_{split}.json"
    content = json.loads(file.read_text("utf-8"))
    return content, [a for a in content["annotations"] if a["num_keypoints"]]


def arrays(found: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints (n, 17, 2), whether they are labelled (n, 17), and boxes (n, 4; x, y, width, height)."""
    points = np.array([a["keypoints"] for a in found], float).reshape(len(found), -1, 3)
    return points[..., :2], points[..., 2] > 0, np.array([a["bbox"] for a in found], float)


def pose(folder: Path, year: str = "") -> dict[str, float]:
    """AP and PCK@0.1 of the mean pose, in percent."""
    points, labelled, boxes = arrays(persons(folder, f"train{year}")[1])
    relative = (points - boxes[:, None, :2]) / boxes[:, None, 2:]
    mean = (relative * labelled[..., None]).sum(0) / labelled.sum(0)[:, None]

    content, found = persons(folder, f"val{year}")
    points, labelled, boxes = arrays(found)
    guess = boxes[:, None, :2] + mean * boxes[:, None, 2:]
    near = np.linalg.norm(guess - points, axis=2) <= 0.1 * boxes[:, 2:].max(1)[:, None]
    per_keypoint = (near & labelled).sum(0) / labelled.sum(0)
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "keypoints": np.pad(g, ((0, 0), (0, 1)), constant_values=1).ravel().tolist(),
            "score": 1.0,
        }
        for a, g in zip(found, guess, strict=True)
    ]
    truth = COCO(content)
    evaluation = KeypointEval(truth, truth.loadRes(results), "keypoints", np.array(SIGMAS))
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]
    return {"AP": 100 * float(precision.mean()), "PCK@0.1": 100 * float(per_keypoint.mean())}


def depths(folder: Path, layout: Layout, split: str) -> list[torch.Tensor]:
    """The measured pixels of every image that has any, in metres."""
    found = []
    for file in sorted((folder / layout.depths.format(split=split)).glob("*.png")):
        depth = torch.from_numpy(np.asarray(Image.open(file)) / layout.scale)
        kept = depth[measured(depth, layout.max_depth, layout.eval_crop)]
        found += [kept] if len(kept) else []
    return found


def depth(folder: Path, layout: Layout) -> dict[str, float]:
    """RMSE of the mean in metres, delta1 of the median as a fraction."""
    train, val = torch.cat(depths(folder, layout, "train")), depths(folder, layout, "val")

    def mean(name: str, constant: torch.Tensor) -> float:
        return float(np.mean([errors(constant.expand_as(t), t)[name] for t in val]))

    return {"RMSE": mean("RMSE", train.mean()), "delta1": mean("delta1", train.median())}


def main() -> None:
    """Print a line for each task."""
    world = EmbeddedWorld().locate(None)
    floors = {"pose/scenes": pose(world), "depth/scenes": depth(world, SCENES_LAYOUT)}
    for root in map(Path, sys.argv[1:]):
        floors["pose/coco"] = pose(root / COCO_DATA.root, "2017")
        floors["depth/hololens"] = depth(root / HOLOLENS.root, FOLDER_LAYOUT)
    for task, scores in floors.items():
        sys.stdout.write(f"{task}: {', '.join(f'{k} {v:.3f}' for k, v in scores.items())}\n")


if __name__ == "__main__":
    main()
