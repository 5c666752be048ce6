"""The similarities: what two views' encodings are compared by.

Each takes what the embeddings of the first and of the second view are at the same positions, and gives
losses by name, of which the sum is minimised.
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
    """Images as what a decoder has to say: patches, normalised or not."""

    def __init__(self, method: Method, patch_size: tuple[int, int]) -> None:
        """Normalise as the method says."""
        super().__init__()
        self.patch_size = patch_size
        self.norm_pix_loss = method.norm_pix_loss
        self.norm_window = method.norm_window

    def forward(self, images: Tensor, at: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, M, 3 p q] at the positions [N, M]."""
        if self.norm_window:
            images = normalised_in_windows(images, self.norm_window)
        patches = take(patchify(images, self.patch_size), at)
        return normalised(patches) if self.norm_pix_loss else patches


def normalised(patches: Tensor) -> Tensor:
    """Each patch less its mean, by its standard deviation (MAE's norm_pix_loss)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


def normalised_in_windows(images: Tensor, side: int) -> Tensor:
    """Each pixel by mean and deviation of the square of `side` pixels around it, inside the image."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=False)

    ones = torch.ones_like(images[:1, :1])
    number = F.avg_pool2d(ones, side, stride=1, padding=side // 2, divisor_override=1)
    middle = mean(images)
    variance = (mean(images.square()) - middle.square()).clamp(min=0) * number / (number - 1)
    return (images - middle) / (variance + EPSILON).sqrt()


class PixelDistance(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Mean of |difference| ** power over hidden pixels: MAE (2) and SimMIM (1)."""

    def __init__(self, power: int) -> None:
        """Choose the power, 1 or 2."""
        super().__init__()
        assert power in (1, 2), power
        self.power = power

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """[N, M, 3 p q] predicted and true."""
        difference = one.float() - two.float()
        loss = difference.square().mean() if self.power == 2 else difference.abs().mean()
        return {"loss_reconstruction": loss}


class Relaxed(nn.Module):  # type: ignore[misc]  # torch is not followed
    """R-MAE's: decoded views are alike, and the second one's is the image.

    mean ||D(z1) - D(z2)||^2 + lambda mean ||D(z2) - x||^2   (papers: arXiv 2208.04164, equations 4-6)
    """

    def __init__(self, reconstruction_weight: float, stop_gradient: bool) -> None:
        """With lambda, and whether D(z2) is constant in the first term."""
        super().__init__()
        self.reconstruction_weight = reconstruction_weight
        self.stop_gradient = stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Decoded views and true pixels, [N, M, 3 p q]."""
        assert target is not None
        one, two = one.float(), two.float()
        fixed = two.detach() if self.stop_gradient else two
        return {
            "loss_similarity": (one - fixed).square().mean(),
            "loss_reconstruction": self.reconstruction_weight * (two - target).square().mean(),
        }


class InfoNCE(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Each query's key among the keys of all images, over all processes, at the query's position."""

    def __init__(self, method: Method, num_positions: int, predictor: nn.Module) -> None:
        """Compare tokens of a grid of so many positions; 1: pooled."""
        super().__init__()
        self.predictor = predictor
        self.temperature = method.temperature
        self.num_positions = num_positions
        self.stop_gradient = method.stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """Queries (to be predicted from) and keys [N, M, D], at the positions [N, M]; None: pooled."""
        keys = two.detach() if self.stop_gradient else two
        places = at if at is not None else one.new_zeros(one.shape[:2], dtype=torch.int64)
        return {"loss_contrast": info_nce(self.predictor(one), keys, places, self.num_positions, self.temperature)}


def info_nce(queries: Tensor, keys: Tensor, positions: Tensor, num_positions: int, temperature: float) -> Tensor:
    """-log softmax of the cosine with one's own key over temperature, times 2 temperature (MoCo v3).

    Queries and keys [N, M, D] of an image are at its positions [N, M]. The negatives of a query are the keys of
    other images, of every process, at the same position: those that are there, as masks differ.
    The mean is over this process's queries, and gradients flow to the keys of all.
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
    """How many share the batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(tensor: Tensor) -> Tensor:
    """[N, ...] of every process, [processes * N, ...]; each gets the gradients that all have for its own."""
    if num_processes() == 1:
        return tensor
    if tensor.requires_grad:
        return torch.cat(collective.all_gather(tensor.contiguous()))
    parts = [torch.empty_like(tensor) for _ in range(num_processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _at_positions(tokens: Tensor, positions: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Tokens [N, M, D] spread to [N, number, D], zero where none is; and where one is, [N, number]."""
    spread = tokens.new_zeros(len(tokens), number, tokens.shape[2])
    spread = spread.scatter(1, positions[:, :, None].expand_as(tokens), tokens)
    present = torch.zeros(spread.shape[:2], dtype=torch.bool, device=tokens.device)
    return spread, present.scatter(1, positions, True)


class Cosine(nn.Module):  # type: ignore[misc]  # torch is not followed
    """SimSiam's: the negative cosine of what is predicted from the first view with the second (equation 1)."""

    def __init__(self, predictor: nn.Module, stop_gradient: bool) -> None:
        """Without the stopped gradient all views may collapse to one vector."""
        super().__init__()
        self.predictor = predictor
        self.stop_gradient = stop_gradient

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """[N, M, D] each."""
        fixed = two.detach() if self.stop_gradient else two
        cosine = F.cosine_similarity(self.predictor(one).float(), fixed.float(), dim=-1)
        return {"loss_cosine": -cosine.mean()}


class CrossEntropy(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Of the logits [N, 1, classes] with the labels [N]."""

    def __init__(self, label_smoothing: float) -> None:
        """Smooth the labels."""
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, one: Tensor, two: Tensor, at: Tensor | None, target: Tensor | None) -> Any:
        """`two` is int64 [N], or the classes' shares [N, classes] (mixup)."""
        logits = one.squeeze(1).float()
        return {"loss_class": F.cross_entropy(logits, two, label_smoothing=self.label_smoothing)}


def similarity(method: Method, num_positions: int) -> nn.Module:
    """The comparison that a method names, with its predictor."""
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
