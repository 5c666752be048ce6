"""Segmentation on tiny data sets written here: the effect of protocols on models and metrics."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import family_jobs
import numpy as np
import pytest
import torch
from family_jobs import bind, build, real_data
from PIL import Image

from adapters.openmmlab import runner
from adapters.segmentation import ADE20K, VOC, heads
from adapters.segmentation.metric import ClassIoUMetric
from bench.errors import UserError

CLASSES = ("ground", "wall", "thing")
job = functools.partial(family_jobs.job, "segmentation")

pytestmark = pytest.mark.usefixtures("one_thread")


def write_pair(image: Path, mask: Path, seed: int, labels: tuple[int, ...] = (0, 1, 2)) -> None:
    """A 48x80 image whose colour is the class, in three upright bands of random width."""
    rng = np.random.default_rng(seed)
    band = np.searchsorted(np.sort(rng.integers(1, 80, 2)), np.arange(80), side="right")
    label = np.broadcast_to(np.asarray(labels, np.uint8)[band], (48, 80))
    pixels = np.asarray([[200, 30, 30], [30, 200, 30], [30, 30, 200]])[band]
    noisy = np.broadcast_to(pixels, (48, 80, 3)) + rng.integers(-30, 30, (48, 80, 3))
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.astype(np.uint8)).save(image)
    Image.fromarray(np.ascontiguousarray(label)).save(mask)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            image = folder / f"images/{split}/{i:06}.png"
            write_pair(image, folder / f"semantic/{split}/{i:06}.png", i)
    (folder / "semantic/classes.json").write_text(json.dumps({"classes": CLASSES}))
    return folder


FAMILIES = [
    ("test_vit", "finetune"),
    ("test_vit", "frozen"),
    ("swin_tiny_patch4_window7_224", "finetune"),
    ("swinv2_tiny_window8_256", "frozen"),
    ("test_convnext", "finetune"),
    ("test_resnet", "finetune"),
    ("test_efficientnet", "frozen"),
    ("hiera_tiny_224", "finetune"),
    ("sam2_hiera_tiny", "frozen"),
]


@pytest.mark.long
@pytest.mark.parametrize(("arch", "protocol"), FAMILIES)
def test_every_family_trains_and_tests_on_images_that_are_not_square(scenes: Path, arch: str, protocol: str) -> None:
    work = job(scenes, arch, protocol, batch_size=4, stride=43)
    outcome = work.task.evaluate(work)

    assert set(outcome.metrics) >= {"mIoU", "mAcc", "aAcc", *(f"iou/{c}" for c in CLASSES)}
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert outcome.selection.reported_on == "val"
    assert outcome.selection.selected_on is None


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["finetune", "frozen"])
def test_learns_the_class_from_the_colour(scenes: Path, protocol: str) -> None:
    """test_vit at random initialisation: colour is linear in its patches. Chance is 1 in 3."""
    work = job(scenes, "test_vit", protocol, epochs=25, lr=3e-3, ratio_range=(1.0, 1.0))

    assert work.task.evaluate(work).metrics["aAcc"] > 70


@pytest.mark.parametrize(("arch", "neck"), [("test_vit", True), ("test_convnext", False)])
def test_upernet_sees_strides_4_8_16_32(scenes: Path, arch: str, neck: bool) -> None:
    model = build(job(scenes, arch, "finetune")).model.eval()
    maps = model.extract_feat(torch.zeros(1, 3, 64, 128))

    assert model.with_neck == neck
    assert [tuple(m.shape[2:]) for m in maps] == [(64 // s, 128 // s) for s in (4, 8, 16, 32)]
    assert [m.shape[1] for m in maps] == list(model.decode_head.in_channels)
    assert model.decode_head.conv_seg.out_channels == len(CLASSES)


def test_linear_head_is_one_convolution_on_stacked_maps() -> None:
    torch.manual_seed(0)
    loss = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
    head = heads.LinearHead((5, 7), num_classes=3, align_corners=False, loss_decode=loss).eval()
    maps = [torch.randn(2, 5, 12, 16), torch.randn(2, 7, 6, 8)]
    for norm in head.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)

    normed = [norm(m) for norm, m in zip(head.norms, maps, strict=True)]
    large = torch.nn.functional.interpolate(normed[1], (12, 16), mode="bilinear")
    expected = head.conv_seg(torch.cat([normed[0], large], dim=1))
    torch.testing.assert_close(head(maps), expected)


def by_hand(truth: np.ndarray, guess: np.ndarray, classes: int) -> dict[str, float]:
    """From the confusion matrix, ignoring 255; a class that appears nowhere is left out."""
    counted = truth != 255
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (truth[counted], guess[counted]), 1)
    hit, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    seen = true + predicted > 0
    iou = hit[seen] / (true + predicted - hit)[seen]
    accuracy = hit[true > 0] / true[true > 0]
    values = {"mIoU": iou.mean(), "mAcc": accuracy.mean(), "aAcc": hit.sum() / matrix.sum()}
    return {name: 100 * float(value) for name, value in values.items()}


def measure(truth: np.ndarray, guess: np.ndarray, classes: int) -> dict[str, float]:
    metric = ClassIoUMetric()
    metric.dataset_meta = {"classes": [str(c) for c in range(classes)]}
    for one, other in zip(truth, guess, strict=True):
        sample = {
            "pred_sem_seg": {"data": torch.from_numpy(other)[None]},
            "gt_sem_seg": {"data": torch.from_numpy(one)[None]},
        }
        metric.process({}, [sample])
    return dict(metric.evaluate(len(truth)))


def test_miou_equals_a_confusion_matrix_by_hand() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 3, 255], (5, 40, 60), p=[0.5, 0.3, 0.1, 0.05, 0.05])
    guess = np.where(rng.random(truth.shape) < 0.6, truth % 255, rng.integers(0, 4, truth.shape))
    found = measure(truth, guess, classes=5)

    for name, value in by_hand(truth, guess, 5).items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert math.isnan(found["iou/4"]), "a class that appears nowhere has no IoU"


def test_truth_fed_back_scores_100(scenes: Path) -> None:
    built = build(job(scenes, "test_vit", "frozen"))
    masks = [
        item["data_samples"].gt_sem_seg.data[0].numpy()
        for item in built.build_dataloader(built.cfg.test_dataloader).dataset
    ]

    assert np.array_equal(masks[0], np.asarray(Image.open(scenes / "semantic/val/000000.png")))
    assert measure(np.stack(masks), np.stack(masks), 3) == pytest.approx(
        {"mIoU": 100, "mAcc": 100, "aAcc": 100, "iou/0": 100, "iou/1": 100, "iou/2": 100}
    )


def save_mask(value: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(value).save(folder / "semantic/train/000001.png")


def truncate(path: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: len(content) // 2])

    return cut


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "value": (
        save_mask(np.full((48, 80), 7, np.uint8)),
        r"train/000001.png has the value 7: with 3 classes, 0 to 2 and 255",
    ),
    "size": (save_mask(np.zeros((40, 80), np.uint8)), r"000001.png measures 80x40 and .* 80x48"),
    "colour": (save_mask(np.zeros((48, 80, 3), np.uint8)), r"000001.png is a picture of mode RGB"),
    "no mask": (
        lambda folder: (folder / "semantic/val/000001.png").unlink(),
        r"val/000001.png has no mask: expected .*semantic/val/000001.png",
    ),
    "corrupt image": (truncate("images/val/000000.png"), r"images/val/000000.png .* cannot be read"),
    "corrupt mask": (truncate("semantic/train/000002.png"), r"train/000002.png .* cannot be read"),
    "empty": (
        lambda folder: [p.unlink() for p in (folder / "images/train").iterdir()],
        r"images/train names no images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_bad_data_is_refused_before_training(scenes: Path, what: str) -> None:
    breaks, message = BROKEN[what]
    work = job(scenes, "test_vit", "frozen")
    bind(work)  # recorded as valid until a file changes
    breaks(scenes)

    with pytest.raises(UserError, match=message):
        work.task.evaluate(work)
    assert not work.work_dir.exists()


def write_ade(folder: Path, train_value: int) -> None:
    for name in ("training", "validation"):
        labels = (0, 1, train_value if name == "training" else 150)
        for i in range(2):
            image = folder / f"images/{name}/{i}.jpg"
            write_pair(image, folder / f"annotations/{name}/{i}.png", i, labels)


def test_ade_counts_classes_from_one(tmp_path: Path) -> None:
    folder = tmp_path / ADE20K.root
    write_ade(folder, 150)
    work = job(folder, "test_vit", "frozen", "ade20k")
    bound = runner.bind(bind(work), work)
    dataset = runner.JobRunner.build_dataloader(bound.test_dataloader).dataset

    assert set(dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist()) == {0, 149, 255}
    assert len(dataset.metainfo["classes"]) == 150

    write_ade(folder, 151)
    with pytest.raises(UserError, match=r"the value 151: with 150 classes, 0 to 150 \(0 means"):
        bind(work)


def test_ade_without_its_training_split_names_the_missing_path(tmp_path: Path) -> None:
    folder = tmp_path / ADE20K.root
    write_ade(folder, 150)
    (folder / "images/training").rename(folder / "images/elsewhere")

    with pytest.raises(UserError, match=r"expected .*images/training"):
        ADE20K.locate(tmp_path)


def test_voc_takes_its_images_from_the_lists(tmp_path: Path) -> None:
    folder = tmp_path / VOC.root
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for i in range(4):
        write_pair(folder / f"JPEGImages/{i}.jpg", folder / f"SegmentationClass/{i}.png", i, (0, 255, 20))
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n")
    work = job(VOC.locate(tmp_path), "test_vit", "finetune", "voc", stride=43)

    metrics = work.task.evaluate(work).metrics
    assert sum(name.startswith("iou/") for name in metrics) == 21
    assert math.isnan(metrics["iou/aeroplane"]) or metrics["iou/aeroplane"] == 0

    (lists / "val.txt").write_text("3\n5\n")
    with pytest.raises(UserError, match=r"JPEGImages/5.jpg, which .*val.txt names, does not exist"):
        work.task.evaluate(work)


@pytest.mark.data
def test_real_voc_is_accepted_and_real_ade_lacks_train(tmp_path: Path) -> None:
    root = real_data(VOC.root)
    work = dataclasses.replace(
        job(VOC.locate(root), "test_vit", "frozen", "voc", epochs=1, batch_size=4, limit=8),
        work_dir=tmp_path / "work",
        cache=tmp_path / "cache",
    )

    assert work.task.evaluate(work).metrics["aAcc"] > 0
    with pytest.raises(UserError, match=r"images/training"):
        ADE20K.locate(root)
