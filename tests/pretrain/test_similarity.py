"""Similarities against closed forms; over several processes: test_siamese.py."""

import math
from collections.abc import Callable

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from pretrain.methods import method
from pretrain.similarity import (
    Cosine,
    CrossEntropy,
    PixelDistance,
    PixelTarget,
    Relaxed,
    info_nce,
    normalised_in_windows,
)

POOLED = torch.zeros(2, 1, dtype=torch.int64)


def test_infonce_of_two_images_by_hand() -> None:
    queries = torch.tensor([[[2.0, 0.0]], [[0.0, 5.0]]])
    keys = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    # Cosines: 1 with one's own key, 0 with the other's.
    expected = 2 * 0.2 * math.log(1 + math.exp(-1 / 0.2))
    assert float(info_nce(queries, keys, POOLED, 1, 0.2)) == pytest.approx(expected, abs=1e-7)
    swapped = 2 * 0.2 * math.log(1 + math.exp(1 / 0.2))
    assert float(info_nce(queries, keys.flip(0), POOLED, 1, 0.2)) == pytest.approx(swapped, abs=1e-6)


def test_infonce_of_tokens_by_hand() -> None:
    # Three positions, two hidden in each image: position 1 in all three, 0 in A and B, 2 in C alone.
    positions = torch.tensor([[0, 1], [0, 1], [1, 2]])
    x, y = [1.0, 0.0], [0.0, 1.0]
    queries = torch.tensor([[x, x], [x, x], [x, x]])
    keys = torch.tensor([[x, x], [y, y], [y, x]])
    e = math.exp(1 / 0.5)
    first = math.log((e + 1) / e) + math.log((e + 1) / 1)  # A and B at 0: keys x, y
    second = math.log((e + 2) / e) + 2 * math.log((e + 2) / 1)  # A, B, C at 1: keys x, y, y
    third = 0.0  # C at 2 has no negatives
    expected = 2 * 0.5 * (first + second + third) / 6
    assert float(info_nce(queries, keys, positions, 3, 0.5)) == pytest.approx(expected, abs=1e-6)


def test_pixels_by_hand() -> None:
    said, true = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert float(PixelDistance(2)(said, true, None, None)["loss_reconstruction"]) == 2.5
    assert float(PixelDistance(1)(said, true, None, None)["loss_reconstruction"]) == 1.5


def test_targets_are_normalised_by_patch() -> None:
    images = torch.randn(1, 3, 8, 8) * 5 + 2
    target = PixelTarget(method("mae"), (4, 4))(images, torch.tensor([[1, 2]]))
    patch = images[0, :, :4, 4:].flatten()
    expected = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()  # var of n - 1
    torch.testing.assert_close(target[0, 0], expected)
    assert target.shape == (1, 2, 48)
    plain = PixelTarget(method("simmim"), (4, 4))(images, torch.tensor([[1]]))
    torch.testing.assert_close(plain[0, 0], patch)


def test_targets_are_normalised_by_window() -> None:
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    found = normalised_in_windows(images, 5)
    for row, column in ((0, 0), (4, 6), (8, 11), (1, 5)):
        window = images[:, :, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].flatten(2)
        expected = (images[:, :, row, column] - window.mean(2)) / (window.var(2) + 1e-6).sqrt()
        torch.testing.assert_close(found[:, :, row, column], expected)


def minimiser(loss: Callable[[], Tensor], *parameters: Tensor) -> None:
    optimiser = torch.optim.LBFGS(parameters, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0, 1e4])
def test_r_mae_has_mae_s_minimiser_as_lambda_grows(weight: float) -> None:
    """Two contexts of three images each, and a decoder that can say anything of a view.

    What is visible tells the context only, what is hidden tells the image: MAE's minimiser is each
    context's mean. Of R-MAE, given D(z1), the best D(z2) is (D(z1) + lambda x) / (1 + lambda), and what is
    left is MAE's loss times lambda / (1 + lambda): the same D(z1) for every lambda, and D(z2) -> x.
    """
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4)
    mean = images.mean(1, keepdim=True)
    first = torch.zeros(2, 1, 4, requires_grad=True)
    second = torch.zeros(2, 3, 4, requires_grad=True)
    relaxed = Relaxed(weight, stop_gradient=False)

    def loss() -> Tensor:
        losses = relaxed(first.expand(2, 3, 4), second, None, images)
        return sum(losses.values()) / weight

    minimiser(loss, first, second)
    expected = (mean + weight * images) / (1 + weight)
    torch.testing.assert_close(first.detach(), mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(second.detach(), expected, atol=1e-3, rtol=0)
    variance = float((images - mean).square().mean())
    assert float(loss().detach()) == pytest.approx(variance / (1 + weight), rel=1e-2)


def test_r_mae_s_terms_and_their_gradients() -> None:
    one, two = (torch.tensor(v, requires_grad=True) for v in ([[[1.0]]], [[[3.0]]]))
    target = torch.tensor([[[4.0]]])
    losses = Relaxed(10.0, stop_gradient=False)(one, two, None, target)
    assert {k: v.item() for k, v in losses.items()} == {"loss_similarity": 4.0, "loss_reconstruction": 10.0}
    gradients = torch.autograd.grad(losses["loss_similarity"], (one, two))
    assert [g.item() for g in gradients] == [-4.0, 4.0]
    stopped = Relaxed(10.0, stop_gradient=True)(one, two, None, target)["loss_similarity"]
    gradients = torch.autograd.grad(stopped, (one, two), allow_unused=True, materialize_grads=True)
    assert [g.item() for g in gradients] == [-4.0, 0.0]


def test_cosine_and_its_stopped_gradient() -> None:
    one, two = (torch.tensor(v, requires_grad=True) for v in ([[[3.0, 0.0]]], [[[1.0, 1.0]]]))
    loss = Cosine(nn.Identity(), stop_gradient=True)(one, two, None, None)["loss_cosine"]
    assert float(loss) == pytest.approx(-math.sqrt(0.5))
    loss.backward()
    assert two.grad is None
    loss = Cosine(nn.Identity(), stop_gradient=False)(one, two, None, None)["loss_cosine"]
    loss.backward()
    assert two.grad is not None


def test_cross_entropy_with_smoothed_labels() -> None:
    logits = torch.tensor([[[2.0, 0.0]]])
    loss = CrossEntropy(0.1)(logits, torch.tensor([0]), None, None)["loss_class"]
    e = math.exp(2.0)
    expected = -0.95 * math.log(e / (e + 1)) - 0.05 * math.log(1 / (e + 1))
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_of_mixed_labels_is_timms() -> None:
    """timm smooths the labels where it mixes them; here the loss does, whatever they are."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 1, 5, generator=generator), torch.tensor([0, 3, 1, 4])
    shares = mixup_target(labels, 5, lam=0.3, smoothing=0.0)
    smoothed = mixup_target(labels, 5, lam=0.3, smoothing=0.1)
    loss = CrossEntropy(0.1)(logits, shares, None, None)["loss_class"]
    assert float(loss) == pytest.approx(float(SoftTargetCrossEntropy()(logits[:, 0], smoothed)))
    plain = CrossEntropy(0.1)(logits, labels, None, None)["loss_class"]
    assert float(plain) != pytest.approx(float(loss))
