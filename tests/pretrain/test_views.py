"""Patches, and the pairs of views."""

import dataclasses

import torch
from torch.nn import functional as F

from pretrain.data import Batch
from pretrain.methods import method
from pretrain.views import VIEWS, Labels, Pixels, View, patchify, take, unpatchify

BATCH = Batch(
    images=torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12),
    others=torch.zeros(2, 3, 8, 12),
    labels=torch.tensor([1, 0]),
)
SHOWN, HIDDEN = torch.tensor([[0, 5], [1, 2]]), torch.tensor([[1, 2, 3, 4], [0, 3, 4, 5]])


def test_patches_are_what_a_convolution_sees() -> None:
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    convolved = F.conv2d(images, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(images, (4, 4)) @ weight.flatten(1).T, convolved)


def test_unpatchify_is_the_inverse() -> None:
    patches = patchify(BATCH.images, (4, 2))
    assert patches.shape == (2, 12, 24)
    assert torch.equal(unpatchify(patches, (4, 2), (2, 6)), BATCH.images)


def test_take_reads_each_image_s_own_positions() -> None:
    tokens = torch.arange(12).view(2, 6, 1)
    assert take(tokens, SHOWN).flatten().tolist() == [0, 5, 7, 8]
    assert take(tokens[:1], SHOWN).flatten().tolist() == [0, 5, 1, 2]


def test_pairs() -> None:
    pairs = {name: make(BATCH, method("c-mae"), lambda: (SHOWN, HIDDEN)) for name, make in VIEWS.items()}
    assert all(isinstance(first, View) for first, _ in pairs.values())
    assert all(first.images is BATCH.images for first, _ in pairs.values())
    assert isinstance(pairs["visible-pixels"][1], Pixels)
    assert not pairs["visible-pixels"][0].replaced
    assert pairs["masked-pixels"][0].replaced
    first, second = pairs["mask-complement"]
    assert isinstance(second, View)
    assert first.shown is SHOWN
    assert second.shown is HIDDEN
    assert second.hidden is SHOWN
    first, second = pairs["two-crops"]
    assert isinstance(second, View)
    assert second.images is BATCH.others
    assert first.shown is None
    labels = pairs["image-label"][1]
    assert isinstance(labels, Labels)
    assert labels.labels is BATCH.labels


def test_a_part_of_the_complement() -> None:
    torch.manual_seed(0)
    hidden = torch.arange(4, 16).expand(500, -1)
    _, second = VIEWS["mask-complement"](
        dataclasses.replace(BATCH, images=torch.zeros(500, 3, 8, 8)),
        method("r-mae", complement_share=1 / 3),
        lambda: (torch.arange(4).expand(500, -1), hidden),
    )
    assert isinstance(second, View)
    assert second.shown is not None
    assert second.shown.shape == (500, 4)
    assert all(len(set(row)) == 4 for row in second.shown.tolist())
    counts = second.shown.flatten().bincount(minlength=16)
    assert counts[:4].sum() == 0
    assert counts[4:].min() > 500 / 3 - 5 * (500 * 2 / 9) ** 0.5
