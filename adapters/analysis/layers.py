"""The output of every layer of a backbone, in one forward pass that does not change the model.

A layer is a block of a ViT, Swin, SwinV2 or Hiera (its residual stream, before any final norm), or a stage of any
other architecture.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import Attention, AttentionRope
from timm.models import beit, eva, vision_transformer_relpos
from timm.models.hieradet_sam2 import MultiScaleBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from bench.backbones.build import is_plain

PLAIN = (*(Attention, AttentionRope, beit.Attention, eva.EvaAttention), vision_transformer_relpos.RelPosAttention)
CHANNELS_LAST = (SwinTransformerBlock, SwinTransformerV2Block, MultiScaleBlock)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer's output.

    Args:
        tokens: [b, t, c], row by row.
        prefix: class, distillation and register tokens [b, p, c].
        grid: rows and columns of the t tokens; None where some were dropped.
        class_token: [b, c]; None where there is none.
    """

    tokens: Tensor
    prefix: Tensor
    grid: tuple[int, int] | None
    class_token: Tensor | None = None

    @property
    def pooled(self) -> Tensor:
        """Return the mean token [b, c], without the prefix."""
        return self.tokens.mean(1)


def blocks(model: Any) -> list[nn.Module]:
    """Return the blocks of a ViT, Swin, SwinV2 or Hiera, in order; [] for any other architecture."""
    own = list(getattr(model, "blocks", ()))
    plain = is_plain(model) and all(isinstance(getattr(b, "attn", None), PLAIN) for b in own)
    if plain or hasattr(model, "unroll"):
        return own
    return [module for module in model.modules() if isinstance(module, CHANNELS_LAST)]


class LayerReader:
    """Runs a model and returns the output of every layer."""

    def __init__(self, model: Any) -> None:
        """Find the layers; the model is not changed."""
        self.model, self.blocks = model, blocks(model)
        self.prefix: int = getattr(model, "num_prefix_tokens", 0) if is_plain(model) else 0

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.blocks) or len(self.model.feature_info)

    def __call__(
        self, images: Tensor, visible_patches: Tensor | None = None, *, watch: Any = None
    ) -> tuple[list[Layer], Tensor]:
        """Return every layer's output and the model's pooled output [b, d].

        Args:
            images: normalised, [b, 3, h, w].
            visible_patches: indices [b, m] of the patches that enter the first block of a plain ViT; None: all.
            watch: context in which the model runs, such as `attention.AttentionReader`.
        """
        with torch.inference_mode(), watch or contextlib.nullcontext():
            if not self.blocks:
                features, maps = self.model.forward_intermediates(images)
                return [_of_map(m) for m in maps], self.model.forward_head(features)
            outputs: list[Tensor] = []
            with _hooked(self.blocks, outputs.append), self._dropping(visible_patches):
                pooled = self.model(images)
            size = tuple(images.shape[2:])
            found = [self._layer(i, each, size, visible_patches) for i, each in enumerate(outputs)]
        return found, pooled

    def _layer(self, index: int, output: Tensor, size: Any, visible_patches: Tensor | None) -> Layer:
        if isinstance(self.blocks[index], CHANNELS_LAST):
            return _of_map(output.permute(0, 3, 1, 2))
        if hasattr(self.model, "unroll"):  # Hiera's tokens are ordered by mask unit
            return _of_map(self.model.reroll(output, index).permute(0, 3, 1, 2))
        prefix, tokens = output[:, : self.prefix], output[:, self.prefix :]
        height, width = self.model.patch_embed.patch_size
        grid = None if visible_patches is not None else (size[0] // height, size[1] // width)
        # timm puts the class token first; a model may have registers only.
        has_class_token = self.prefix and getattr(self.model, "cls_token", None) is not None
        class_token = prefix[:, 0] if has_class_token else None
        return Layer(tokens=tokens, prefix=prefix, grid=grid, class_token=class_token)

    @contextlib.contextmanager
    def _dropping(self, visible_patches: Tensor | None) -> Iterator[None]:
        """Pass only the prefix and the visible patches to the first block."""
        if visible_patches is None:
            yield
            return

        def drop(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            prefix, tokens = given[0][:, : self.prefix], given[0][:, self.prefix :]
            index = visible_patches[..., None].expand(-1, -1, tokens.shape[2])
            return (torch.cat((prefix, tokens.gather(1, index)), 1), *given[1:])

        handle = self.blocks[0].register_forward_pre_hook(drop)
        try:
            yield
        finally:
            handle.remove()


@contextlib.contextmanager
def _hooked(modules: list[nn.Module], see: Callable[[Tensor], None]) -> Iterator[None]:
    handles = [m.register_forward_hook(lambda *given: see(given[2])) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_map(found: Tensor) -> Layer:
    """Return a map [b, c, rows, columns] as a layer."""
    rows, columns = found.shape[2:]
    tokens = found.flatten(2).mT
    return Layer(tokens=tokens, prefix=tokens[:, :0], grid=(rows, columns))
