"""What a detection protocol does to the losses, the rate, the pyramid, the boxes and the masks."""

import functools
import json
import math
from pathlib import Path

import family_jobs
import pytest
import torch
from coloured_boxes import write
from family_jobs import build, rates

from adapters.detection import train
from bench.errors import UserError

job = functools.partial(family_jobs.job, "detection")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write(tmp_path / "shapes", {"train": 4, "val": 3})


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "swinv2_tiny_window8_256", "hiera_tiny_224"])
def test_losses_are_finite_in_bf16_autocast(shapes: Path, arch: str) -> None:
    built = build(job(shapes, arch, "frozen"))
    batch = next(iter(built.build_dataloader(built.cfg.train_dataloader)))
    model = built.model.train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, terms = model.parse_losses(losses)
    total.backward()

    assert set(terms) >= {term for curve in train.CURVES.values() for term in curve}
    assert all(value.isfinite() for value in terms.values())


def test_rate_warms_up_and_drops_twice(shapes: Path) -> None:
    """27 epochs of 2 iterations: warm-up to iteration 4, drops at 48 and 52 of 54."""
    work = job(shapes, "test_resnet", "frozen", epochs=27, lr=1e-2, warmup_epochs=2)
    found = rates(build(work))

    assert found[0] == pytest.approx(1e-5)
    assert found[:4] == sorted(found[:4])
    assert found[4:48] == pytest.approx([1e-2] * 44)
    assert found[48:52] == pytest.approx([1e-3] * 4)
    assert found[52:] == pytest.approx([1e-4] * 2)


PYRAMIDS = [
    ("test_vit", "SimpleFeaturePyramid", (4, 8, 16, 32, 64)),
    ("vit_small_patch14_dinov2", "SimpleFeaturePyramid", (3.5, 7, 14, 28, 56)),
    ("test_resnet", "FPN", (4, 8, 16, 32, 64)),
    ("swinv2_tiny_window8_256", "FPN", (4, 8, 16, 32, 64)),
]


@pytest.mark.parametrize(("arch", "neck", "strides"), PYRAMIDS)
def test_anchors_and_rois_follow_the_pyramid(shapes: Path, arch: str, neck: str, strides: tuple[float, ...]) -> None:
    """Each level covers 112x224 pixels, and anchors and RoIs are scaled by its stride."""
    model = build(job(shapes, arch, "frozen", img_size=224)).model.eval()
    with torch.no_grad():
        levels = model.extract_feat(torch.zeros(1, 3, 112, 224))
    extractor = model.roi_head.bbox_roi_extractor

    assert type(model.neck).__name__ == neck
    assert [tuple(m.shape[2:]) for m in levels] == [(math.ceil(112 / s), math.ceil(224 / s)) for s in strides]
    assert model.rpn_head.prior_generator.strides == [(s, s) for s in strides]
    assert model.rpn_head.prior_generator.base_sizes == list(strides)
    scales = [1 / layer.spatial_scale for layer in extractor.roi_layers]
    assert scales == pytest.approx(strides[:4])
    assert extractor.finest_scale == 14 * strides[0]
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == 3


def test_boxes_and_masks_come_back_in_the_images_own_size(shapes: Path) -> None:
    built = build(job(shapes, "test_resnet", "frozen"))
    built.model.test_cfg.rcnn.score_thr = 0.0
    built.model.roi_head.test_cfg.score_thr = 0.0
    batch = next(iter(built.build_dataloader(built.cfg.test_dataloader)))
    assert batch["inputs"][0].shape == (3, 38, 64), "48x80, its long side made 64"
    with torch.no_grad():
        found = built.model.eval().test_step(batch)[0].pred_instances

    assert len(found) > 0
    assert found.masks.shape == (len(found), 48, 80)
    assert (found.bboxes >= 0).all()
    assert (found.bboxes <= torch.tensor([80, 48, 80, 48])).all()
    assert found.bboxes[:, 2].max() > 64, "no box in the resized image would reach so far"


def test_annotations_are_checked_before_training(shapes: Path) -> None:
    file = shapes / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    work = job(shapes, "test_resnet", "frozen")
    del content["annotations"][1]["segmentation"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"instances_val.json, annotation 2 has no 'segmentation'"):
        work.task.evaluate(work)

    content["annotations"][0]["category_id"] = 12
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"category_id .* annotation 1: 12"):
        work.task.evaluate(work)
    assert not work.work_dir.exists()
