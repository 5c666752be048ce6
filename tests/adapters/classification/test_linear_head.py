"""The heads against scipy's optimum of the same problem, and the search against itself."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from adapters.classification.linear_head import Schedule, fit, score, search, standardisation, stratified
from bench.errors import UserError

N, WIDTH, CLASSES = 240, 6, 4
LONG = Schedule(epochs=1500, batch_size=N, momentum=0.9)
SHORT = Schedule(epochs=5, batch_size=32, momentum=0.9)


@pytest.fixture(scope="module")
def data():
    """Correlated, badly scaled features; labels that no linear map gives without error."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(N, WIDTH, generator=rng) @ torch.randn(WIDTH, WIDTH, generator=rng) * 5 + 3
    y = (x @ torch.randn(WIDTH, CLASSES, generator=rng)).div(10)
    return x, (y + torch.randn(N, CLASSES, generator=rng)).argmax(1)


def train(data, grid, schedule=SHORT, seed=0):
    return fit(*data, classes=CLASSES, grid=grid, schedule=schedule, seed=seed, title="heads")


def regression(x, y, decay):
    """Penalised multinomial logistic regression in float64: the value and gradient of its loss."""
    target = np.eye(CLASSES)[y]

    def loss(flat):
        weight, bias = flat[:-CLASSES].reshape(-1, CLASSES), flat[-CLASSES:]
        z = x @ weight + bias
        log_sum = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
        error = (np.exp(z - log_sum[:, None]) - target) / len(x)
        value = (log_sum - (z * target).sum(1)).mean() + decay / 2 * (weight**2).sum()
        return value, np.concatenate([(x.T @ error + decay * weight).ravel(), error.sum(0)])

    return loss


@pytest.mark.parametrize("decay", [1e-3, 1e-2, 1e-1])
def test_a_head_reaches_scipys_optimum(data, decay):
    x, y = data
    mean, scale = standardisation(x)
    loss = regression(((x - mean) * scale).double().numpy(), y.numpy(), decay)
    best = minimize(loss, np.zeros((WIDTH + 1) * CLASSES), jac=True, options={"gtol": 1e-9})
    heads = train(data, [(5.0, decay)], LONG)
    ours = torch.cat([heads.weight.flatten(), heads.bias]).double().numpy()
    assert loss(ours)[0] == pytest.approx(best.fun, abs=1e-6)
    np.testing.assert_allclose(ours[:-CLASSES], best.x[:-CLASSES], atol=1e-3)


def test_a_step_is_that_of_torchs_sgd(data):
    """Minibatches, cosine, momentum and weight decay, by autograd and torch.optim."""
    x, y = data
    mean, scale = standardisation(x)
    x = (x - mean) * scale
    layer = torch.nn.Linear(WIDTH, CLASSES)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": 1e-2}, {"params": [layer.bias]}]
    sgd = torch.optim.SGD(groups, lr=2.0, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, SHORT.epochs * 8)
    rng = torch.Generator().manual_seed(3)
    for _ in range(SHORT.epochs):
        for batch in torch.randperm(N, generator=rng).split(SHORT.batch_size):
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
            sgd.step()
            cosine.step()
    heads = train(data, [(2.0, 1e-2)], seed=3)
    torch.testing.assert_close(heads.weight, layer.weight.T.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(heads.bias, layer.bias.detach(), atol=1e-4, rtol=1e-4)


def test_heads_side_by_side_are_the_heads_alone(data):
    grid = [(1.0, 0.0), (10.0, 1e-3), (0.1, 1e-1)]
    together = train(data, grid).logits(data[0])
    for i, one in enumerate(grid):
        torch.testing.assert_close(train(data, [one]).logits(data[0])[:, 0], together[:, i], atol=1e-4, rtol=1e-4)


def test_the_seed_orders_the_images_and_nothing_else(data):
    grid = [(1.0, 1e-3)]
    assert torch.equal(train(data, grid).weight, train(data, grid).weight)
    assert not torch.equal(train(data, grid).weight, train(data, grid, seed=1).weight)
    a, b = (train(data, [(5.0, 1e-2)], LONG, seed=seed).weight for seed in (0, 1))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_constant_features_count_for_nothing(data):
    x, y = data
    padded = torch.cat([x, torch.full((N, 2), 0.1)], 1)
    _, scale = standardisation(padded)
    assert scale[-2:].tolist() == [0.0, 0.0]
    assert train((padded, y), [(1.0, 0.0)]).logits(padded).isfinite().all()


def test_scores_are_accuracy_and_cross_entropy(data):
    x, y = data
    heads = train(data, [(1.0, 0.0), (0.0, 0.0)])
    top1, loss = score(heads, x, y)
    logits = heads.logits(x)[:, 0]
    assert float(top1[0]) == pytest.approx(100 * float((logits.argmax(1) == y).float().mean()))
    assert float(loss[0]) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)))
    assert float(loss[1]) == pytest.approx(np.log(CLASSES))


def test_the_held_out_part_has_its_share_of_every_class():
    labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 5).roll(17)
    held_out = stratified(labels, one_in=5, seed=0)
    assert labels[held_out].bincount().tolist() == [8, 2, 1]
    assert torch.equal(held_out, stratified(labels, one_in=5, seed=0))
    assert not torch.equal(held_out, stratified(labels, one_in=5, seed=1))


def test_single_images_of_many_classes_are_split_too():
    assert int(stratified(torch.arange(20), one_in=5, seed=0).sum()) == 4


def test_the_search_ranks_by_held_out_accuracy_then_loss(data):
    grid = [(0.0, 0.0), (3.0, 1e-3), (0.0, 1.0), (1e-3, 0.0)]
    trials = search(*data, classes=CLASSES, grid=grid, schedule=SHORT, one_in=5, seed=0)
    assert {(t["lr"], t["weight_decay"]) for t in trials} == set(grid)
    assert trials == sorted(trials, key=lambda t: (-t["top1"], t["loss"]))
    assert trials[0]["lr"] == 3.0


def test_too_few_images_to_hold_one_out(data):
    few = [part[:4] for part in data]
    with pytest.raises(UserError, match="has 4 images, and one in 5"):
        search(*few, classes=CLASSES, grid=[(1.0, 0.0)], schedule=SHORT, one_in=5, seed=0)


def test_of_several_classes_each_is_a_logistic_regression_of_its_own(data):
    """Against scipy; images in which a class is hard to see (0) count neither way."""
    x, first = data
    rng = torch.Generator().manual_seed(1)
    hard = torch.rand(N, CLASSES, generator=rng) < 0.1
    labels = torch.where(torch.nn.functional.one_hot(first, CLASSES) > 0, 1, -1)
    labels = labels.masked_fill(hard, 0)
    heads = fit(x, labels, classes=CLASSES, grid=[(30.0, 1e-2)], schedule=LONG, seed=0, title="")
    mean, scale = standardisation(x)
    seen = ((x - mean) * scale).double().numpy()
    for k in range(CLASSES):
        sign = labels[:, k].double().numpy()

        def loss(flat, sign=sign):
            margin = sign * (seen @ flat[:-1] + flat[-1])
            pull = -sign / (1 + np.exp(margin)) / N
            value = (np.log1p(np.exp(-margin)) * abs(sign)).sum() / N + 5e-3 * (flat[:-1] ** 2).sum()
            return value, np.append(seen.T @ pull + 1e-2 * flat[:-1], pull.sum())

        best = minimize(loss, np.zeros(WIDTH + 1), jac=True, tol=1e-12).x
        found = torch.cat((heads.weight[:, k], heads.bias[[k]])).numpy()
        assert found == pytest.approx(best, abs=2e-3)
    trials = search(
        x, labels, classes=CLASSES, grid=[(3.0, 0.0)], schedule=SHORT, one_in=5, seed=0, held_out=first == 0
    )
    assert set(trials[0]) == {"lr", "weight_decay", "mAP", "loss"}
