"""Pose on ten small scenes: the effect of protocols on models and metrics."""

import dataclasses
import functools
import json
from pathlib import Path

import family_jobs
import numpy as np
import pytest
from family_jobs import BY_NAME, build, real_data
from persons import KEYPOINTS, write

from adapters import pose
from adapters.pose import TASKS, train
from bench.datasets.dataset import EmbeddedWorld
from bench.errors import UserError

PROTOCOLS = [(task, protocol) for task in TASKS for protocol in task.protocols]
job = functools.partial(family_jobs.job, "pose")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "scenes", world)


OVERFIT = {
    "epochs": 150, "batch_size": 4, "limit": 8, "img_size": 96, "img_width": 96, "lr": 4e-3, "layer_decay": None,
    "warmup_epochs": 2.0, "rotation": 0.0, "scale": 0.0, "shift": 0.0, "drop_path": 0.0, "half_body": 0.0,
}  # fmt: skip


@pytest.mark.long
def test_eight_scenes_are_overfitted(scenes: Path) -> None:
    work = job(scenes, "test_vit", "finetune", **OVERFIT)
    metrics = work.task.evaluate(work).metrics

    assert metrics["AP"] > 85
    assert metrics["AP50"] == pytest.approx(100)
    assert metrics["PCK@0.1"] > 98


def test_only_protocols_on_detector_boxes_need_them() -> None:
    """And transfer protocols read the tested split only."""
    reads = {f"{task.name}/{p.name}": p.splits for task, p in PROTOCOLS}

    assert reads["pose/coco/finetune"] == ("train", "val")
    assert reads["pose/coco/finetune-detector"] == ("train", "val", "detections")
    assert reads["pose/crowdpose/from-coco"] == ("test",)
    for _, protocol in PROTOCOLS:
        assert (protocol.bbox_source == "detector") == ("detections" in protocol.splits)
        assert ("annotated" in protocol.source) == (protocol.bbox_source == "ground truth")


def test_every_recipe_has_its_command_at_full_scale() -> None:
    for task, protocol in PROTOCOLS:
        named = f"--task {task.name} --protocol {protocol.name} --data-root DIR --gpus 8"
        if "Scaled down" not in protocol.source:
            assert protocol.command.endswith(named)
            assert ("swinv2" in protocol.command) == ("swin" in protocol.name)
        elif not protocol.train_on:
            assert "--task pose/coco --protocol f" in protocol.command
    coco = BY_NAME["pose/coco"]
    assert "75.8" in coco.protocol("finetune-detector").expected
    assert coco.protocol("finetune").expected.startswith("none published on annotated boxes")


COCO_NAMES = {"eye": "eye", "nose": "nose", "shoulder": "shoulder", "hip": "hip", "knee": "knee"}
SAME = {
    "crowdpose": COCO_NAMES | {"elbow": "elbow", "wrist": "wrist", "ankle": "ankle"},
    "ap10k": COCO_NAMES | {"elbow": "elbow", "wrist": "f_paw", "ankle": "b_paw"},
}


@pytest.mark.parametrize("name", SAME)
def test_transferred_joints_are_the_same_joints(name: str) -> None:
    """By name and by side; all but one of the target's are reached, each once."""
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    def names(file: str) -> dict[int, str]:
        info = parse_pose_metainfo({"from_file": str(train.INSTALLED_NAMES / file)})
        return {i: n.lower().replace("left", "l").replace("right", "r") for i, n in info["keypoint_id2name"].items()}

    there, here = names("coco.py"), names(f"{name}.py")
    joints = BY_NAME[f"pose/{name}"].protocol("from-coco").transfer.joints
    for source, target in joints:
        if isinstance(source, tuple):
            assert [there[i] for i in source] == ["l_shoulder", "r_shoulder"]
            assert here[target] == "neck"
            continue
        side, _, joint = there[source].rpartition("_")
        assert here[target] == "_".join(filter(None, (side, SAME[name][joint])))
    untrained = set(here) - {target for _, target in joints}
    assert {here[i] for i in untrained} == {{"crowdpose": "top_head", "ap10k": "root of tail"}[name]}
    assert len(joints) == len(here) - 1


def test_transfer_trains_all_but_the_missing_joint_and_tests_the_targets(scenes: Path) -> None:
    """CrowdPose's joints on COCO's data; the neck lies between the shoulders, flipped or not."""
    published = BY_NAME["pose/crowdpose"].protocol("from-coco").transfer
    transfer = dataclasses.replace(published, layout=pose.SCENES_LAYOUT)
    test = {"images": [], "categories": [{"id": 1, "name": "person"}], "annotations": []}
    content = json.loads((scenes / KEYPOINTS.format("val")).read_text())
    test["images"] = [image | {"crowdIndex": 0.5} for image in content["images"]]
    test["annotations"] = [a | {"keypoints": a["keypoints"][15:] + [0] * 6} for a in content["annotations"]]
    (scenes / "annotations/mmpose_crowdpose_test.json").write_text(json.dumps(test))
    changes = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "half_body": 0.0, "limit": None}
    work = job(scenes, "test_vit", "finetune", transfer=transfer, train_on=EmbeddedWorld(), **changes)
    layout = dataclasses.replace(pose.CROWDPOSE_LAYOUT, images="images/val")
    work = dataclasses.replace(work, task=pose.task(pose.CROWDPOSE, layout, ()))
    built = build(work)
    data = built.build_dataloader(built.cfg.train_dataloader).dataset
    seen = 0
    for index in range(len(data)):
        sample = data[index]["data_samples"]
        weights = sample.gt_instance_labels.keypoint_weights[0]
        heatmaps = sample.gt_fields.heatmaps
        assert heatmaps.shape[0] == 14
        assert weights[12] == 0  # the top of the head
        assert weights[13] == weights[0] * weights[1]
        if weights[13]:
            peaks = [np.unravel_index(int(heatmaps[k].argmax()), heatmaps.shape[1:]) for k in (0, 1, 13)]
            assert np.allclose(np.mean(peaks[:2], axis=0), peaks[2], atol=1.1)
            seen += 1
    assert seen > 3
    outcome = work.task.evaluate(work)
    assert outcome.selection.reported_on == "test"
    assert outcome.metrics.keys() >= {"AP", "AP_easy", "AP_medium", "AP_hard"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol"), [("coco", "frozen-small"), ("crowdpose", "from-coco"), ("ap10k", "from-coco")]
)
def test_real_photographs(tmp_path: Path, name: str, protocol: str) -> None:
    root = real_data(pose.COCO.root)
    changes = {"epochs": 1, "batch_size": 8, "limit": 20, "img_size": 64, "img_width": 64}
    work = job(tmp_path, "test_resnet", protocol, name, **changes)
    work = dataclasses.replace(
        work,
        work_dir=tmp_path / "work",
        data=work.task.dataset.only(work.protocol.splits).locate(root),
        train_data=root / "coco",
    )
    outcome = work.task.evaluate(work)

    assert outcome.metrics["AP"] >= 0
    assert outcome.metrics["PCK@0.1"] >= 0
    assert ("AP_medium" in outcome.metrics) == (name == "crowdpose")
    with pytest.raises(UserError, match=r"detections_AP_H_56_person.json|det_for_crowd|train"):
        work.task.dataset.locate(root)
