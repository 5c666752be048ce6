"""Attention of every head: how far it reaches, how sharp it is, and how much heads differ (arXiv 2205.13543).

    python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth --task analysis/attention

For attention weights p(key | query), each averaged over queries, windows and images:
- distance: sum p(k | q) |x_q - x_k|, in input pixels, over keys in the image;
- entropy: -sum p log p, in nats;
- KL: the mean KL divergence of a head's rows from those of the block's other heads, in nats.
Uniform attention among 14 x 14 patches of 16 pixels has distance 116.5 and entropy ln 196; equal heads have KL 0.
Windowed attention (Swin, SwinV2, Hiera) is measured within its windows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from timm.models import hieradet_sam2
from timm.models.swin_transformer import SwinTransformerBlock, window_partition
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from adapters.analysis.layers import blocks
from adapters.analysis.protocol import AttentionProtocol
from bench.errors import UserError

LAST = 3  # blocks, in which supervised backbones' heads become alike
WINDOWED = (SwinTransformerBlock, SwinTransformerV2Block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Rows and columns, in input pixels, of queries [w, q, 2] and keys [w, k, 2] in each of w windows.

    A token without a place in the image (class, distillation and register tokens; a window's padding) is NaN.
    """

    queries: Tensor
    keys: Tensor

    @functools.cached_property
    def known_queries(self) -> Tensor:
        """Return which queries are in the image, bool [w, q]."""
        return ~self.queries.isnan().any(-1)

    @functools.cached_property
    def known_keys(self) -> Tensor:
        """Return which keys are in the image, bool [w, k]."""
        return ~self.keys.isnan().any(-1)

    @functools.cached_property
    def distances(self) -> Tensor:
        """Return distances in pixels [w, q, k]; 0 where the query or the key has no place."""
        return torch.cdist(self.queries, self.keys).nan_to_num(0.0)


def check(model: Any, arch: str) -> None:
    """Raise UserError for a model without attention, or whose tokens' places in the image are unknown."""
    if not blocks(model):
        raise UserError(
            f"The architecture {arch} has no attention that can be measured in pixels. Supported are ViT (with any "
            f"prefix tokens), BEiT, EVA, Swin, SwinV2 and Hiera. For convolutions and all other backbones, use "
            f"--task analysis/receptive-field, which measures how far a feature reaches."
        )


def grid(rows: int, columns: int, size: tuple[int, int]) -> Tensor:
    """Return the centres [rows, columns, 2], in pixels, of the cells of an image of `size` (height, width)."""
    down = (torch.arange(rows) + 0.5) * (size[0] / rows)
    right = (torch.arange(columns) + 0.5) * (size[1] / columns)
    return torch.stack(torch.meshgrid(down, right, indexing="ij"), -1)


def of_plain(model: Any, size: tuple[int, int]) -> Places:
    """Return the places of a plain ViT's tokens: one window, the prefix tokens first."""
    height, width = model.patch_embed.patch_size
    patches = grid(size[0] // height, size[1] // width, size).flatten(0, 1)
    nowhere = patches.new_full((model.num_prefix_tokens, 2), torch.nan)
    all_tokens = torch.cat((nowhere, patches))[None]
    return Places(queries=all_tokens, keys=all_tokens)


def of_window(block: Any, shape: tuple[int, int], size: tuple[int, int]) -> Places:
    """Return the places in a Swin block's windows on a map of `shape`: padded, shifted cyclically, cut."""
    centres = _padded(grid(*shape, size), block.window_size)
    shifted = centres.roll([-step for step in block.shift_size], (0, 1))
    windows = window_partition(shifted[None], block.window_size).flatten(1, 2)
    return Places(queries=windows, keys=windows)


def of_sam2(block: Any, shape: tuple[int, int], size: tuple[int, int]) -> Places:
    """Return the places in a SAM 2 Hiera block's windows on a map of `shape`; queries may be pooled."""
    windows = grid(*shape, size)[None]
    if block.is_windowed:
        windows = window_partition(_padded(windows[0], block.window_size)[None], block.window_size)
    queries = windows
    if block.q_stride:
        queries = F.avg_pool2d(windows.permute(0, 3, 1, 2), block.q_stride).permute(0, 2, 3, 1)
    return Places(queries=queries.flatten(1, 2), keys=windows.flatten(1, 2))


def of_hiera(model: Any, size: tuple[int, int]) -> list[Places]:
    """Return the places of every Hiera block: by mask unit in its order; a pooled query is at its tokens' mean."""
    tokens = model.unroll(grid(model.tokens_spatial_shape[0], model.tokens_spatial_shape[1], size).flatten(0, 1)[None])[
        0
    ]
    found = []
    for block in model.blocks:
        attention = block.attn
        pooled = tokens.view(attention.q_stride, -1, 2).mean(0)
        windows = 1
        if attention.use_mask_unit_attn:
            windows = len(tokens) // (attention.q_stride * attention.window_size)
        keys, queries = (t.view(-1, windows, 2).transpose(0, 1) for t in (tokens, pooled))
        found.append(Places(queries=queries, keys=keys))
        tokens = pooled
    return found


def _padded(centres: Tensor, window: tuple[int, int]) -> Tensor:
    """Return a map of centres, padded with NaN at the right and bottom to whole windows."""
    rows, columns = centres.shape[:2]
    padding = (0, 0, 0, -columns % window[1], 0, -rows % window[0])
    return F.pad(centres, padding, value=torch.nan)


class Placing:
    """The places of every block's tokens, computed on first use and cached."""

    def __init__(self, model: Any) -> None:
        """Find the blocks; their places depend on the images' size."""
        self.model, self.blocks = model, blocks(model)
        self.known: dict[tuple[Any, ...], Places] = {}
        self.all_of_hiera: dict[tuple[int, int], list[Places]] = {}

    def of(self, index: int, given: Tensor, size: tuple[int, int]) -> Places:
        """Return those of block `index` with input `given`, for images of `size`, on the input's device."""
        key = (index, size, *given.shape[1:3])
        if key not in self.known:
            found = self._find(index, tuple(given.shape[1:3]), size)
            self.known[key] = Places(queries=found.queries.to(given.device), keys=found.keys.to(given.device))
        return self.known[key]

    def _find(self, index: int, shape: Any, size: tuple[int, int]) -> Places:
        block = self.blocks[index]
        if isinstance(block, WINDOWED):
            return of_window(block, shape, size)
        if isinstance(block, hieradet_sam2.MultiScaleBlock):
            return of_sam2(block, shape, size)
        if hasattr(self.model, "unroll"):
            if size not in self.all_of_hiera:
                self.all_of_hiera[size] = of_hiera(self.model, size)
            return self.all_of_hiera[size][index]
        return of_plain(self.model, size)


# Reading a model's own attention weights, without changing a bit of its output.
#
# Every attention of timm ends in torch's fused attention or in a softmax. AttentionReader intercepts both while
# a block's attention runs: for fused attention it computes softmax(QK) from the same arguments, for a softmax it
# takes the result. So relative positions (BEiT, Swin), cosine attention (SwinV2), rotary positions (EVA), masks
# of shifted windows and pooled queries (Hiera) are included for every class.

SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """The weights [b, w, h, q, k] of a block's h heads in w windows, and its tokens' places.

    Rows sum to 1 over the keys, those of padding and prefix tokens included.
    """

    block: int
    weights: Tensor
    places: Places


def fused_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Return softmax(QK * scale + mask) for the arguments of torch's fused attention."""
    assert not is_causal, "no backbone of timm uses causal attention"
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


class AttentionReader(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed
    """`with AttentionReader(model, see): model(images)` calls `see` with every block's `Attention`."""

    def __init__(self, model: Any, arch: str, see: Callable[[Attention], None]) -> None:
        """Prepare to read a model; raises UserError where its attention cannot be read."""
        super().__init__()
        check(model, arch)
        self.model, self.see, self.placing = model, see, Placing(model)
        self.at: tuple[int, Tensor] | None = None
        self.size: tuple[int, int] = (0, 0)
        self.inside = False
        self.handles: list[Any] = []

    def __enter__(self) -> "AttentionReader":
        """Register the hooks."""

        def starts(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            height, width = given[0].shape[-2:]
            self.size = (height, width)

        self.handles = [self.model.register_forward_pre_hook(starts)]
        for index, block in enumerate(self.placing.blocks):
            self.handles += self._watch(index, block)
        super().__enter__()
        return self

    def _watch(self, index: int, block: Any) -> list[Any]:
        def block_starts(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.at = (index, given[0])

        def starts(*_: Any) -> None:
            self.inside = True

        def ends(*_: Any) -> None:
            self.inside = False

        return [
            block.register_forward_pre_hook(block_starts),
            block.attn.register_forward_pre_hook(starts),
            block.attn.register_forward_hook(ends),
        ]

    def __exit__(self, *error: Any) -> None:
        """Remove the hooks."""
        super().__exit__(*error)
        self.inside, self.at = False, None
        while self.handles:
            self.handles.pop().remove()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run `func`, and pass on the attention weights that it computes."""
        kwargs = kwargs or {}
        if not self.inside:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._seen(fused_weights(*args, **kwargs))
        found = func(*args, **kwargs)
        if func in SOFTMAX:
            self._seen(found)
        return found

    def _seen(self, weights: Tensor) -> None:
        assert self.at is not None
        index, given = self.at
        places = self.placing.of(index, given, self.size)
        # Hiera's weights are [b, h, w, q, k]; all others' are [b * w, h, q, k].
        own = weights.ndim == 5
        by_window = weights.transpose(1, 2) if own else weights.unflatten(0, (-1, len(places.keys)))
        self.see(Attention(block=index, weights=by_window, places=places))


class HeadStatistics:
    """Distance, entropy and divergence of a block's h heads: float64 sums over images, windows and queries."""

    def __init__(self, *, eps: float = 1e-8, prefix_queries: bool = False) -> None:
        """Start with sums of 0; the arguments are those of `AttentionProtocol`."""
        self.eps, self.prefix_queries = eps, prefix_queries
        self.distance: Tensor | float = 0.0
        self.likeness: Tensor | float = 0.0
        self.placed, self.queries = 0, 0

    def update(self, seen: Attention) -> None:
        """Add the weights of a batch.

        A query without a place in the image has no distance; a window's padding is never a query. The distance
        is over the keys in the image, with their weights renormalised; entropy and divergence are over all keys.
        """
        weights, places = seen.weights, seen.places
        known = places.known_queries
        asked = weights if known.all() else weights * self._asked(known)[None, :, None, :, None]
        self._add_distance(weights, seen, known)
        logarithms = (weights + self.eps).log_()
        # Summed in float32 within a row only [b, w, q, h, h]: longer float32 sums drift by 1e-4.
        across = asked.transpose(2, 3) @ logarithms.transpose(2, 3).mT
        self.likeness = self.likeness + across.double().sum((0, 1, 2))
        self.queries += len(weights) * int(self._asked(known).sum())

    def _asked(self, known: Tensor) -> Tensor:
        """Return which queries count, bool [w, q]: those in the image, and with `prefix_queries` a ViT's prefix."""
        whole = self.prefix_queries and len(known) == 1
        return torch.ones_like(known) if whole else known

    def _add_distance(self, weights: Tensor, seen: Attention, known: Tensor) -> None:
        places = seen.places
        distances = (weights * places.distances[:, None]).sum(-1)
        keys = places.known_keys
        if not keys.all():
            distances /= (weights * keys[:, None, None, :]).sum(-1) + self.eps
        distances *= known[:, None, :]
        self.distance = self.distance + distances.double().sum((0, 1, 3))
        self.placed += len(weights) * int(known.sum())

    def distances(self) -> Tensor:
        """Return the mean attention distance [h], in pixels."""
        assert isinstance(self.distance, Tensor)
        return self.distance / self.placed

    def entropies(self) -> Tensor:
        """Return the entropy [h], in nats."""
        assert isinstance(self.likeness, Tensor)
        return -self.likeness.diagonal() / self.queries

    def divergences(self) -> Tensor:
        """Return KL(row head || column head) [h, h], in nats, averaged over queries."""
        assert isinstance(self.likeness, Tensor)
        mean = self.likeness / self.queries
        return mean.diagonal()[:, None] - mean

    def diversities(self) -> Tensor:
        """Return each head's mean divergence [h] from the block's others; 0 for a single head."""
        found = self.divergences()
        return found.sum(1) / max(len(found) - 1, 1)


class AttentionStatistics:
    """`HeadStatistics` of every block; its `see` is the callback of `AttentionReader`."""

    def __init__(self, protocol: AttentionProtocol) -> None:
        """Start without blocks."""
        self.protocol = protocol
        self.blocks: dict[int, HeadStatistics] = {}

    def see(self, seen: Attention) -> None:
        """Add a block's weights of a batch."""
        own = HeadStatistics(eps=self.protocol.eps, prefix_queries=self.protocol.prefix_queries)
        self.blocks.setdefault(seen.block, own).update(seen)

    def by_head(self) -> dict[str, list[list[float]]]:
        """Return every head's "distance", "entropy" and "KL", by block."""
        ordered = [self.blocks[index] for index in sorted(self.blocks)]
        return {
            "distance": [block.distances().tolist() for block in ordered],
            "entropy": [block.entropies().tolist() for block in ordered],
            "KL": [block.diversities().tolist() for block in ordered],
        }


def metrics(heads: dict[str, list[list[float]]]) -> dict[str, float]:
    """Return each quantity's mean over heads and blocks, over the last three blocks, and of each block."""
    found: dict[str, float] = {}
    for what, by_block in heads.items():
        means = [sum(block) / len(block) for block in by_block]
        found |= {what: _mean(means), f"{what}_last3": _mean(means[-LAST:])}
        found |= {f"{what}/{index}": mean for index, mean in enumerate(means)}
    return found


def _mean(values: list[float]) -> float:
    return float(sum(values) / len(values))
