"""Patches, the pairs of views, and masks: exact counts, and the shape of each kind."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UserError
from pretrain.data import Batch
from pretrain.methods import method
from pretrain.views import KINDS, VIEWS, Labels, Masking, Pixels, View, patchify, take, unpatchify

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


CPU = torch.device("cpu")


def hidden(masking: Masking, number: int, occluders: Tensor | None = None) -> Tensor:
    """bool [number, rows, columns]."""
    shown, hidden = masking(number, CPU, occluders)
    both = torch.cat([shown, hidden], 1).sort(1).values
    assert both.tolist() == [list(range(math.prod(masking.grid)))] * number  # a partition
    assert bool((shown.diff(dim=1) > 0).all())
    assert bool((hidden.diff(dim=1) > 0).all())
    return torch.zeros(both.shape, dtype=torch.bool).scatter(1, hidden, True).view(
        number, *masking.grid
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("grid", "ratio", "unit", "count"),
    [
        ((14, 14), 0.75, 1, 147),
        ((14, 14), 0.6, 2, 4 * 30),  # SimMIM: ceil of 29.4 units
        ((48, 48), 0.6, 8, 64 * 22),  # Swin at 192: 22 of 36
        ((10, 10), 0.9, 1, 90),
        ((2, 3), 0.5, 1, 3),
        ((14, 14), 0.1, 1, 20),
    ],
)
def test_counts_are_exact(kind: str, grid: tuple[int, int], ratio: float, unit: int, count: int) -> None:
    masking = Masking(kind=kind, ratio=ratio, grid=grid, unit=unit)
    occluders = torch.rand(5, 64, 64) > 0.5
    masks = hidden(masking, 5, occluders)
    assert masks.flatten(1).sum(1).tolist() == [count] * 5
    assert masking.num_hidden == count
    units = masks.unfold(1, unit, unit).unfold(2, unit, unit).flatten(3)
    assert bool((units.all(-1) == units.any(-1)).all())  # whole units


def test_random_masks_are_uniform_and_each_image_s_own() -> None:
    torch.manual_seed(0)
    masks = hidden(Masking(kind="random", ratio=0.75, grid=(4, 4)), 4000).float()
    deviation = math.sqrt(0.75 * 0.25 / 4000)
    assert float((masks.mean(0) - 0.75).abs().max()) < 5 * deviation
    assert len(masks[:50].flatten(1).unique(dim=0)) > 40


def test_masks_follow_from_the_seed() -> None:
    for kind in ("random", "block", "grid"):
        masking = Masking(kind=kind, ratio=0.5, grid=(8, 8))
        torch.manual_seed(3)
        first = hidden(masking, 4)
        torch.manual_seed(3)
        assert torch.equal(first, hidden(masking, 4))


def neighbours(masks: Tensor) -> int:
    return int((masks[:, 1:] & masks[:, :-1]).sum() + (masks[:, :, 1:] & masks[:, :, :-1]).sum())


def test_blocks_hang_together() -> None:
    torch.manual_seed(0)
    kinds = {k: hidden(Masking(kind=k, ratio=0.4, grid=(14, 14)), 64) for k in ("block", "random")}
    pairs = {kind: neighbours(masks) / 64 for kind, masks in kinds.items()}
    assert pairs["random"] == pytest.approx(0.4**2 * 2 * 14 * 13, rel=0.05)
    assert pairs["block"] > 1.6 * pairs["random"]
    assert float(kinds["block"].float().mean(0).min()) > 0.01  # corners too


def test_a_grid_shows_one_of_every_four() -> None:
    torch.manual_seed(0)
    shown = ~hidden(Masking(kind="grid", ratio=0.75, grid=(14, 14)), 32)
    corners = set()
    for image in shown:
        row, column = (int(i) for i in image.nonzero()[0])
        assert bool(image[row % 2 :: 2, column % 2 :: 2].all())
        corners.add((row % 2, column % 2))
    assert len(corners) == 4


def test_occluders_are_hidden() -> None:
    occluders = torch.zeros(2, 32, 32, dtype=torch.bool)
    occluders[0, :16] = True  # the upper half; nothing in the other image
    masks = hidden(Masking(kind="occluders", ratio=0.5, grid=(4, 4)), 2, occluders)
    assert masks[0].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    more = hidden(Masking(kind="occluders", ratio=0.75, grid=(4, 4)), 2, occluders)
    assert bool(more[0, :2].all())


def test_masks_that_cannot_be_are_refused() -> None:
    for ratio in (0.0, 1.0, 0.99):
        with pytest.raises(UserError, match=f"ratio of {ratio} hides"):
            Masking(kind="random", ratio=ratio, grid=(3, 3))
    with pytest.raises(UserError, match="7 x 7 patches does not divide into masked units of 2"):
        Masking(kind="random", ratio=0.5, grid=(7, 7), unit=2)
    with pytest.raises(UserError, match="only scenes and species have"):
        Masking(kind="occluders", ratio=0.5, grid=(4, 4))(2, CPU)
