"""CKA against its definition in numpy, and against what it must be."""

import numpy as np
import pytest
import torch

from adapters.analysis.similarity import CKA, FEWEST, centred_grams
from bench.errors import UserError


def hsic1(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """As Song et al. write it, term by term."""
    n = len(k)
    k, l = (m - np.diag(np.diag(m)) for m in (k, l))  # noqa: E741
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def biased(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (m - m.mean(0) for m in (x, y))
    across = np.linalg.norm(y.T @ x) ** 2
    return float(across / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cka(x: torch.Tensor, y: torch.Tensor, batch: int | None = None) -> float:
    found = CKA()
    for a, b in zip(x.split(batch or len(x)), y.split(batch or len(y)), strict=True):
        found.update(centred_grams([a]), centred_grams([b]))
    return float(found.value())


def related(n: int, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    x = noise(n, 30, 0) + 3.0
    return x, x @ noise(30, width, 1) + 4 * noise(n, width, 2)


def test_one_batch_is_the_definition() -> None:
    x, y = related(50)
    k, l = ((m @ m.T).double().numpy() for m in (x.double(), y.double()))  # noqa: E741
    expected = hsic1(k, l) / np.sqrt(hsic1(k, k) * hsic1(l, l))
    assert 0.3 < expected < 0.99
    assert cka(x, y) == pytest.approx(expected, abs=1e-6)


def test_minibatches_are_summed_before_they_are_divided() -> None:
    x, y = related(48)
    parts = zip(x.double().split(16), y.double().split(16), strict=True)
    grams = [((a @ a.T).numpy(), (b @ b.T).numpy()) for a, b in parts]
    across = sum(hsic1(a, b) for a, b in grams)
    own = sum(hsic1(a, a) for a, _ in grams) * sum(hsic1(b, b) for _, b in grams)
    assert cka(x, y, 16) == pytest.approx(across / np.sqrt(own), abs=1e-6)


def test_rotation_scale_and_shift_change_nothing() -> None:
    x, y = related(32)
    rotation = torch.linalg.qr(noise(30, 30, 5).double())[0].float()
    assert cka(x, 7.5 * x @ rotation + 2.0) == pytest.approx(1.0, abs=1e-6)
    assert cka(x @ rotation, y) == pytest.approx(cka(x, y), abs=1e-6)


def test_itself_is_exactly_1() -> None:
    for seed in range(20):
        x = noise(16, 12, seed)
        assert cka(x, x.clone()) == 1.0


def test_symmetric() -> None:
    x, y = related(32)
    assert cka(x, y, 8) == pytest.approx(cka(y, x, 8), abs=1e-12)


@pytest.mark.parametrize("n", [8, 32, 128])
def test_independent_features_are_near_0_where_the_biased_estimator_is_not(n: int) -> None:
    pairs = [(noise(n, 512, 2 * s), noise(n, 512, 2 * s + 1)) for s in range(200 * 8 // n)]
    found = CKA()
    for x, y in pairs:
        found.update(centred_grams([x]), centred_grams([y]))
    flattered = np.mean([biased(x.numpy(), y.numpy()) for x, y in pairs])
    assert abs(float(found.value())) < 0.02
    assert flattered > 0.5 * 512 / (512 + n)


def test_permuted_images_have_nothing_in_common() -> None:
    x, y = related(400)
    assert abs(cka(x, y[torch.randperm(400, generator=torch.Generator().manual_seed(3))], 40)) < 0.05


def test_all_layers_at_once_and_widths_that_differ() -> None:
    x, y = related(24, width=7)
    found = CKA()
    found.update(centred_grams([x, y, x[:, :5]]))
    assert found.value().shape == (3, 3)
    assert found.value().diagonal().tolist() == [1.0, 1.0, 1.0]
    assert float(found.value()[0, 1]) == pytest.approx(cka(x, y), abs=1e-12)
    assert found.images == 24


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    found = CKA()
    for seed in range(5):
        found.update(centred_grams([noise(FEWEST, 6, seed), noise(FEWEST, 6, seed + 9)]))
    held = [v for v in vars(found).values() if isinstance(v, torch.Tensor)]
    assert sum(tensor.numel() for tensor in held) == 4 + 2 + 2


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_a_constant_feature_is_said(size: float) -> None:
    x = noise(16, 8, 0)
    found = CKA()
    found.update(centred_grams([x, torch.full((16, 8), size) + 1e-8 * size * x]))
    with pytest.raises(UserError, match=r"layer 1 are the same for all images.*0 / 0"):
        found.value()


def test_features_that_are_not_finite_are_said() -> None:
    x = noise(16, 8, 0)
    with pytest.raises(UserError, match="layer 1 are not finite"):
        centred_grams([x, x / torch.zeros(8)])
