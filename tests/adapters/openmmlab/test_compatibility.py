import subprocess
from collections.abc import Callable

import pytest

Python = Callable[[str], "subprocess.CompletedProcess[str]"]

TOGETHER = """
from adapters.openmmlab.compatibility import prepare
prepare(); prepare()
import mmpose, mmcv.ops
import mmdet.models, mmseg.models, mmpose.models
import mmdet.datasets, mmseg.datasets, mmpose.datasets
import mmdet.evaluation, mmseg.evaluation, mmpose.evaluation
from mmengine.hub import get_config
for name in ("mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py",
             "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
             "mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-base_8xb64-210e_coco-256x192.py"):
    assert get_config(name).model.type, name
"""


@pytest.mark.long
def test_every_package_imports_in_one_process_and_says_nothing(python: Python) -> None:
    done = python(TOGETHER)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
