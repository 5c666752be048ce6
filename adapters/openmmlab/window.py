"""Window attention with a few global blocks and relative positions: a plain ViT at large input, as in ViTDet.

TimmBackbone(arch="vit_base_patch16_224", img_size=1024, window_size=14, global_blocks=4)
"""

from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

READ = {"qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop"}  # of timm's Attention


class Grid:
    """Rows and columns of patches in the current image, which a block cannot infer from its tokens (N, L, C)."""

    def __init__(self, model: VisionTransformer) -> None:
        """Record the shape of each output of the patch embedding, (N, rows, columns, C)."""
        self.rows, self.columns = model.patch_embed.grid_size
        model.patch_embed.register_forward_hook(self._record)

    def _record(self, module: nn.Module, images: object, patches: Tensor) -> None:
        _, self.rows, self.columns, _ = patches.shape


class GridAttention(nn.Module):  # type: ignore[misc]  # torch is not followed
    """timm's Attention over patches alone, in square windows or globally, with relative positions.

    It takes over the modules of the Attention it replaces, so weights have the same names. It adds tables of
    decomposed relative positions, initially zero, for distances -(n - 1) to n - 1 of the n rows (columns) of the
    window, or of the grid that the model was built for; for another grid they are interpolated.
    """

    def __init__(self, attention: Attention, grid: Grid, window_size: int) -> None:
        """Take over the modules of `attention`; a `window_size` (in patches) of 0 is global attention."""
        super().__init__()
        for name, module in attention.named_children():
            self.add_module(name, module)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.grid, self.window_size = grid, window_size
        rows, columns = (window_size,) * 2 if window_size else (grid.rows, grid.columns)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, self.head_dim))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend among the normalised tokens (N, rows * columns, C); windows are padded with zeros."""
        assert attn_mask is None, "timm's plain ViTs mask nothing"
        assert not is_causal, "timm's plain ViTs mask nothing"
        size = (self.grid.rows, self.grid.columns)
        patches = x.unflatten(1, size)
        if not self.window_size:
            return self._attend(patches).flatten(1, 2)
        windows, padded = window_partition(patches, self.window_size)
        return window_unpartition(self._attend(windows), self.window_size, size, padded).flatten(1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """Attend among all patches of each (N, h, w, C); as in ViTDet, the bias comes from the unscaled query."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        size = (height, width)
        bias = get_decomposed_rel_pos_bias(q.flatten(0, 1), self.rel_pos_h, self.rel_pos_w, size, size).unflatten(
            0, (batch, self.num_heads)
        )
        dropout = self.attn_drop.p if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.type_as(q), dropout_p=dropout)
        joined = found.transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj_drop(self.proj(joined))


def attend_in_windows(model: VisionTransformer, window_size: int, global_blocks: int) -> None:
    """Replace attention by window attention in all but `global_blocks` evenly spaced blocks, in place.

    As in ViTDet (arXiv 2203.16527, section 3), the last block of each of `global_blocks` equal parts stays global:
    blocks 2, 5, 8 and 11 of 12. Class and register tokens are removed, with their position embeddings.

    Raises:
        ValueError: with the reason, if the model is not built of timm's own Attention.
    """
    if reason := _unfit(model):
        raise ValueError(reason)
    _drop_prefix(model)
    depth = len(model.feature_info)  # of the whole model: blocks after the last map may have been removed
    last = {round((part + 1) * depth / global_blocks) - 1 for part in range(global_blocks)}
    grid = Grid(model)
    for i, block in enumerate(model.blocks):
        block.attn = GridAttention(block.attn, grid, 0 if i in last else window_size)


def _unfit(model: nn.Module) -> str:
    """Return why the model's attention cannot be replaced; "" if it can."""
    if type(model) is not VisionTransformer:
        return f"window_size needs timm's VisionTransformer, but this is a {type(model).__name__}"
    if not model.dynamic_img_size:
        return "window_size needs a patch embedding that takes any size of image"
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        if type(attention) is not Attention:
            return f"window_size needs timm's Attention, but a block has {type(attention).__name__}"
        more = [n for n, m in attention.named_children() if not isinstance(m, nn.Identity)]
        if set(more) - READ:
            return f"window_size leaves no place for its attention's {', '.join(set(more) - READ)}"
    return ""


def _drop_prefix(model: VisionTransformer) -> None:
    if model.pos_embed is not None and not model.no_embed_class:
        model.pos_embed = nn.Parameter(model.pos_embed.detach()[:, model.num_prefix_tokens :])
    model.cls_token = model.reg_token = None
    model.num_prefix_tokens = 0
    model.has_class_token = False
