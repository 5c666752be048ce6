"""Image folders as users have them, whole and broken; and what a model sees of an image."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from adapters.classification import data
from bench.backbones.backbone import Backbone
from bench.backbones.normalise import normalisation
from bench.datasets.images import read
from bench.errors import UserError

CLASSES = ("ant", "bee", "cat")


def save(path: Path, colour=(255, 0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            for i in range(count):
                save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_images_are_ordered_by_class_then_path(root):
    train, val = data.splits(root)
    assert train.labels == [0] * 4 + [1] * 4 + [2] * 4
    assert [p.name for p in train.paths[:4]] == ["0.png", "1.png", "2.png", "3.png"]
    assert list(val.classes) == list(CLASSES)
    assert len(val.paths) == 6


def test_a_limit_is_spread_over_the_classes(root):
    train, _ = data.splits(root, limit=7)
    assert train.labels == [0, 0, 0, 1, 1, 2, 2]
    assert [int(p.stem) for p in train.paths] == [0, 1, 2, 0, 1, 0, 1]
    assert list(train.classes) == list(CLASSES)


def test_the_official_tiny_imagenet_layout_is_read_like_the_plain_one(root):
    _, plain = data.splits(root)
    lines = []
    for i, path in enumerate(sorted((root / "val").rglob("*.png"))):
        lines.append(f"val_{i}.JPEG\t{path.parent.name}\t0\t0\t7\t7")
        save(root / "val" / "images" / f"val_{i}.JPEG")
        path.unlink()
    for name in CLASSES:
        (root / "val" / name).rmdir()
        (root / "train" / name / f"{name}_boxes.txt").write_text("0.png\t0\t0\t7\t7\n")
    (root / "val" / data.ANNOTATIONS).write_text("\n".join(lines))
    train, val = data.splits(root)
    assert len(train.paths) == 12
    assert val.labels == plain.labels
    assert [p.name for p in val.paths] == [f"val_{i}.JPEG" for i in range(6)]


def test_a_list_that_names_no_image_is_refused(root):
    (root / "val" / data.ANNOTATIONS).write_text("val_0.JPEG\tant\n")
    with pytest.raises(UserError, match=r"Line 1 of .*val_annotations.txt.*names no image"):
        data.splits(root)


def empty_class(root):
    (root / "val" / "bee" / "0.png").unlink()
    (root / "val" / "bee" / "1.png").unlink()
    return r"1 class folder\(s\) without an image: .*val/bee"


def other_classes(root):
    (root / "val" / "bee").rename(root / "val" / "wasp")
    return "only in train: bee; only in val: wasp"


def one_class_less(root):
    (root / "val" / "bee").rename(root / "bee")
    return r"train \(3\) and .*val \(2\) differ; only in train: bee"


def no_split(root):
    (root / "val").rename(root / "validation")
    return "There is no folder .*val"


def one_class(root):
    for split in ("train", "val"):
        for name in CLASSES[1:]:
            (root / split / name).rename(root / f"{split}-{name}")
    return r"train holds 1 class folder\(s\) where at least 2"


BREAKS = (empty_class, other_classes, one_class_less, no_split, one_class)


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_one_paragraph(root, damage):
    message = damage(root)
    with pytest.raises(UserError, match=message) as error:
        data.splits(root)
    assert "\n" not in str(error.value)


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])


def text(path):
    path.write_text("this is no image")


def nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, text, nothing], ids=lambda d: d.__name__)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_image_is_named(tmp_path, damage, suffix):
    path = tmp_path / f"broken.{suffix}"
    damage(path)
    with pytest.raises(UserError, match=rf"The image .*broken.{suffix} .*cannot be read") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_kind_of_image_is_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(path)
    assert read(path).getpixel((0, 0)) == (255, 255, 255)


def test_a_model_sees_its_own_normalisation():
    image = Image.new("RGB", (20, 10), (255, 51, 0))
    plain = Backbone(name="test_resnet", arch="test_resnet")
    own = Backbone(name="own", arch="test_resnet", mean=(0.0, 0.2, 0.0), std=(1.0, 1.0, 2.0))
    seen = data.eval_transform(own, img_size=8, crop_pct=1.0)(image)
    assert seen.shape == (3, 8, 8)
    torch.testing.assert_close(seen[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    mean, std = normalisation(plain)
    seen = data.eval_transform(plain, img_size=8, crop_pct=0.5)(image)
    expected = (torch.tensor([1.0, 0.2, 0.0]) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(seen[:, 4, 4], expected)


def test_the_crop_is_the_middle():
    """A 16-pixel image, shown whole at 8 pixels or its middle half at 8 pixels."""
    image = Image.new("RGB", (16, 16), (0, 0, 0))
    image.paste((255, 255, 255), (4, 4, 12, 12))
    backbone = Backbone(name="own", arch="test_resnet", mean=(0.0,) * 3, std=(1.0,) * 3)
    whole = data.eval_transform(backbone, img_size=8, crop_pct=1.0)(image)
    middle = data.eval_transform(backbone, img_size=8, crop_pct=0.5)(image)
    assert float(middle.min()) == 1.0
    assert float(whole.mean()) == pytest.approx(0.25, abs=0.02)


def test_a_size_that_does_not_suit_the_patches_is_refused():
    assert data.size_argument("test_resnet", 100) == {}
    assert data.size_argument("vit_tiny_patch16_224", 128) == {"img_size": 128}
    with pytest.raises(UserError, match="img_size=126 or 140"):
        data.size_argument("vit_small_patch14_dinov2", 128)
