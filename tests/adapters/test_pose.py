"""Pose on ten small scenes: what a protocol does to a model, not what it says."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from adapters import pose
from adapters.openmmlab import pose_estimators, runner
from adapters.pose import TASKS, Layout
from bench.backbones import Backbone
from bench.datasets import EmbeddedWorld
from bench.errors import UserError
from bench.scenes.world import World, ensure
from bench.tasks import Job, Task

BY_NAME = {task.name: task for task in TASKS}
PROTOCOLS = [(task, protocol) for task in TASKS for protocol in task.protocols]
SMALL = {"epochs": 1, "batch_size": 2, "limit": 3, "img_size": 64, "img_width": 48}
KEYPOINTS = "annotations/person_keypoints_{}.json"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes of 96 pixels; the val split is the training split."""
    cache = tmp_path_factory.mktemp("world")
    recipe = World(train=10, val=10, videos=4, frames=2, swaps=1, size=96)
    made = ensure(recipe, cache, workers=1)
    for split in ("train", "val"):
        (cache / "same/images").mkdir(parents=True, exist_ok=True)
        (cache / "same/annotations").mkdir(exist_ok=True)
        (cache / f"same/images/{split}").symlink_to(made / "images/train")
        text = (made / KEYPOINTS.format("train")).read_text()
        (cache / "same" / KEYPOINTS.format(split)).write_text(text)
    return cache / "same"


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    """A copy whose annotations may be spoilt."""
    folder = tmp_path / "scenes"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(world / "images")
    for split in ("train", "val"):
        name = KEYPOINTS.format(split)
        (folder / name).write_text((world / name).read_text())
    return folder


def job(folder: Path, arch: str, protocol: str, name: str = "scenes", **changes: Any) -> Job:
    task = BY_NAME[f"pose/{name}"]
    changed = dataclasses.replace(task.protocol(protocol), **{**SMALL, **changes})
    return Job(
        backbone=Backbone(name=arch, arch=arch),
        task=task,
        protocol=changed,
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def build(work: Job, layout: Layout = pose.SCENES_LAYOUT) -> runner.JobRunner:
    return runner.JobRunner.from_cfg(runner.bind(pose_estimators.bind(work, layout), work))


def batch(built: runner.JobRunner, split: str = "train") -> dict[str, Any]:
    loader = built.build_dataloader(built.cfg[f"{split}_dataloader"])
    return dict(built.model.data_preprocessor(next(iter(loader)), split == "train"))


# Stride, deconvolutions, crop (height, width) and its heatmaps: a quarter of it, once it has been
# rounded up to whole patches.
FAMILIES = [
    ("test_vit", "finetune", 16, 2, (64, 48), (16, 12)),
    ("vit_small_patch14_dinov2", "frozen", 14, 2, (64, 48), (20, 16)),
    ("swinv2_tiny_window8_256", "finetune", 32, 3, (96, 64), (24, 16)),
    ("test_resnet", "finetune", 32, 3, (96, 64), (24, 16)),
    ("hiera_tiny_224", "finetune", 32, 3, (96, 64), (24, 16)),
    ("sam2_hiera_tiny", "frozen", 32, 3, (96, 64), (24, 16)),
    ("test_convnext", "frozen", 32, 3, (64, 48), (16, 16)),
]


@pytest.mark.parametrize(("arch", "protocol", "stride", "deconvs", "crop", "size"), FAMILIES)
def test_every_family_gives_heatmaps_and_a_loss_in_bf16(
    scenes: Path,
    arch: str,
    protocol: str,
    stride: int,
    deconvs: int,
    crop: tuple[int, int],
    size: tuple[int, int],
) -> None:
    height, width = crop
    sizes = {"img_size": height, "img_width": width}
    built = build(job(scenes, arch, protocol, test_batch_size=2, **sizes))
    model, data = built.model, batch(built)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**data, mode="loss")
    losses["loss_kpt"].backward()
    found = model.eval()(**batch(built, "test"), mode="predict")

    assert model.backbone.strides == (stride,)
    assert data["inputs"].shape[2:] == tuple(side * stride // 2**deconvs for side in size)
    assert data["data_samples"][0].gt_fields.heatmaps.shape == (17, *size)
    assert losses.keys() == {"loss_kpt"}
    assert losses["loss_kpt"].isfinite()
    assert [type(m).__name__ for m in model.head.deconv_layers].count("ConvTranspose2d") == deconvs
    assert all(p.grad is not None for p in model.head.parameters())
    assert found[0].pred_instances.keypoints.shape == (1, 17, 2)


def test_the_published_decoders_are_built(scenes: Path) -> None:
    """ViTPose-B: two deconvolutions to 256 channels, kernel 4; the Swin baseline: three to 32, kernel 2."""
    sizes = {"img_size": 256, "img_width": 192, "task": "coco"}
    for arch, name, kernel, widths in (
        ("test_vit", "finetune", 4, (256, 256)),
        ("test_resnet", "finetune-swin", 2, (32, 32, 32)),
    ):
        full = BY_NAME[f"pose/{sizes['task']}"].protocol(name)
        work = dataclasses.replace(job(scenes, arch, "finetune"), protocol=full)
        config = pose_estimators.bind(work, pose.SCENES_LAYOUT)
        head = config["model"]["head"]
        assert head["deconv_out_channels"] == widths
        assert set(head["deconv_kernel_sizes"]) == {kernel}
        assert head["decoder"]["input_size"] == (full.img_width, 256)
        assert head["decoder"]["heatmap_size"] == (full.img_width // 4, 64)


def test_rate_drops_at_the_steps_or_falls_to_zero(scenes: Path) -> None:
    def rates(**changes: Any) -> list[float]:
        work = job(scenes, "test_vit", "finetune", epochs=8, **changes)
        built = build(dataclasses.replace(work, work_dir=scenes.parent / str(changes)))
        seen: list[float] = []

        class Note(Hook):  # type: ignore[misc]
            def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
                seen.append(max(runner.optim_wrapper.get_lr()["lr"]))

        built.register_hook(Note())
        built.train()
        return seen

    stepped = rates(lr=1.0, steps=(4, 6), warmup_epochs=2.0)
    per = len(stepped) // 8
    assert stepped[0] == pytest.approx(1e-3)
    assert stepped[2 * per : 4 * per] == pytest.approx([1.0] * 2 * per)
    assert stepped[4 * per : 6 * per] == pytest.approx([0.1] * 2 * per)
    assert stepped[6 * per :] == pytest.approx([0.01] * 2 * per)
    assert rates(lr=1.0, warmup_epochs=0.0)[-1] < 0.05


def test_layers_learn_at_distinct_rates(scenes: Path) -> None:
    built = build(job(scenes, "test_vit", "finetune", lr=1e-2, layer_decay=0.5))
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper).optimizer
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    of = {name: rates[id(p)] for name, p in built.model.named_parameters()}

    depth = len(built.model.backbone.model.blocks)
    assert of["head.final_layer.weight"] == pytest.approx(1e-2)
    assert of[f"backbone.model.blocks.{depth - 1}.mlp.fc1.weight"] == pytest.approx(1e-2 / 2)
    assert of["backbone.model.patch_embed.proj.weight"] == pytest.approx(1e-2 / 2 ** (depth + 1))


@pytest.mark.parametrize(("protocol", "moves"), [("frozen", False), ("finetune", True)])
def test_only_a_finetuned_backbone_moves(scenes: Path, protocol: str, moves: bool) -> None:
    """Weights and batch statistics alike; the head always does."""
    built = build(job(scenes, "test_resnet", protocol))
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    built.train()
    moved = {n for n, value in built.model.state_dict().items() if not value.equal(before[n])}

    assert moved >= {"head.final_layer.weight", "head.deconv_layers.1.running_mean"}
    backbone = {name for name in moved if name.startswith("backbone.")}
    assert (
        backbone >= {"backbone.model.conv1.0.weight", "backbone.model.bn1.running_mean"}
    ) == moves
    assert bool(backbone) == moves


def test_target_heatmaps_decode_to_the_annotated_points_of_the_image(scenes: Path) -> None:
    """Crop, UDP encoding and decoding, and the way back, over every puppet; then AP is 100."""
    built = build(job(scenes, "test_vit", "finetune", img_size=128, img_width=96, limit=None))
    model, codec = built.model, built.model.head.decoder
    dataset = built.build_dataloader(built.cfg.test_dataloader).dataset
    evaluator = built.build_evaluator(built.cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        truth, size = sample.gt_instances, np.array(sample.input_size)
        scale, centre = sample.input_scale, sample.input_center
        cropped = (truth.keypoints - centre + scale / 2) / scale * (size - 1)
        heatmaps = codec.encode(cropped, truth.keypoints_visible)["heatmaps"]
        decoded = model.head.decode(torch.from_numpy(heatmaps + 1e-6)[None])
        model.add_pred_to_datasample(decoded, None, [sample])
        shown = (truth.keypoints_visible > 0) & (cropped >= 0).all(-1) & (cropped < size).all(-1)
        off = np.abs(sample.pred_instances.keypoints - truth.keypoints).max(-1) / scale.max()
        assert np.median(off[shown]) < 1e-3  # a 30th of a heatmap pixel
        assert off[shown].max() < 0.05  # at the border, where the decoder sees half a peak
        evaluator.process([sample], {})
    scores = evaluator.evaluate(len(dataset))
    assert scores["AP"] > 99
    assert scores["PCK@0.1"] > 99


def test_flip_test_makes_predictions_mirror_with_the_image(scenes: Path) -> None:
    """A mirrored crop then has mirrored heatmaps, left and right exchanged; without, it has not."""
    built = build(job(scenes, "test_vit", "finetune"))
    data, model = batch(built, "test"), built.model.eval()
    swap = data["data_samples"][0].metainfo["flip_indices"]
    assert swap[5:7] == [6, 5]

    def heatmaps(images: torch.Tensor) -> torch.Tensor:
        samples = model.predict(images, data["data_samples"])
        return torch.stack([sample.pred_fields.heatmaps for sample in samples])

    for flip_test in (True, False):
        model.test_cfg |= {"flip_test": flip_test, "output_heatmaps": True}
        with torch.no_grad():
            plain, mirrored = heatmaps(data["inputs"]), heatmaps(data["inputs"].flip(-1))
        same = torch.allclose(mirrored, plain.flip(-1)[:, swap], atol=1e-6, rtol=1e-3)
        assert same == flip_test


@HOOKS.register_module()
class PoseStopHook(Hook):  # type: ignore[misc]
    """Interrupts in the second epoch."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter == runner.max_iters // 2 + 1:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_where_an_undisturbed_one_does(scenes: Path) -> None:
    def run(name: str, *hooks: dict[str, str]) -> Any:
        work = job(scenes, "test_vit", "finetune", epochs=2, drop_path=0.3, half_body=1.0)
        work = dataclasses.replace(work, work_dir=scenes.parent / name)
        config = pose_estimators.bind(work, pose.SCENES_LAYOUT) | {"custom_hooks": list(hooks)}
        return runner.run(config, work, checkpoint_seconds=0.0).metrics

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", {"type": "PoseStopHook"})
    assert run("cut") == pytest.approx(whole, abs=0, nan_ok=True)


OVERFIT = {
    "epochs": 150, "batch_size": 4, "limit": 8, "img_size": 96, "img_width": 96, "lr": 4e-3, "layer_decay": None,
    "warmup_epochs": 2.0, "rotation": 0.0, "scale": 0.0, "shift": 0.0, "drop_path": 0.0, "half_body": 0.0,
}  # fmt: skip


def test_eight_scenes_are_learnt_by_heart(scenes: Path) -> None:
    work = job(scenes, "test_vit", "finetune", **OVERFIT)
    metrics = work.task.evaluate(work).metrics

    assert metrics["AP"] > 85
    assert metrics["AP50"] == pytest.approx(100)
    assert metrics["PCK@0.1"] > 98


def change(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / KEYPOINTS.format(name)
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))

    return spoil


def first(content: dict[str, Any], **values: Any) -> None:
    content["annotations"][0] |= values


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "outside": (
        change("train", lambda c: first(c, keypoints=[200, 5, 2] + [0] * 48)),
        r"keypoint 0 of annotation \d+ lies at \(200, 5\), outside its image",
    ),
    "count": (
        change("val", lambda c: first(c, keypoints=[5, 5, 2] * 14)),
        r"42 keypoint values: .* 51 finite numbers",
    ),
    "nobody": (
        change("train", lambda c: c.update(annotations=[])),
        r"person_keypoints_train.json holds no person to crop",
    ),
    "no area": (
        change("val", lambda c: c["annotations"][1].pop("area")),
        r"1 of 'annotations' have no 'area'",
    ),
    "no file": (lambda f: (f / KEYPOINTS.format("val")).unlink(), r"no annotation file .*val.json"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_data_is_one_clear_paragraph_before_training(scenes: Path, what: str) -> None:
    breaks, message = BROKEN[what]
    work = job(scenes, "test_vit", "frozen")
    pose_estimators.bind(work, pose.SCENES_LAYOUT)  # remembered as good, until a file changes
    breaks(scenes)

    with pytest.raises(UserError, match=message) as caught:
        work.task.evaluate(work)
    assert "\n" not in str(caught.value)
    assert not work.work_dir.exists()


def test_a_diverging_loss_stops_the_run(scenes: Path) -> None:
    work = job(scenes, "test_vit", "finetune", lr=1e30, warmup_epochs=0.0, epochs=3, clip_grad=0.0)

    with pytest.raises(UserError, match=r"Training diverged in epoch \d.* loss_kpt"):
        work.task.evaluate(work)


@pytest.fixture
def detected(scenes: Path) -> tuple[Job, Layout]:
    """A detector that finds every puppet in the right place, and one that is not there."""
    content = json.loads((scenes / KEYPOINTS.format("val")).read_text())
    boxes = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]
    boxes.append({**boxes[0], "bbox": [0, 0, 9, 9], "score": 0.1})
    (scenes / "boxes.json").write_text(json.dumps(boxes))
    layout = dataclasses.replace(pose.SCENES_LAYOUT, detections="boxes.json")
    own = dataclasses.replace(EmbeddedWorld(), name="mine", splits=layout.splits())
    protocol = pose.with_detector(pose.SCENES_FROZEN, "a test's")
    task = pose.task(own, layout, (pose.SCENES_FROZEN, protocol))
    work = job(scenes, "test_vit", "frozen")
    changed = dataclasses.replace(task.protocols[1], **{**SMALL, "limit": None})
    return dataclasses.replace(work, task=task, protocol=changed), layout


def test_a_detectors_boxes_are_cropped_where_the_protocol_says_so(
    detected: tuple[Job, Layout],
) -> None:
    work, layout = detected
    built = build(work, layout)
    dataset = built.build_dataloader(built.cfg.test_dataloader).dataset

    assert work.protocol.name == "frozen-detector"
    assert work.protocol.splits == ("train", "val", "detections")
    assert dataset[len(dataset) - 1]["data_samples"].gt_instances.bbox_scores == pytest.approx(0.1)
    metrics = work.task.evaluate(work).metrics
    assert metrics["AP"] >= 0
    assert "PCK@0.1" not in metrics  # a box does not say whose it is


def test_boxes_of_other_images_are_refused(detected: tuple[Job, Layout]) -> None:
    work, layout = detected
    (work.data / layout.detections).write_text('[{"image_id": -3, "category_id": 1}]')

    with pytest.raises(UserError, match=r"Box 0 of .*boxes.json, .* has no bbox"):
        work.task.evaluate(work)


def test_only_protocols_on_detector_boxes_need_them() -> None:
    """And transfer needs the split that is tested alone."""
    reads = {f"{task.name}/{p.name}": p.splits for task, p in PROTOCOLS}

    assert reads["pose/coco/finetune"] == ("train", "val")
    assert reads["pose/coco/finetune-detector"] == ("train", "val", "detections")
    assert reads["pose/crowdpose/from-coco"] == ("test",)
    for _, protocol in PROTOCOLS:
        assert (protocol.bbox_source == "detector") == ("detections" in protocol.splits)
        assert ("annotated" in protocol.source) == (protocol.bbox_source == "ground truth")


def test_every_recipe_says_how_to_run_it_at_full_scale() -> None:
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
        info = parse_pose_metainfo({"from_file": str(pose_estimators.INSTALLED_NAMES / file)})
        return {
            i: n.lower().replace("left", "l").replace("right", "r")
            for i, n in info["keypoint_id2name"].items()
        }

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
    assert {here[i] for i in untrained} == {
        {"crowdpose": "top_head", "ap10k": "root of tail"}[name]
    }
    assert len(joints) == len(here) - 1


def test_transfer_trains_all_but_the_missing_joint_and_tests_the_targets(scenes: Path) -> None:
    """CrowdPose's joints on COCO's data; the neck lies between the shoulders, flipped or not."""
    task = BY_NAME["pose/crowdpose"]
    transfer = dataclasses.replace(task.protocol("from-coco").transfer, layout=pose.SCENES_LAYOUT)
    test = {"images": [], "categories": [{"id": 1, "name": "person"}], "annotations": []}
    content = json.loads((scenes / KEYPOINTS.format("val")).read_text())
    test["images"] = [image | {"crowdIndex": 0.5} for image in content["images"]]
    test["annotations"] = [
        a | {"keypoints": a["keypoints"][15:] + [0] * 6} for a in content["annotations"]
    ]
    (scenes / "annotations/mmpose_crowdpose_test.json").write_text(json.dumps(test))
    changes = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "half_body": 0.0, "limit": None}
    work = job(
        scenes, "test_vit", "finetune", transfer=transfer, train_on=EmbeddedWorld(), **changes
    )
    work = dataclasses.replace(work, task=task)
    layout = dataclasses.replace(pose.CROWDPOSE_LAYOUT, images="images/val")
    task = pose.task(pose.CROWDPOSE, layout, ())
    work = dataclasses.replace(work, task=task)
    built = build(work, layout)
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
            peaks = [
                np.unravel_index(int(heatmaps[k].argmax()), heatmaps.shape[1:]) for k in (0, 1, 13)
            ]
            assert np.allclose(np.mean(peaks[:2], axis=0), peaks[2], atol=1.1)
            seen += 1
    assert seen > 3
    outcome = work.task.evaluate(work)
    assert outcome.selection.reported_on == "test"
    assert outcome.metrics.keys() >= {"AP", "AP_easy", "AP_medium", "AP_hard"}


@pytest.mark.parametrize(("task", "protocol"), PROTOCOLS, ids=lambda x: x.name)
def test_upstream_config_is_pure_and_follows_the_protocol(task: Task, protocol: Any) -> None:
    config = task.upstream(task, protocol)
    text = json.dumps(config)

    assert text == json.dumps(task.upstream(task, protocol))
    assert "arch" not in config["model"]["backbone"]
    assert not any(part.startswith("/") for part in text.split('"'))
    changes: dict[str, Any] = {
        "lr": 9.0, "epochs": 9, "img_size": 320, "img_width": 320, "sigma": 9.0, "channels": 7, "kernel_size": 3,
        "clip_grad": 9.0, "steps": (1,), "rotation": 9.0, "scale": 0.9, "shift": 0.9, "half_body": 0.9,
        "flip_test": False, "drop_path": 0.9, "layer_decay": 0.1, "weight_decay": 9.0, "warmup_epochs": 0.01,
    }  # fmt: skip
    for change in changes.items():
        other = dataclasses.replace(protocol, **dict([change]))
        assert task.upstream(task, other) != config, f"{change} changes nothing"


def test_a_data_set_of_ones_own_is_one_entry() -> None:
    own = dataclasses.replace(EmbeddedWorld(), name="mine")
    task = pose.task(own, pose.SCENES_LAYOUT, (pose.SCENES_FROZEN,))

    assert task.name == "pose/mine"
    assert isinstance(task.evaluate, functools.partial)


def real_data() -> Path:
    root = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[3] / "shared/data"))
    if not (root / pose.COCO.root).is_dir():
        pytest.skip(f"no real images: {root / pose.COCO.root} does not exist (set BENCH_DATA)")
    return root


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol"),
    [("coco", "frozen-small"), ("crowdpose", "from-coco"), ("ap10k", "from-coco")],
)
def test_real_photographs(tmp_path: Path, name: str, protocol: str) -> None:
    root = real_data()
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
