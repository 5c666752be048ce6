"""The similarities, which are the losses: each compares the embeddings of two views at the same positions.

    PixelDistance  MAE (pixel-l2) and SimMIM (pixel-l1)
    Relaxed        R-MAE (relaxed-l2)
    InfoNCE        C-MAE and MoCo v3 (infonce)
    Cosine         SimSiam (cosine)
    CrossEntropy   supervised learning (cross-entropy)

Each returns losses by name, whose sum is minimised.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn import functional as collective
from torch.nn import functional as F

from pretrain.decoder import Perceptron
from pretrain.methods import Method
from pretrain.views import patchify, take

EPSILON = 1e-6  # added to variances (MAE, SimMIM)


class PixelTarget(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The pixels that a decoder has to predict: an image's patches, normalised or not."""

    def __init__(self, method: Method, patch_size: tuple[int, int]) -> None:
        """Normalise by the method's `norm_pix_loss` and `norm_window`."""
        super().__init__()
        self.patch_size, self.norm_pix_loss, self.norm_window = patch_size, method.norm_pix_loss, method.norm_window

    def forward(self, images: Tensor, at: Tensor) -> Tensor:
        """Map images [N, 3, H, W] to patches [N, M, 3 p q] at the positions [N, M]."""
        if self.norm_window:
            images = normalised_in_windows(images, self.norm_window)
        patches = take(patchify(images, self.patch_size), at)
        return normalised(patches) if self.norm_pix_loss else patches


def normalised(patches: Tensor) -> Tensor:
    """Return (patch - mean) / sqrt(variance + 1e-6) for each patch [..., 3 p q] (MAE's norm_pix_loss)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


def normalised_in_windows(images: Tensor, side: int) -> Tensor:
    """Normalise each pixel by mean and deviation of the square of `side` pixels around it, inside the image."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=False)

    ones = torch.ones_like(images[:1, :1])
    number = F.avg_pool2d(ones, side, stride=1, padding=side // 2, divisor_override=1)
    middle = mean(images)
    variance = (mean(images.square()) - middle.square()).clamp(min=0) * number / (number - 1)
    return (images - middle) / (variance + EPSILON).sqrt()


class PixelDistance(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The mean of |predicted - true| ** power over hidden pixels: MAE (2; 2111.06377) and SimMIM (1; 2111.09886)."""

    def __init__(self, power: int) -> None:
        """Take the power, 1 or 2."""
        super().__init__()
        assert power in (1, 2), power
        self.power = power

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Compare predicted and true pixels, [N, M, 3 p q]."""
        difference = one.float() - two.float()
        return {"loss_reconstruction": (difference.square() if self.power == 2 else difference.abs()).mean()}


class Relaxed(nn.Module):  # type: ignore[misc]  # torch is not followed
    """R-MAE's loss (arXiv 2208.04164, equations 4-6): the decoded views are similar, and the second is the image.

    mean ||D(z1) - D(z2)||^2 + lambda mean ||D(z2) - x||^2
    """

    def __init__(self, reconstruction_weight: float, stop_gradient: bool) -> None:
        """Take lambda, and whether D(z2) is constant in the first term."""
        super().__init__()
        self.reconstruction_weight, self.stop_gradient = reconstruction_weight, stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Compare decoded views and true pixels, [N, M, 3 p q]."""
        assert target is not None
        one, two = one.float(), two.float()
        fixed = two.detach() if self.stop_gradient else two
        return {
            "loss_similarity": (one - fixed).square().mean(),
            "loss_reconstruction": self.reconstruction_weight * (two - target).square().mean(),
        }


class InfoNCE(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Identify each query's key among the keys of all images, of all processes, at the query's position."""

    def __init__(self, method: Method, num_positions: int, predictor: nn.Module) -> None:
        """Compare tokens of a grid with `num_positions` positions; 1 for pooled features."""
        super().__init__()
        self.predictor, self.num_positions = predictor, num_positions
        self.temperature, self.stop_gradient = method.temperature, method.stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Compare what is predicted from `one` with the keys `two`, both [N, M, D], at positions [N, M] or pooled."""
        keys = two.detach() if self.stop_gradient else two
        places = at if at is not None else one.new_zeros(one.shape[:2], dtype=torch.int64)
        return {"loss_contrast": info_nce(self.predictor(one), keys, places, self.num_positions, self.temperature)}


def info_nce(queries: Tensor, keys: Tensor, positions: Tensor, num_positions: int, temperature: float) -> Tensor:
    """Return mean -log softmax(cos(query, own key) / temperature) * 2 temperature (MoCo v3, arXiv 2104.02057).

    Queries and keys [N, M, D] of an image are at its positions [N, M]. A query's negatives are the keys of other
    images, of every process, at the same position; masks differ, so not every image has one there.
    The mean is over this process's queries, and gradients flow to the keys of all processes.
    """
    queries = F.normalize(queries.float(), dim=-1)
    keys = F.normalize(keys.float(), dim=-1)
    own = (queries * keys).sum(-1) / temperature
    asked, _ = _at_positions(queries, positions, num_positions)
    given, present = _at_positions(gathered(keys), gathered(positions), num_positions)
    logits = torch.einsum("nld,kld->nlk", asked, given) / temperature
    logits = logits.masked_fill(~present.T[None], -torch.inf)
    mine = logits.gather(1, positions[:, :, None].expand(-1, -1, logits.shape[2]))
    assert mine.shape[2] > 1, "no negatives"
    return 2 * temperature * (mine.logsumexp(-1) - own).mean()


def num_processes() -> int:
    """Return the number of processes that share the batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(tensor: Tensor) -> Tensor:
    """Concatenate [N, ...] of all processes; each receives the gradients of all processes for its part."""
    if num_processes() == 1:
        return tensor
    if tensor.requires_grad:
        return torch.cat(collective.all_gather(tensor.contiguous()))
    parts = [torch.empty_like(tensor) for _ in range(num_processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _at_positions(tokens: Tensor, positions: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Scatter tokens [N, M, D] to [N, number, D], zero elsewhere; also return where there is one, [N, number]."""
    spread = tokens.new_zeros(len(tokens), number, tokens.shape[2])
    spread = spread.scatter(1, positions[:, :, None].expand_as(tokens), tokens)
    present = torch.zeros(spread.shape[:2], dtype=torch.bool, device=tokens.device)
    return spread, present.scatter(1, positions, True)


class Cosine(nn.Module):  # type: ignore[misc]  # torch is not followed
    """SimSiam's loss (arXiv 2011.10566, equation 1): -cos(predictor(first view), second view)."""

    def __init__(self, predictor: nn.Module, stop_gradient: bool) -> None:
        """Without `stop_gradient`, all views can collapse to one vector."""
        super().__init__()
        self.predictor, self.stop_gradient = predictor, stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Compare embeddings [N, M, D]."""
        fixed = two.detach() if self.stop_gradient else two
        cosine = F.cosine_similarity(self.predictor(one).float(), fixed.float(), dim=-1)
        return {"loss_cosine": -cosine.mean()}


class CrossEntropy(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The cross-entropy of logits [N, 1, classes] and labels [N]."""

    def __init__(self, label_smoothing: float) -> None:
        """Smooth the labels by `label_smoothing`."""
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Compare the logits `one` with the labels `two`: int64 [N], or the classes' shares [N, classes] (mixup)."""
        loss = F.cross_entropy(one.squeeze(1).float(), two, label_smoothing=self.label_smoothing)
        return {"loss_class": loss}


def similarity(method: Method, num_positions: int) -> nn.Module:
    """Build a method's similarity, with its predictor."""
    if method.similarity == "relaxed-l2":
        return Relaxed(method.reconstruction_weight, method.stop_gradient)
    if method.similarity in ("pixel-l1", "pixel-l2"):
        return PixelDistance(2 if method.similarity == "pixel-l2" else 1)
    if method.similarity == "cross-entropy":
        return CrossEntropy(method.label_smoothing)
    dim = method.projection_dim
    if method.similarity == "cosine":  # SimSiam's bottleneck
        return Cosine(Perceptron((dim, dim // 4, dim), last_norm=False), method.stop_gradient)
    hidden = method.projector_dim or 4 * dim
    predictor = Perceptron((dim, hidden, dim), last_norm=True)
    return InfoNCE(method, num_positions if method.level == "tokens" else 1, predictor)
