"""RandAugment's changes against timm's of PIL images, one after another."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torch.nn import functional

from pretrain.augment import CHANGES, Draws, RandAugment, rand_augment
from pretrain.data import RawBatch

FILL = (124, 116, 104)
POINTWISE = tuple(name for name in CHANGES if not name.startswith(("Rotate", "Shear", "Trans")))
TIMMS = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})


def fill() -> Tensor:
    return torch.tensor(FILL).view(3, 1, 1) / 255


def smooth(count: int = 1, size: int = 48) -> Tensor:
    """Coarse noise, in bytes, whose channels do not use all values."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (functional.interpolate(coarse, size, mode="bilinear") * 200 + 20).to(torch.uint8)


def as_timm(image: Tensor, name: str, magnitude: float) -> Tensor:
    options = {"img_mean": FILL, "interpolation": Image.BICUBIC}
    change = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=options)
    return torch.from_numpy(np.array(change(Image.fromarray(image.permute(1, 2, 0).numpy())))).permute(2, 0, 1)


def test_the_changes_are_those_of_timms_name() -> None:
    assert [op.name for op in TIMMS.ops] == list(CHANGES)
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in TIMMS.ops} == {(9, 0.5, 0.5)}
    assert TIMMS.num_layers == 2
    assert RandAugment() == RandAugment(magnitude=9, std=0.5, layers=2, prob=0.5)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one batch, by other amounts: each as the one image by its amount."""
    amounts = (-0.99, -0.9, -0.33, 0.0, 0.33, 0.9, 0.99)
    image = smooth()
    batch = image.repeat(len(amounts), 1, 1, 1) / 255
    found = CHANGES[name](batch, torch.tensor(amounts), fill()) * 255
    changed = 0
    for one, amount in zip(found, amounts, strict=True):
        signed = -1 if amount < 0 else 1
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda level, s=signed: s * level)
        expected = as_timm(image[0], name, 10 * abs(amount))
        apart = (one - expected).abs().amax(0)
        if name in POINTWISE:  # PIL cuts off to bytes, and rounds the mean that contrast is about
            assert apart.max() <= 2
        else:  # another cubic; and pixels on the border of what comes in from outside
            assert apart.median() <= 1
            assert (apart > 4).float().mean() <= 0.03
        changed += not torch.equal(expected, image[0])
    assert changed >= 2


def test_the_largest_magnitude_leaves_no_bit() -> None:
    """Where Pillow from 13 on raises ValueError, out of timm's own change."""
    posterized = CHANGES["PosterizeIncreasing"](smooth() / 255, torch.tensor([-1.0]), fill())
    assert not posterized.any()


def draws(count: int, iteration: int = 0) -> Draws:
    blank = torch.zeros(count, 3, 1, 1)
    whole = RawBatch(
        images=blank, others=None, labels=None, occluders=None, slots=torch.arange(count), batch_size=count
    )
    return Draws((0, iteration), 0, whole)


def test_how_often_an_image_is_changed() -> None:
    """Noise of all values, which nothing but a stretched contrast leaves as it is."""
    count = 4000
    one = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    one[:, :, 0, 0], one[:, :, 0, 1] = 0, 1
    for layers in (1, 2):
        images = one.repeat(count, 1, 1, 1)
        rand_augment(images, RandAugment(layers=layers), draws(count), fill())
        kept = (images - one).abs().flatten(1).amax(1) < 1e-6
        expected = (0.5 + 0.5 / len(CHANGES)) ** layers
        assert kept.float().mean().item() == pytest.approx(expected, abs=4 * (0.25 / count) ** 0.5)
        assert images.min() >= 0
        assert images.max() <= 1


def test_without_a_magnitude_the_enhancing_changes_leave_an_image() -> None:
    image = smooth() / 255
    for name in ("ColorIncreasing", "SharpnessIncreasing", "Rotate", "ShearX", "TranslateYRel"):
        same = CHANGES[name](image.clone(), torch.zeros(1), fill())
        torch.testing.assert_close(same, image, atol=2e-5, rtol=0)
