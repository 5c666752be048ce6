"""Linear classifiers on frozen features; a whole grid of hyper-parameters is trained at once.

Multinomial logistic regression with an L2 penalty on the weights (not the biases), by SGD with momentum and a cosine
decay to 0, from zero weights. The problem is convex, so only the order of the images is random. The G heads are
columns of one matrix, so the grid costs one matrix product per step. Images of several classes (labels [n, k], see
`metric`) have one binary logistic regression per class.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from adapters.classification.metric import mean_average_precision
from bench.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How heads are trained: passes over the images, images per step, momentum of SGD."""

    epochs: int
    batch_size: int
    momentum: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads:
    """G linear heads over k classes.

    Args:
        weight: [d, G * k], bias: [G * k], for standardised features.
        mean, scale: [d]; the heads' input is (x - mean) * scale.
        classes: k.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    classes: int

    def logits(self, features: Tensor) -> Tensor:
        """Map features [n, d] to logits [n, G, k]."""
        x = (features.to(self.mean) - self.mean) * self.scale
        return (x @ self.weight + self.bias).unflatten(1, (-1, self.classes))


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [d] and factor [d] that give features [n, d] mean 0 and variance 1/d; constant features become 0.

    An image's squared norm is then 1 on average, so one grid of learning rates suits every width.
    """
    std, mean = torch.std_mean(features, dim=0, correction=0)
    dead = std <= 1e-6 * features.abs().amax(0)
    return mean, (~dead / std.where(~dead, 1.0)) / math.sqrt(features.shape[1])


def fit(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    grid: Sequence[tuple[float, float]],
    schedule: Schedule,
    seed: int,
    title: str,
) -> Heads:
    """Train one head for each (learning rate, weight decay) of `grid`, all on the same batches.

    features [n, d] and labels [n] are on the device to train on; `seed` orders the images.
    """
    mean, scale = standardisation(features)
    x, order = (features - mean) * scale, torch.Generator().manual_seed(seed)
    lr, decay = (
        torch.tensor(column, dtype=x.dtype, device=x.device).repeat_interleave(classes)
        for column in zip(*grid, strict=True)
    )
    weight = x.new_zeros(x.shape[1], len(grid) * classes)
    bias = x.new_zeros(len(grid) * classes)
    speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    steps = schedule.epochs * math.ceil(len(x) / schedule.batch_size)
    batches = (
        batch
        for _ in range(schedule.epochs)
        for batch in torch.randperm(len(x), generator=order).to(x.device).split(schedule.batch_size)
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal
    bar = track(batches, title, total=steps, console=console, transient=True, disable=quiet)
    for step, batch in enumerate(bar):
        error = _error(x[batch] @ weight + bias, labels[batch], classes)
        rate = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        speed.mul_(schedule.momentum).addmm_(x[batch].T, error).addcmul_(weight, decay)
        bias_speed.mul_(schedule.momentum).add_(error.sum(0))
        weight.addcmul_(speed, rate, value=-1)
        bias.addcmul_(bias_speed, rate, value=-1)
    return Heads(weight=weight, bias=bias, mean=mean, scale=scale, classes=classes)


def _error(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the gradient [b, G * k] of every head's mean cross-entropy with respect to its logits [b, G * k]."""
    logits = logits.unflatten(1, (-1, classes))
    if labels.ndim == 2:
        several = labels[:, None]
        return ((logits.sigmoid() - (several > 0).to(logits)) * several.abs()).flatten(1) / len(labels)
    error = logits.softmax(-1)
    error[torch.arange(len(labels), device=labels.device), :, labels] -= 1
    return error.flatten(1) / len(labels)


def score(heads: Heads, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return every head's top1 (mAP for several classes), in percent, and mean cross-entropy, each [G]."""
    if labels.ndim == 2:
        return _score_several(heads.logits(features), labels)
    right, loss = torch.zeros(2, heads.bias.numel() // heads.classes, device=features.device)
    for x, y in zip(features.split(4096), labels.split(4096), strict=True):
        logits = heads.logits(x)
        right += (logits.argmax(-1) == y[:, None]).sum(0)
        loss += F.cross_entropy(logits.transpose(1, 2), y[:, None].expand(-1, len(loss)), reduction="none").sum(0)
    return 100 * right / len(labels), loss / len(labels)


def _score_several(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mAP and cross-entropy, each [G], for logits [n, G, k] and labels [n, k] of several classes."""
    wanted = (labels > 0).to(logits)[:, None].expand_as(logits)
    counted = labels.abs()[:, None]
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counted
    precision = [mean_average_precision(scores, labels) for scores in logits.unbind(1)]
    return torch.tensor(precision), each.sum((0, 2)) / len(labels)


def stratified(labels: Tensor, *, one_in: int, seed: int) -> Tensor:
    """Hold out one in `one_in` images of each class at random; returns bool [n], True: held out.

    Every `one_in`-th image is taken from the concatenation of the classes, each in random order. So every class
    gives its share to within one image, also where classes have fewer than `one_in` images.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[one_in - 1 :: one_in]] = True
    return held_out.to(labels.device)


def search(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    grid: Sequence[tuple[float, float]],
    schedule: Schedule,
    one_in: int,
    seed: int,
    held_out: Tensor | None = None,
    shots: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, float]]:
    """Train the grid on a part of the images and score it on the rest; returns one row per trial, best first.

    The best trial has the highest held-out top1 (mAP for several classes), and among equals the lowest held-out
    cross-entropy.

    Args:
        held_out: bool [n]; None: one in `one_in` of each class (`stratified`, by `seed`).
        shots: selects the images to train on among the others, bool [n] to bool [n]; None: all of them.

    Raises:
        UserError: a part would be empty.
    """
    if held_out is None:
        held_out = stratified(labels, one_in=one_in, seed=seed)
    seen = ~held_out if shots is None else shots(~held_out)
    _check_parts(seen, held_out, one_in)
    heads = fit(
        features[seen],
        labels[seen],
        classes=classes,
        grid=grid,
        schedule=schedule,
        seed=seed,
        title=f"{len(grid)} linear heads",
    )
    top1, loss = score(heads, features[held_out], labels[held_out])
    metric = "mAP" if labels.ndim == 2 else "top1"
    trials = [
        {"lr": lr, "weight_decay": decay, metric: float(t), "loss": float(value)}
        for (lr, decay), t, value in zip(grid, top1, loss, strict=True)
    ]
    return sorted(trials, key=lambda trial: (-trial[metric], trial["loss"]))


def _check_parts(seen: Tensor, held_out: Tensor, one_in: int) -> None:
    """Raise UserError where the images to train on, or those to choose on, would be none."""
    if held_out.any() and seen.any():
        return
    raise UserError(
        f"The train split has {len(held_out)} images, and one in {one_in}, or its official validation split, is "
        f"held out to choose the learning rate and weight decay: that leaves {int(held_out.sum())} to choose on and "
        f"{int(seen.sum())} to train on. Add images, or raise the limit."
    )
