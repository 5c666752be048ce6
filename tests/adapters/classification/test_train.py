"""What fine-tuning really does: rates, mixing, losses, heads; read off the model, not the config."""

import math

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp
from torch.nn import functional as F

from adapters.classification.train import Accuracies, ImageFolder, TimmClassifier
from adapters.openmmlab.layer_decay import parameter_groups
from bench.errors import UserError

FAMILIES = ("test_vit", "test_vit2", "test_convnext", "test_resnet", "test_efficientnet")
CLASSES = 7


def build(arch="test_vit", weights=None, num_classes=CLASSES, **options) -> TimmClassifier:
    backbone = {"arch": arch, "weights": weights, "img_size": 32, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    return TimmClassifier(backbone, num_classes, **options)


def batch(count=4):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 32, 32, generator=rng), torch.arange(count) % CLASSES


def seen_by(model) -> list[torch.Tensor]:
    """Collects the images that reach the backbone."""
    seen: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    return seen


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_layer_has_its_rate_and_the_head_the_highest(arch):
    model = build(arch)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert set(rate) == {id(p) for p in model.parameters()}
    rates = sorted(set(rate.values()))
    assert len(rates) >= 4
    assert rates == pytest.approx([0.5**k for k in reversed(range(len(rates)))])
    assert {rate[id(p)] for p in model.head.parameters()} == {1.0}
    assert {rate[id(p)] for p in model.backbone.parameters()} == set(rates) - {1.0}


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_model_with_its_head_taken_out_is_timms_model(arch):
    model = build(arch).eval()
    size = {"img_size": 32} if "vit" in arch else {}
    whole = timm.create_model(arch, num_classes=CLASSES, **size).eval()
    state = model.backbone.model.state_dict() | model.head.state_dict()
    whole.load_state_dict(state)
    images, labels = batch()
    with torch.no_grad():
        torch.testing.assert_close(model(images, labels), whole(images))


def test_a_files_weights_are_loaded_and_its_own_classifier_left_out(tmp_path):
    source = timm.create_model("test_resnet", num_classes=3)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = build("test_resnet", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(model.backbone.model.conv1[0].weight, source.conv1[0].weight)
    report = model.backbone.load_report
    assert report.missing == ()
    assert sorted(report.leftover) == ["fc.bias", "fc.weight"]
    model.init_weights()
    assert torch.equal(model.backbone.model.conv1[0].weight, source.conv1[0].weight)


def test_images_are_mixed_in_training_and_left_alone_in_testing():
    model, (images, labels) = build(mixup=0.8, cutmix=1.0, reprob=0.5), batch()
    seen = seen_by(model)
    for _ in range(8):
        model(images.clone(), labels, mode="loss")
    assert all(not torch.equal(images, x) for x in seen)
    seen.clear()
    model(images, labels, mode="predict")
    assert torch.equal(seen[0], images)


def test_mixup_mixes_each_image_with_its_mirror_in_the_batch():
    model, (images, labels) = build(mixup=1.0), batch()
    seen = seen_by(model)
    model(images.clone(), labels, mode="loss")
    part = ((seen[0] - images.flip(0)) / (images - images.flip(0)))[0].median()
    assert 0 < part < 1
    torch.testing.assert_close(seen[0], part * images + (1 - part) * images.flip(0))


def test_the_loss_is_smoothed_cross_entropy_as_written_down():
    model, (images, labels) = build(smoothing=0.1).eval(), batch()
    target = torch.full((4, CLASSES), 0.1 / CLASSES)
    target[torch.arange(4), labels] += 0.9
    by_hand = -(target * F.log_softmax(model(images, labels), 1)).sum(1).mean()
    torch.testing.assert_close(model(images, labels, mode="loss")["loss"], by_hand)


def test_erasing_alone_leaves_the_labels_and_most_pixels():
    model, (images, labels) = build(reprob=1.0), batch()
    seen = seen_by(model)
    model(images.clone(), labels, mode="loss")
    changed = (seen[0] != images).any(1).float().mean((1, 2))
    assert ((changed > 0) & (changed < 0.5)).all()


def test_the_loss_falls_on_one_batch():
    model, (images, labels) = build(), batch()
    groups = parameter_groups(model, lr=1e-2, weight_decay=0.0, layer_decay=0.65)
    adam = torch.optim.AdamW(groups)
    losses = []
    for _ in range(15):
        loss = model(images, labels, mode="loss")["loss"]
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[0] == pytest.approx(math.log(CLASSES), abs=0.7)
    assert losses[-1] < losses[0] / 4


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = timm.create_model("test_convnext").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not those of test_resnet"):
        build("test_resnet", weights=str(tmp_path / "w.safetensors"))


def test_the_metric_gathers_batches():
    metric = Accuracies()
    model, (images, labels) = build().eval(), batch(6)
    for part in (slice(0, 4), slice(4, 6)):
        metric.process(None, model(images[part], labels[part], mode="predict"))
    expected = (model(images, labels).argmax(1) == labels).double().mean()
    assert metric.evaluate(6)["top1"] == pytest.approx(100 * float(expected))


def test_training_images_are_augmented_and_test_images_are_not(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for name in ("a", "b"):
            path = tmp_path / split / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.effect_noise((40, 40), 80).convert("RGB").save(path)
    common = {"root": str(tmp_path), "img_size": 32, "crop_pct": 1.0, "interpolation": "bicubic"}
    recipe = {"auto_augment": "rand-m9-mstd0.5-inc1", "scale": [0.2, 1.0], "color_jitter": None}
    train = ImageFolder(split="train", augment=recipe, **common)
    val = ImageFolder(split="val", **common)
    one, two = train[0]["inputs"], train[0]["inputs"]
    assert one.dtype == torch.uint8
    assert one.shape == (3, 32, 32)
    assert not torch.equal(one, two)
    assert torch.equal(val[0]["inputs"], val[0]["inputs"])
    assert val[1]["data_samples"] == 1


def test_the_largest_magnitude_of_rand_augment_posterizes_to_black():
    """Keeping 4 - 4 = 0 bits, which Pillow refuses from version 13 on; timm's other magnitudes are its own."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for magnitude, expected in ((10, np.zeros((4, 4, 3))), (5, np.asarray(image) & 0b11000000)):
        op = AugmentOp("PosterizeIncreasing", prob=1.0, magnitude=magnitude)
        np.testing.assert_array_equal(np.asarray(op(image)), expected)
