"""Swin's shifted windows at any size of image, as in the official models.

timm (1.0.31) shifts the tokens and then pads them to whole windows, while its mask is made for the
opposite order: where a map does not divide into windows, tokens at opposite edges of the image attend
to each other. Padding first is what the paper's code does, and changes nothing where no padding is.
"""

import functools
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Attention = Callable[[Tensor], Tensor]


def pad_before_shifting(model: nn.Module) -> None:
    """Put timm's Swin, SwinV2 and SwinV2-CR right, in place; other models stay as they are."""
    for block in model.modules():
        for name in ("_attn", "_shifted_window_attn"):
            if hasattr(block, "shift_size") and hasattr(block, name):
                setattr(block, name, functools.partial(_padded, block, getattr(block, name)))


def _padded(block: nn.Module, attention: Attention, tokens: Tensor) -> Tensor:
    """Attention among tokens (N, rows, columns, C), in whole windows, padded with zeros."""
    rows, columns = tokens.shape[1:3]
    below, right = -rows % block.window_size[0], -columns % block.window_size[1]
    return attention(F.pad(tokens, (0, 0, 0, right, 0, below)))[:, :rows, :columns]
