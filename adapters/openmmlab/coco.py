"""COCO evaluation by faster-coco-eval, under the names that mmdet and mmpose import.

mmdet imports `pycocotools`, mmpose `xtcocotools` (whose wheel is built for numpy 1). faster-coco-eval
always answers to both, also where pycocotools itself is installed (mmdet's requirements name it),
so that one implementation gives every COCO number.
"""

import logging
import sys
from types import ModuleType
from typing import Any

import faster_coco_eval
from faster_coco_eval import coco, cocoeval, mask

ANNOTATION_READERS = ("mmdet.datasets.api_wrappers", "mmpose.evaluation")


class KeypointEval(cocoeval.COCOeval):  # type: ignore[misc]  # faster-coco-eval is untyped
    """The evaluator with xtcocotools' constructor, which mmpose calls by position."""

    def __init__(
        self,
        cocoGt: Any = None,
        cocoDt: Any = None,
        iouType: str = "keypoints",
        sigmas: Any = None,
        use_area: bool = True,
    ) -> None:
        """Evaluate with per-keypoint `sigmas`; without `use_area`, 0.53 of the box is the area."""
        super().__init__(cocoGt, cocoDt, iouType, kpt_oks_sigmas=sigmas, use_area=use_area)


def _keypoint_names() -> dict[str, ModuleType]:
    package, evaluation = ModuleType("xtcocotools"), ModuleType("xtcocotools.cocoeval")
    vars(evaluation)["COCOeval"] = KeypointEval
    vars(package).update(coco=coco, cocoeval=evaluation, mask=mask)
    return {
        "xtcocotools": package,
        "xtcocotools.coco": coco,
        "xtcocotools.cocoeval": evaluation,
        "xtcocotools.mask": mask,
    }


def install() -> None:
    """Serve `pycocotools` and `xtcocotools`, once, before mmdet or mmpose has read them."""
    if sys.modules.get("pycocotools") is faster_coco_eval:
        return
    early = [name for name in ANNOTATION_READERS if name in sys.modules]
    assert not early, f"prepare() must come before the import of {', '.join(early)}"
    faster_coco_eval.init_as_pycocotools()
    sys.modules.update(_keypoint_names())
    logging.getLogger(faster_coco_eval.__name__).setLevel(logging.WARNING)
