"""Modules on top of the encoder, discarded after pretraining: decoders, projectors and heads.

An `Embedding` turns an encoder's features into what the similarity compares, at the requested positions.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn import functional as collective
from torch.nn import functional as F

from pretrain.encoder import initialise_linear, sincos_positions
from pretrain.views import View, patchify, take


class Decoder(nn.Module):  # type: ignore[misc]  # torch is not followed
    """MAE's decoder (arXiv 2111.06377): mask tokens at the positions of hidden patches, then transformer blocks."""

    def __init__(self, width: int, grid: tuple[int, int], num_prefix: int, dim: int, depth: int, heads: int) -> None:
        """Take tokens of `width` channels: `num_prefix` prefix tokens, then patches of a grid."""
        super().__init__()
        self.num_prefix = num_prefix
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("positions", sincos_positions(grid, dim)[None], persistent=False)
        self.blocks = nn.Sequential(*[Block(dim, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise_linear(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, features: Tensor, shown: Tensor | None, at: Tensor | None) -> Tensor:
        """Decode [N, P + K, width], of the patches at `shown` [N, K], to [N, M, dim] at the positions `at` [N, M].

        Args:
            features: the encoder's tokens, P of them prefix tokens.
            shown: None if all patches are shown.
            at: None for the shown patches themselves; else hidden patches, each of which gets a mask token.
        """
        tokens = self.embed(features)
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        if shown is None:
            assert at is not None
            full = self.blocks(torch.cat([prefix, patches + self.positions], 1))
            return self.norm(take(full[:, self.num_prefix :], at))
        sequence = [prefix, patches + take(self.positions, shown)]
        if at is None:
            return self.norm(self.blocks(torch.cat(sequence, 1))[:, self.num_prefix :])
        sequence.append(self.mask_token + take(self.positions, at))
        return self.norm(self.blocks(torch.cat(sequence, 1))[:, -at.shape[1] :])


class Embedding(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Maps an encoder's features to what is compared, through an optional decoder and a head."""

    def __init__(self, decoder: Decoder | None, head: nn.Module) -> None:
        """Without a decoder, the head takes the features themselves."""
        super().__init__()
        self.decoder, self.head = decoder, head

    def forward(self, features: Tensor, view: View, at: Tensor | None) -> Tensor:
        """Map a view's features to [N, M, dim] at the positions [N, M]; None: the view's own positions.

        Without a decoder, positions are ignored and the shape is the head's.
        """
        if self.decoder is not None:
            features = self.decoder(features, None if view.replaced else view.shown, at)
        return self.head(features)


class PixelHead(nn.Module):  # type: ignore[misc]  # torch is not followed
    """SimMIM's head (arXiv 2111.09886): a 1 x 1 convolution and a pixel shuffle from each cell to all its pixels."""

    def __init__(self, encoder: Any, patch_size: tuple[int, int], img_size: tuple[int, int]) -> None:
        """Predict the encoder's input, in patches of `patch_size`."""
        super().__init__()
        self.patch_size = patch_size
        self.stride = encoder.feature_info[-1]["reduction"]
        self.grid = (img_size[0] // self.stride, img_size[1] // self.stride)
        self.predict = nn.Conv2d(encoder.num_features, 3 * self.stride**2, 1)

    def forward(self, features: Tensor, view: View, at: Tensor | None) -> Tensor:
        """Map features [N, P + L, D] or [N, h, w, D] to the patches [N, M, 3 p q] at [N, M]."""
        assert at is not None
        rows, columns = self.grid
        tokens = features.flatten(1, -2)[:, -rows * columns :]
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
        pixels = F.pixel_shuffle(self.predict(maps), self.stride)
        return take(patchify(pixels, self.patch_size), at)


class JoinedBatchNorm(nn.BatchNorm1d):  # type: ignore[misc]  # torch is not followed
    """Batch norm of [N, C] over the batches of all processes, on any device; in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in training by the mean and variance over all processes."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world == 1 or not self.training:
            return super().forward(input)
        values = input.float()
        mean = collective.all_reduce(values.mean(0)) / world
        variance = collective.all_reduce((values - mean).square().mean(0)) / world
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            count = len(values) * world
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        normed = (values - mean) * (variance + self.eps).rsqrt()
        return normed if self.weight is None else normed * self.weight + self.bias


class Perceptron(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A projector or predictor: linear layers with batch norm and ReLU in between, on the last axis."""

    def __init__(self, widths: Sequence[int], last_norm: bool) -> None:
        """Build layers of these widths; `last_norm` adds a final batch norm without scale (MoCo v3)."""
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths[:-1]):
            layers += [nn.Linear(width, following, bias=False), JoinedBatchNorm(following), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
        if last_norm:
            layers.append(JoinedBatchNorm(widths[-1], affine=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [N, M, widths[0]] to [N, M, widths[-1]]."""
        return self.layers(tokens.flatten(0, 1)).view(*tokens.shape[:2], -1)
