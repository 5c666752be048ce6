"""How far, how sharply and how variously the heads of a backbone attend (Dark Secrets of MIM).

    python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth --task analysis/attention

Of every head: the averaged attention distance, in input pixels; the entropy of its rows, in nats; and the
mean KL divergence of its rows from those of the block's other heads. Uniform attention among 14 x 14
patches of 16 pixels is at 116.5 pixels and ln 196; heads that are alike have 0. Windowed attention
(Swin, SwinV2, Hiera) is measured inside its windows, at input pixels.
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
    """Rows and columns of queries [w, q, 2] and keys [w, k, 2] in each of w windows, in pixels."""

    queries: Tensor
    keys: Tensor

    @functools.cached_property
    def known_queries(self) -> Tensor:
        """Which queries [w, q] are in the image."""
        return ~self.queries.isnan().any(-1)

    @functools.cached_property
    def known_keys(self) -> Tensor:
        """Which keys [w, k] are in the image."""
        return ~self.keys.isnan().any(-1)

    @functools.cached_property
    def distances(self) -> Tensor:
        """Pixels [w, q, k] from queries to keys; 0 where either is nowhere."""
        return torch.cdist(self.queries, self.keys).nan_to_num(0.0)


def check(model: Any, arch: str) -> None:
    """Raise UserError for a model without attention, or with one whose tokens have no places we know."""
    if not blocks(model):
        raise UserError(
            f"The architecture {arch} has no attention that can be measured in pixels: it has none at all (a "
            f"convolution), or one of another kind than ViT's (with any prefix tokens), BEiT's, EVA's, Swin's, "
            f"SwinV2's and Hiera's, whose queries and keys have no known places. For convolutions, and any other "
            f"backbone, --task analysis/receptive-field measures how far a feature looks."
        )


def grid(rows: int, columns: int, size: tuple[int, int]) -> Tensor:
    """The centres [rows, columns, 2], in pixels, of a map of an image of `size` (height, width)."""
    down = (torch.arange(rows) + 0.5) * (size[0] / rows)
    right = (torch.arange(columns) + 0.5) * (size[1] / columns)
    return torch.stack(torch.meshgrid(down, right, indexing="ij"), -1)


def of_plain(model: Any, size: tuple[int, int]) -> Places:
    """A plain ViT's: all tokens in one window, those of no patch first."""
    height, width = model.patch_embed.patch_size
    patches = grid(size[0] // height, size[1] // width, size).flatten(0, 1)
    nowhere = patches.new_full((model.num_prefix_tokens, 2), torch.nan)
    all_tokens = torch.cat((nowhere, patches))[None]
    return Places(queries=all_tokens, keys=all_tokens)


def of_window(block: Any, shape: tuple[int, int], size: tuple[int, int]) -> Places:
    """Swin's and SwinV2's on a map of `shape`: padded to whole windows, shifted in a circle, cut."""
    centres = _padded(grid(*shape, size), block.window_size)
    shifted = centres.roll([-step for step in block.shift_size], (0, 1))
    windows = window_partition(shifted[None], block.window_size).flatten(1, 2)
    return Places(queries=windows, keys=windows)


def of_sam2(block: Any, shape: tuple[int, int], size: tuple[int, int]) -> Places:
    """SAM 2's Hiera's on a map of `shape`: windows, in which queries may be pooled."""
    windows = grid(*shape, size)[None]
    if block.is_windowed:
        windows = window_partition(_padded(windows[0], block.window_size)[None], block.window_size)
    queries = windows
    if block.q_stride:
        queries = F.avg_pool2d(windows.permute(0, 3, 1, 2), block.q_stride).permute(0, 2, 3, 1)
    return Places(queries=queries.flatten(1, 2), keys=windows.flatten(1, 2))


def of_hiera(model: Any, size: tuple[int, int]) -> list[Places]:
    """Hiera's of every block: mask units as its schedule orders them; a pooled query is at the mean."""
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
    """A map of centres with nowhere right and below, up to whole windows."""
    rows, columns = centres.shape[:2]
    padding = (0, 0, 0, -columns % window[1], 0, -rows % window[0])
    return F.pad(centres, padding, value=torch.nan)


class Placing:
    """The places of every block of a model, found as images go through it."""

    def __init__(self, model: Any) -> None:
        """Know nothing yet."""
        self.model, self.blocks = model, blocks(model)
        self.known: dict[tuple[Any, ...], Places] = {}
        self.all_of_hiera: dict[tuple[int, int], list[Places]] = {}

    def of(self, index: int, given: Tensor, size: tuple[int, int]) -> Places:
        """Those of block `index`, whose input is `given`, for images of `size`; on its device."""
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


# Attention weights as a model itself computes them, read in passing: its output keeps every bit.
#
# Every attention of timm's ends in torch's fused attention or in a softmax. While a block's attention
# runs, both are watched: of the first the same softmax(QK) is computed beside it, from the very queries,
# keys, scale and bias that it is given; of the second the result is taken. So relative positions (BEiT,
# Swin), cosine attention (SwinV2), rotary positions (EVA), masks of shifted windows and pooled queries
# (Hiera) are in, whatever the class.

SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """The weights [b, w, h, q, k] of a block's h heads in w windows, and where its tokens are.

    Rows sum to 1 over the keys.
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
    """softmax(QK) of a call of torch's fused attention: its arguments, but for the value."""
    assert not is_causal, "no backbone of timm's attends causally"
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


class AttentionReader(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed
    """`with AttentionReader(model, see): model(images)` calls `see` with every block's `Attention`."""

    def __init__(self, model: Any, arch: str, see: Callable[[Attention], None]) -> None:
        """Watch a model; raises UserError where its attention cannot be read."""
        super().__init__()
        check(model, arch)
        self.model, self.see, self.placing = model, see, Placing(model)
        self.at: tuple[int, Tensor] | None = None
        self.size: tuple[int, int] = (0, 0)
        self.inside = False
        self.handles: list[Any] = []

    def __enter__(self) -> "AttentionReader":
        """Start to watch."""

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
        """Leave the model as it was."""
        super().__exit__(*error)
        self.inside, self.at = False, None
        while self.handles:
            self.handles.pop().remove()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Compute what is asked; see what of it is attention."""
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
        # Hiera's windows are behind its heads, all others' are among the images.
        own = weights.ndim == 5
        by_window = weights.transpose(1, 2) if own else weights.unflatten(0, (-1, len(places.keys)))
        self.see(Attention(block=index, weights=by_window, places=places))


class HeadStatistics:
    """Sums of what a block's heads do, over images, windows and queries, in float64."""

    def __init__(self, *, eps: float = 1e-8, prefix_queries: bool = False) -> None:
        """Start from nothing; see `AttentionProtocol`."""
        self.eps, self.prefix_queries = eps, prefix_queries
        self.distance: Tensor | float = 0.0
        self.likeness: Tensor | float = 0.0
        self.placed, self.queries = 0, 0

    def update(self, seen: Attention) -> None:
        """Add the weights of a batch.

        A query that is at no place in the image has no distance, and what pads a window is no query at
        all. The distance is over the keys in the image, their weights renormalised; entropy and
        divergence are over all keys.
        """
        weights, places = seen.weights, seen.places
        known = places.known_queries
        asked = weights if known.all() else weights * self._asked(known)[None, :, None, :, None]
        self._add_distance(weights, seen, known)
        logarithms = (weights + self.eps).log_()
        # A row at a time [b, w, q, h, h]: a longer sum in float32 drifts by 1e-4.
        across = asked.transpose(2, 3) @ logarithms.transpose(2, 3).mT
        self.likeness = self.likeness + across.double().sum((0, 1, 2))
        self.queries += len(weights) * int(self._asked(known).sum())

    def _asked(self, known: Tensor) -> Tensor:
        """Which queries [w, q] count: those in the image; of a plain ViT, on demand, its prefix too."""
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
        """The averaged attention distance [h], in pixels."""
        assert isinstance(self.distance, Tensor)
        return self.distance / self.placed

    def entropies(self) -> Tensor:
        """The entropy [h], in nats."""
        assert isinstance(self.likeness, Tensor)
        return -self.likeness.diagonal() / self.queries

    def divergences(self) -> Tensor:
        """KL(row head || column head) [h, h], in nats, at a query's rows."""
        assert isinstance(self.likeness, Tensor)
        mean = self.likeness / self.queries
        return mean.diagonal()[:, None] - mean

    def diversities(self) -> Tensor:
        """Each head's mean divergence [h] from the others; a head alone has none: 0."""
        found = self.divergences()
        return found.sum(1) / max(len(found) - 1, 1)


class AttentionStatistics:
    """`HeadStatistics` of every block, as `AttentionReader` hands them over."""

    def __init__(self, protocol: AttentionProtocol) -> None:
        """Start from nothing."""
        self.protocol = protocol
        self.blocks: dict[int, HeadStatistics] = {}

    def see(self, seen: Attention) -> None:
        """Add a batch's weights of a block."""
        own = HeadStatistics(eps=self.protocol.eps, prefix_queries=self.protocol.prefix_queries)
        self.blocks.setdefault(seen.block, own).update(seen)

    def by_head(self) -> dict[str, list[list[float]]]:
        """Of every block, every head's distance, entropy and KL divergence."""
        ordered = [self.blocks[index] for index in sorted(self.blocks)]
        return {
            "distance": [block.distances().tolist() for block in ordered],
            "entropy": [block.entropies().tolist() for block in ordered],
            "KL": [block.diversities().tolist() for block in ordered],
        }


def metrics(heads: dict[str, list[list[float]]]) -> dict[str, float]:
    """The mean over heads and blocks, over the last three blocks, and of each block."""
    found: dict[str, float] = {}
    for what, by_block in heads.items():
        means = [sum(block) / len(block) for block in by_block]
        found |= {what: _mean(means), f"{what}_last3": _mean(means[-LAST:])}
        found |= {f"{what}/{index}": mean for index, mean in enumerate(means)}
    return found


def _mean(values: Any) -> float:
    return float(sum(values) / len(values))
