"""Augmentation against torchvision's, timm's and closed forms, and its draws against (seed, iteration, slot)."""

import dataclasses

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch import Tensor
from torchvision.transforms.v2 import functional as theirs

from bench.errors import UserError
from pretrain import augment
from pretrain.augment import MIXING, Augment, Augmentation, CropAugmentation, augmentation, seed_of
from pretrain.data import Batch, RawBatch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def raw(slots: range = range(8), size: int = 16, crops: int = 2) -> RawBatch:
    """Noise that differs by slot."""
    of = [torch.Generator().manual_seed(slot) for slot in slots]
    images = [
        torch.stack([torch.randint(256, (3, size, size), generator=g, dtype=torch.uint8) for g in of])
        for _ in range(crops)
    ]
    return RawBatch(
        images=images[0],
        others=images[1] if crops == 2 else None,
        labels=torch.tensor(slots),
        occluders=images[0][:, 0] > 100,
        slots=torch.tensor(slots),
        batch_size=8,
    )


def build(name: str = "moco", **changes: float) -> Augment:
    found = augmentation(name)
    return Augment(
        dataclasses.replace(found, first=dataclasses.replace(found.first, **changes)), mean=MEAN, std=STD, num_classes=8
    )


@pytest.mark.parametrize("name", [a.name for a in augment.AUGMENTATIONS])
def test_what_an_image_gets_follows_from_seed_iteration_and_slot(name):
    whole = build(name)(raw(), (3, 7))
    torch.rand(5)
    again = build(name)(raw(), (3, 7))
    odd = build(name)(raw(range(1, 8, 2)), (3, 7))
    for value in ("images", "others", "labels", "occluders"):
        assert getattr(again, value).equal(getattr(whole, value))
        # Sums over fewer images may be taken in another order.
        torch.testing.assert_close(getattr(odd, value), getattr(whole, value)[1::2])
    for other in ((3, 8), (4, 7)):
        assert not build(name)(raw(), other).images.equal(whole.images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", [a.name for a in augment.AUGMENTATIONS])
def test_a_gpu_draws_the_same_and_gives_the_same(name):
    here = build(name)(raw(), (3, 7))
    there = build(name).to("cuda")(raw().to("cuda"), (3, 7))
    assert there.occluders.cpu().equal(here.occluders)
    torch.testing.assert_close(there.labels.cpu().float(), here.labels.float())
    for value in ("images", "others"):
        apart = (getattr(there, value).cpu() - getattr(here, value)).abs() > 1e-4
        # A pixel that lies on the threshold of solarization may fall on either side.
        assert apart.float().mean() <= (1e-3 if name == "deit" else 0)


def test_it_leaves_the_generator_of_the_model_alone():
    before = torch.get_rng_state()
    build("supervised")(raw(), (0, 0))
    assert torch.get_rng_state().equal(before)


def test_maes_is_a_flip_and_the_normalisation_with_the_occluders_flipped_alike():
    given = raw(size=8)
    batch = build("mae")(given, (0, 0))
    flipped = 0
    for k in range(8):
        for image, occluders in (
            (given.images[k], given.occluders[k]),
            (given.images[k].flip(-1), given.occluders[k].flip(-1)),
        ):
            if batch.occluders[k].equal(occluders):
                expected = theirs.normalize(image / 255, list(MEAN), list(STD))
                torch.testing.assert_close(batch.images[k], expected, atol=1e-6, rtol=1e-6)
        flipped += batch.occluders[k].equal(given.occluders[k].flip(-1))
    assert 0 < flipped < 8
    assert batch.images.dtype == torch.float32


def test_the_images_that_came_in_are_left_as_they_were():
    given, copy = raw(), raw()
    build("supervised")(given, (0, 0))
    assert given.images.equal(copy.images)


COLOURS = {
    "brightness": lambda x, a: theirs.adjust_brightness(x, 1 + a),
    "contrast": lambda x, a: theirs.adjust_contrast(x, 1 + a),
    "saturation": lambda x, a: theirs.adjust_saturation(x, 1 + a),
    "hue": theirs.adjust_hue,
}


@pytest.mark.parametrize("way", COLOURS)
def test_colours_change_as_torchvisions_do(way):
    images = raw(size=32).images / 255
    images[0, :, :4] = 0.5  # greys have no hue
    amounts = torch.linspace(-0.4, 0.4, 8)
    found = getattr(augment, way)(images, amounts)
    for image, amount, one in zip(images, amounts.tolist(), found, strict=True):
        # torchvision's luma has 0.2989 where 0.299 is meant.
        torch.testing.assert_close(one, COLOURS[way](image, amount), atol=5e-4, rtol=0)


def test_hue_turned_by_a_third_exchanges_the_channels():
    images = raw().images / 255
    turned = augment.hue(images, torch.full((8,), 1 / 3))
    torch.testing.assert_close(turned, images.roll(1, dims=1), atol=1e-5, rtol=0)


def test_blur_is_torchvisions_with_a_sigma_for_each_image():
    images, sigmas = raw(size=32).images / 255, torch.linspace(0.1, 2.0, 8)
    found = augment.blur(images, sigmas)
    for image, sigma, one in zip(images, sigmas.tolist(), found, strict=True):
        expected = theirs.gaussian_blur(image, [13, 13], [sigma, sigma])
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)
    assert augment.blur(images[..., :4, :4], sigmas).shape == (8, 3, 4, 4), "smaller than the kernel"


def test_solarize_is_torchvisions():
    images = raw(size=32).images
    expected = theirs.solarize(images, 128) / 255
    torch.testing.assert_close(augment.solarize(images / 255), expected, atol=1e-6, rtol=0)


def test_each_change_comes_as_often_as_it_says():
    size, count = 8, 2000
    given = RawBatch(
        images=raw(size=size).images[:1].repeat(count, 1, 1, 1),
        others=None,
        labels=None,
        occluders=None,
        slots=torch.arange(count),
        batch_size=count,
    )
    plain = given.images / 255
    for name, probability in (("grey_prob", 0.2), ("blur_prob", 0.1), ("solarize_prob", 0.3), ("erase_prob", 0.25)):
        only = CropAugmentation(flip_prob=0.0, **{name: probability})
        what = Augmentation(name=name, source="", scale=(1, 1), first=only)
        found = Augment(what, mean=(0, 0, 0), std=(1, 1, 1))(given, (0, 0)).images
        changed = (found != plain).flatten(1).any(1).float().mean()
        assert changed == pytest.approx(probability, abs=4 * (0.25 / count) ** 0.5), name


def test_erasing_fills_a_box_of_an_allowed_size_and_leaves_the_rest():
    plain = build("supervised", erase_prob=0.0)(raw(size=32), (0, 0)).images
    erased = build("supervised", erase_prob=1.0)(raw(size=32), (0, 0)).images
    changed = (plain != erased).any(1)
    for mask in changed:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        assert 0.01 < box.numel() / mask.numel() < 0.36
    assert len({mask.sum().item() for mask in changed}) > 4


def test_two_crops_are_augmented_apart_and_differently():
    given = raw()
    given = dataclasses.replace(given, others=given.images)
    batch = build("moco")(given, (0, 0))
    assert not any(a.equal(b) for a, b in zip(batch.images, batch.others, strict=True))
    assert augmentation("moco").first.solarize_prob == 0 < augmentation("moco").second.solarize_prob


def test_the_jitter_of_the_images_stays_in_range_and_differs_between_them():
    images = build("moco", blur_prob=0.0)(raw(), (0, 1)).images
    pixels = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5


def test_an_unknown_augmentation_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean simmim"):
        augmentation("simim")


def mixed(iteration: int, **alphas: float) -> tuple[Tensor, Batch]:
    """Eight images before and after they are mixed, and nothing else done to them."""
    plain = Augmentation(name="", source="", scale=(1, 1), first=CropAugmentation(flip_prob=0.0))
    what = dataclasses.replace(plain, **alphas)
    build = Augment(what, mean=(0, 0, 0), std=(1, 1, 1), num_classes=8)
    return raw().images / 255, build(raw(), (3, iteration))


def test_mixup_mixes_with_the_image_half_a_batch_further_by_timms_share():
    images, batch = mixed(7, mixup=0.8)
    np.random.seed(seed_of((3, 7), MIXING))
    share, cut = Mixup(0.8, 0.0)._params_per_batch()
    assert 0.01 < share < 0.99
    assert not cut
    torch.testing.assert_close(batch.images, share * images + (1 - share) * images.roll(4, 0))
    labels = torch.eye(8)
    torch.testing.assert_close(batch.labels, share * labels + (1 - share) * labels.roll(4, 0))


def test_two_images_are_mixed_as_timm_mixes_them():
    two = raw(range(2))
    what = dataclasses.replace(augmentation("mae"), mixup=0.8, cutmix=1.0)
    plain = Augment(dataclasses.replace(what, mixup=0, cutmix=0), mean=MEAN, std=STD)
    for iteration in range(10):
        batch = Augment(what, mean=MEAN, std=STD, num_classes=8)(two, (0, iteration))
        np.random.seed(seed_of((0, iteration), MIXING))
        images = plain(two, (0, iteration)).images
        theirs = Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=8)(images, two.labels)
        torch.testing.assert_close((batch.images, batch.labels), theirs)


def test_cutmix_pastes_a_box_and_labels_count_its_pixels():
    areas = set()
    for iteration in range(20):
        images, batch = mixed(iteration, cutmix=1.0)
        other = images.roll(4, 0)
        pasted = (batch.images != images).any(0).any(0)
        rows, columns = pasted.any(1).nonzero().flatten(), pasted.any(0).nonzero().flatten()
        if len(rows):
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            assert batch.images[(..., *box)].equal(other[(..., *box)])
        assert batch.images[:, :, ~pasted].equal(images[:, :, ~pasted])
        kept = 1 - pasted.float().mean().item()
        assert batch.labels[1, 1].item() == pytest.approx(kept, abs=1e-6)
        assert batch.labels[1, 5].item() == pytest.approx(1 - kept, abs=1e-6)
        areas.add(pasted.sum().item())
    assert len(areas) > 5


def test_either_mixture_comes_for_half_of_the_batches():
    pasted = []
    for iteration in range(100):
        images, batch = mixed(iteration, mixup=0.8, cutmix=1.0)
        either = (batch.images == images) | (batch.images == images.roll(4, 0))
        pasted.append(bool(either.all()))
    assert 35 <= sum(pasted) <= 65
