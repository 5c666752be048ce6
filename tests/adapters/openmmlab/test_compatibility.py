import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

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


def python(code: str) -> subprocess.CompletedProcess[str]:
    # By standard input: this process may be prepared itself, and refuse "pip install" among the words.
    return subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_every_package_imports_in_one_process_and_says_nothing() -> None:
    done = python(TOGETHER)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
