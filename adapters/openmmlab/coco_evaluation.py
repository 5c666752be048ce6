"""COCO evaluation by faster-coco-eval, under the names that mmdet and mmpose import.

mmdet imports `pycocotools`, mmpose `xtcocotools` (whose wheel is built for numpy 1). Both names import
faster-coco-eval, even if pycocotools itself is installed (as mmdet requires), so that one implementation computes
every COCO number. Its reports go to logging, not to the screen.
"""

import logging
import sys
from types import ModuleType
from typing import Any

import faster_coco_eval
from faster_coco_eval import COCOeval_faster, coco, mask
from faster_coco_eval.core.cocoeval import Params

ANNOTATION_READERS = ("mmdet.datasets.api_wrappers", "mmpose.evaluation")


class KeypointParams(Params):  # type: ignore[misc]  # faster-coco-eval is untyped
    """Parameters on which `useSegm = None` does not change the similarity, as in xtcocotools.

    mmpose sets it before every evaluation; faster-coco-eval would switch to box overlap, and report that as
    keypoint AP.
    """

    @property
    def useSegm(self) -> None:
        """Obsolete: `iouType` is the kind of evaluation."""

    @useSegm.setter
    def useSegm(self, value: object) -> None:
        assert value is None, "useSegm is obsolete: set iouType"


class KeypointEval(COCOeval_faster):  # type: ignore[misc]
    """The evaluator with xtcocotools' constructor, whose arguments mmpose passes by position."""

    params: Any

    def __init__(
        self,
        cocoGt: Any = None,
        cocoDt: Any = None,
        iouType: str = "keypoints",
        sigmas: Any = None,
        use_area: bool = True,
    ) -> None:
        """Evaluate with per-keypoint `sigmas`; without `use_area`, the area is 0.53 of the box."""
        super().__init__(cocoGt, cocoDt, iouType, use_area=use_area)
        params = KeypointParams(iouType, kpt_sigmas=sigmas)
        params.imgIds, params.catIds = self.params.imgIds, self.params.catIds
        self.params = params


def _package(name: str, evaluator: type) -> dict[str, ModuleType]:
    package, evaluation = ModuleType(name), ModuleType(f"{name}.cocoeval")
    vars(evaluation).update(COCOeval=evaluator)
    vars(package).update(coco=coco, cocoeval=evaluation, mask=mask, __version__=faster_coco_eval.__version__)
    return {name: package, f"{name}.coco": coco, f"{name}.cocoeval": evaluation, f"{name}.mask": mask}


def install() -> None:
    """Make `pycocotools` and `xtcocotools` importable; call it once, before mmdet or mmpose imports them."""
    early = [name for name in ANNOTATION_READERS if name in sys.modules]
    assert not early, f"prepare() must come before the import of {', '.join(early)}"
    sys.modules.update(_package("pycocotools", COCOeval_faster))
    sys.modules.update(_package("xtcocotools", KeypointEval))
    logging.getLogger(faster_coco_eval.__name__).setLevel(logging.WARNING)
