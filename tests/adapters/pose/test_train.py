"""What a pose protocol does to the crops, the heatmaps, the rate and the boxes."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_jobs
import numpy as np
import pytest
import torch
from family_jobs import BY_NAME, bind, build, rates
from persons import KEYPOINTS, write

from adapters import pose
from adapters.openmmlab import runner
from bench.datasets.dataset import EmbeddedWorld
from bench.errors import UserError
from bench.tasks import Job

job = functools.partial(family_jobs.job, "pose")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "scenes", world)


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
    scenes: Path, arch: str, protocol: str, stride: int, deconvs: int, crop: tuple[int, int], size: tuple[int, int]
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
    for arch, name, kernel, widths in (
        ("test_vit", "finetune", 4, (256, 256)),
        ("test_resnet", "finetune-swin", 2, (32, 32, 32)),
    ):
        full = BY_NAME["pose/coco"].protocol(name)
        work = dataclasses.replace(job(scenes, arch, "finetune"), protocol=full)
        head = bind(work)["model"]["head"]
        assert head["deconv_out_channels"] == widths
        assert set(head["deconv_kernel_sizes"]) == {kernel}
        assert head["decoder"]["input_size"] == (full.img_width, 256)
        assert head["decoder"]["heatmap_size"] == (full.img_width // 4, 64)


def test_rate_drops_at_the_steps_or_falls_to_zero(scenes: Path) -> None:
    def of(**changes: Any) -> list[float]:
        return rates(build(job(scenes, "test_vit", "finetune", lr=1.0, epochs=8, **changes)))

    stepped = of(steps=(4, 6), warmup_epochs=2.0)
    per = len(stepped) // 8
    assert stepped[0] == pytest.approx(1e-3)
    assert stepped[2 * per : 4 * per] == pytest.approx([1.0] * 2 * per)
    assert stepped[4 * per : 6 * per] == pytest.approx([0.1] * 2 * per)
    assert stepped[6 * per :] == pytest.approx([0.01] * 2 * per)
    assert of(warmup_epochs=0.0)[-1] < 0.05


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
    "count": (change("val", lambda c: first(c, keypoints=[5, 5, 2] * 14)), r"42 keypoint values: .* 51 finite numbers"),
    "nobody": (
        change("train", lambda c: c.update(annotations=[])),
        r"person_keypoints_train.json has no person to crop",
    ),
    "no area": (change("val", lambda c: c["annotations"][1].pop("area")), r"1 of 'annotations' have no 'area'"),
    "no file": (lambda f: (f / KEYPOINTS.format("val")).unlink(), r"annotation file .*val.json does not exist"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_data_is_refused_in_one_paragraph_before_training(scenes: Path, what: str) -> None:
    breaks, message = BROKEN[what]
    work = job(scenes, "test_vit", "frozen")
    bind(work)  # recorded as valid until a file changes
    breaks(scenes)

    with pytest.raises(UserError, match=message) as caught:
        work.task.evaluate(work)
    assert "\n" not in str(caught.value)
    assert not work.work_dir.exists()


@pytest.fixture
def detected(scenes: Path) -> Job:
    """A detector that finds every puppet in the right place, and one that is not there."""
    content = json.loads((scenes / KEYPOINTS.format("val")).read_text())
    boxes = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in content["annotations"]
    ]
    boxes.append({**boxes[0], "bbox": [0, 0, 9, 9], "score": 0.1})
    (scenes / "boxes.json").write_text(json.dumps(boxes))
    layout = dataclasses.replace(pose.SCENES_LAYOUT, detections="boxes.json")
    own = dataclasses.replace(EmbeddedWorld(), name="mine", splits=layout.splits())
    work = job(scenes, "test_vit", "frozen", limit=None)
    detector = pose.with_detector(work.protocol, "a test's")
    task = pose.task(own, layout, (work.protocol, detector))
    return dataclasses.replace(work, task=task, protocol=task.protocols[1])


def test_a_detectors_boxes_are_cropped_by_protocols_with_a_detector(detected: Job) -> None:
    built = build(detected)
    dataset = built.build_dataloader(built.cfg.test_dataloader).dataset

    assert detected.protocol.name == "frozen-detector"
    assert detected.protocol.splits == ("train", "val", "detections")
    assert dataset[len(dataset) - 1]["data_samples"].gt_instances.bbox_scores == pytest.approx(0.1)
    metrics = detected.task.evaluate(detected).metrics
    assert metrics["AP"] >= 0
    assert "PCK@0.1" not in metrics  # whose box it is, is not known


def test_boxes_of_other_images_are_refused(detected: Job) -> None:
    (detected.data / "boxes.json").write_text('[{"image_id": -3, "category_id": 1}]')

    with pytest.raises(UserError, match=r"Box 0 of .*boxes.json, .* has no bbox"):
        detected.task.evaluate(detected)
