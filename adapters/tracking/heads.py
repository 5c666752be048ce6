"""SwinTrack's fusion of template and search tokens, and its head (arXiv 2112.00995, sections 3.2 to 3.4).

Fusion is an encoder over both crops' tokens and a decoder layer on the search tokens. Attention is biased by untied
positions (TUPE, arXiv 2006.15595), absolute and relative, which the encoder's layers share. The head predicts, for
each cell of the search crop, a box (GIoU loss) and how well that box fits (varifocal loss). Boxes are centre x, y,
width and height as shares of the search crop's side.
"""

from collections.abc import Iterator

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.tracking.pairs import SEARCH

MLP_RATIO = 4


class Positions(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The bias of attention logits by the positions of query and key.

    The absolute part is the product of two projections of learned positions (a row's and a column's embedding, for
    template and search, summed and layer-normed); the relative part is a table over differences of rows and columns,
    one for each pair of query and key crop. Simplified: both crops share the norm and the projections, while in
    SwinTrack each has its own.
    """

    relative_index: Tensor

    def __init__(self, dim: int, heads: int, grids: tuple[int, int]) -> None:
        """`grids` are the sides of template and search, in tokens."""
        super().__init__()
        self.heads, self.grids = heads, grids
        self.rows, self.columns = (
            nn.ParameterList(nn.Parameter(torch.zeros(side, dim)) for side in grids) for _ in range(2)
        )
        for table in (*self.rows, *self.columns):
            trunc_normal_(table, std=0.02)
        self.norm, self.ask, self.answer = (nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, dim))
        index = _relative_index(grids)
        self.register_buffer("relative_index", index, persistent=False)
        self.relative = nn.Parameter(torch.zeros(heads, int(index.max()) + 1))
        trunc_normal_(self.relative, std=0.02)

    def forward(self, asking: int) -> Tensor:
        """Return the bias (heads, asking, tokens) of the last `asking` tokens as queries; template before search."""
        places = self.norm(torch.cat(list(self._places())))
        queries, keys = (
            part.unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for part in (self.ask(places[-asking:]), self.answer(places))
        )
        absolute = queries @ keys.mT * keys.shape[-1] ** -0.5
        return absolute + self.relative[:, self.relative_index[-asking:]]

    def _places(self) -> Iterator[Tensor]:
        for rows, columns in zip(self.rows, self.columns, strict=True):
            yield (rows[:, None] + columns).flatten(0, 1)


def _relative_index(grids: tuple[int, int]) -> Tensor:
    """Return the table's entry for each pair of tokens, (tokens, tokens)."""
    axes = ((torch.tensor([crop]), torch.arange(side)) for crop, side in enumerate(grids))
    places = torch.cat([torch.cartesian_prod(crop, cells, cells) for crop, cells in axes])
    crops, cells = places[:, 0], places[:, 1:]
    both = torch.stack((crops[:, None].expand(-1, len(crops)), crops.expand(len(crops), -1)), -1)
    pairs = torch.cat((both, cells[:, None] - cells), -1)
    return torch.unique(pairs.flatten(0, 1), dim=0, return_inverse=True)[1].view(len(crops), -1)


class FusionLayer(nn.Module):  # type: ignore[misc]
    """A pre-norm transformer layer in which the last tokens attend to all: attention, then an MLP."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        """Build a layer with `heads` attention heads."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out, self.mlp = nn.Linear(dim, dim), Mlp(dim, MLP_RATIO * dim)
        self.drop_path = DropPath(drop_path)
        self.apply(initialise)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Return the last tokens (N, asking, C) of (N, L, C); `bias` is (heads, asking, L)."""
        asking = tokens[:, -bias.shape[1] :]
        normed = self.norm1(tokens)
        queries = self.query(normed[:, -bias.shape[1] :])
        parts = (queries, *self.key_value(normed).chunk(2, -1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        asking = asking + self.drop_path(self.out(attended.transpose(1, 2).flatten(2)))
        return asking + self.drop_path(self.mlp(self.norm2(asking)))


class Fusion(nn.Module):  # type: ignore[misc]
    """An encoder of `layers` over template and search, and one decoder layer whose queries are the search tokens."""

    def __init__(self, dim: int, heads: int, layers: int, grids: tuple[int, int], drop_path: float) -> None:
        """Build the layers; drop path grows from 0 to `drop_path` over them."""
        super().__init__()
        rates = torch.linspace(0, drop_path, layers + 1).tolist()
        self.encoder_positions, self.decoder_positions = (Positions(dim, heads, grids) for _ in range(2))
        self.encoder = nn.ModuleList(FusionLayer(dim, heads, rate) for rate in rates[:-1])
        self.decoder = FusionLayer(dim, heads, rates[-1])
        self.norm = nn.LayerNorm(dim)

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """Return the search tokens (N, L, C), fused with the template's (N, M, C)."""
        tokens = torch.cat((template, search), 1)
        bias = self.encoder_positions(tokens.shape[1])
        for layer in self.encoder:
            tokens = layer(tokens, bias)
        return self.norm(self.decoder(tokens, self.decoder_positions(search.shape[1])))


def initialise(module: nn.Module) -> None:
    """Initialise a linear layer by Xavier's rule, which suits any width; SwinTrack's 0.02 suits its 512 channels."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


WEIGHT = 1.5  # of each of the head's losses
LEAST = 1e-5  # smallest sum of scores that a loss is divided by


class TrackingHead(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Two MLPs of three layers over every cell of a square map.

    Args:
        anchored: a cell's box starts at the cell's centre, as large as the target was. The published recipe's starts
            anywhere, and takes long to learn where a cell is.
    """

    anchors: Tensor

    def __init__(self, dim: int, grid: int, anchored: bool) -> None:
        """Build a head for `grid` x `grid` tokens of `dim` channels."""
        super().__init__()
        self.grid = grid
        self.score, self.box = _mlp(dim, 1), _mlp(dim, 4)
        self.apply(initialise)
        middles = (torch.arange(grid) + 0.5) / grid
        x, y = torch.meshgrid(middles, middles, indexing="xy")
        sides = torch.full((2, grid, grid), 1 / SEARCH)
        anchors = torch.stack((x, y, *sides), -1).flatten(0, 1).logit()
        self.register_buffer("anchors", anchors * anchored, persistent=False)
        if anchored:
            nn.init.zeros_(self.box[-1].weight)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits (N, L) and boxes (N, L, 4) of tokens (N, L, C) in row-major order."""
        return self.score(tokens).squeeze(-1), (self.box(tokens).float() + self.anchors).sigmoid()

    def loss(self, logits: Tensor, boxes: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return the varifocal loss over all cells and the GIoU loss over those that the true boxes (N, 4) touch.

        The score's target is the IoU of the cell's own box. A cell's GIoU loss is weighted by its score, detached.
        The losses are divided by the number of touched cells and by the sum of weights, over all ranks.
        """
        from mmdet.models.losses import GIoULoss, VarifocalLoss
        from mmdet.structures.bbox import bbox_overlaps
        from mmdet.utils import reduce_mean

        inside = touched(truth, self.grid)
        found = corners(boxes[inside])
        wanted = corners(truth)[:, None].expand(-1, inside.shape[1], -1)[inside]
        logits = logits.float()
        quality = torch.zeros_like(logits)
        quality[inside] = bbox_overlaps(found.detach(), wanted, is_aligned=True)
        weight = logits.detach().sigmoid()[inside]
        cells = reduce_mean(inside.sum().float()).clamp(min=1.0)
        total = reduce_mean(weight.sum()).clamp(min=LEAST)
        classify = VarifocalLoss(alpha=0.75, gamma=2.0, loss_weight=WEIGHT)
        locate = GIoULoss(loss_weight=WEIGHT)
        return {
            "loss_score": classify(logits, quality, avg_factor=cells),
            "loss_box": locate(found, wanted, weight, avg_factor=total),
        }


def _mlp(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))


def touched(truth: Tensor, grid: int) -> Tensor:
    """Return which cells boxes (N, 4) touch, bool (N, grid * grid) in row-major order."""
    first, last = (corners(truth) * grid).floor().clamp(0, grid - 1).chunk(2, -1)
    cells = torch.arange(grid, device=truth.device)
    x, y = ((first[:, i, None] <= cells) & (cells <= last[:, i, None]) for i in range(2))  # each (N, grid)
    return (y[:, :, None] & x[:, None]).flatten(1)


def corners(boxes: Tensor) -> Tensor:
    """Return left, top, right and bottom of boxes (..., 4)."""
    middle, size = boxes.chunk(2, -1)
    return torch.cat((middle - size / 2, middle + size / 2), -1)


def hann(grid: int) -> Tensor:
    """Return the Hann window (grid * grid,), which favours cells close to the target's last place."""
    window = torch.hann_window(grid, periodic=False)
    return torch.outer(window, window).flatten()
