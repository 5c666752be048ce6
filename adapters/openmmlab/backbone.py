"""Any timm backbone as an mmengine module: an image batch in, NCHW maps at stated strides out."""

import inspect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from adapters.openmmlab import window
from bench import backbones
from bench.errors import UserError

# Taps of a plain ViT, as parts of its depth: blocks 3, 5, 7, 11 of 12 (MAE's UPerNet) and 7, 11,
# 15, 23 of 24 (BEiT-L's).
PLAIN_TAPS = (Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(1))


@MODELS.register_module()  # the root registry: every OpenMMLab scope finds it
class TimmBackbone(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """A timm model that returns the maps of some of its stages (or, for a plain ViT, blocks).

    Each map is what timm's `forward_intermediates` gives, and measures ceil(size / stride). To get
    there the input is padded right and below, with zeros, to a multiple of the largest stride, and
    the maps are cropped. Maps of a plain ViT pass the model's final norm (where the norm comes
    after mean pooling, there is none to pass); stages of the others are not normalised.

    The layers behind the last map and the classifier are pruned. `model` keeps timm's names.

    Attributes:
        channels, strides: of each map, in pixels of the input; checked against the real output.
        load_report: what became of the weights file.
        model: the timm model.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    class_token = False

    def __init__(
        self,
        arch: str,
        weights: str | Path | None = None,
        out_indices: Sequence[int] | None = None,
        img_size: int | tuple[int, int] | None = None,
        drop_path_rate: float = 0.0,
        window_size: int = 0,
        global_blocks: int = 4,
        frozen: bool = False,
        class_token: bool = False,
        seed: int | None = None,
        timm_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the model and load its weights.

        Args:
            arch: timm's name, without tag.
            weights: a file in any format that `bench.checkpoints` reads; None is scratch.
            out_indices: stages, or blocks of a plain ViT, counted from 0. Default: the last four
                stages; the blocks at 1/3, 1/2, 2/3 and all of a plain ViT's depth.
            img_size: (height, width) that position embeddings are made for; timm's own by default.
                Other sizes are taken too; but Hiera (not SAM 2's) and BEiT are built for one size,
                to which smaller images are padded, and take none that is larger.
            drop_path_rate: stochastic depth at the last block.
            window_size: a plain ViT's blocks, but for `global_blocks` of them, attend in windows of
                so many patches a side, with relative positions (see `window`). 0 leaves the model as
                it is, and so does an architecture that is not plain: it has windows of its own, or
                no attention.
            frozen: no gradients, and evaluation mode (batch statistics included) for good.
            class_token: append the class token to every pixel of a map, which doubles its channels
                (DINOv2's linear heads); an architecture that is not plain, or has none, is left as it is.
            seed: of the initialisation; torch's global generator is left as it was.
            timm_options: further arguments for `timm.create_model`.

        Raises:
            UserError: the architecture gives no such maps, or the weights do not fit it.
        """
        super().__init__()
        self.arch, self.frozen = arch, frozen
        options = {"num_classes": 0, "img_size": img_size, "drop_path_rate": drop_path_rate}
        options |= {"dynamic_img_size": True, **(timm_options or {})}
        accepted = self._accepted(options)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:  # not torch.manual_seed, which would seed the GPUs as well
                torch.random.default_generator.manual_seed(seed)
            self.model, self.load_report = backbones.build(arch, weights=weights, **accepted)
        self._choose_maps(out_indices)
        if class_token:
            self._append_class_token()
        if window_size and self.plain:
            self._attend_in_windows(window_size, global_blocks)
        self._check_maps()
        self.requires_grad_(not frozen).train()

    def _accepted(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that the architecture's class has; an image size is nothing to a convolution."""
        with torch.device("meta"):
            bases = type(timm.create_model(self.arch)).__mro__
        known = {name for base in bases for name in inspect.signature(base).parameters}
        if options["drop_path_rate"] and "drop_path_rate" not in known:
            raise self._unusable("it has no drop path, and drop_path_rate is not 0")
        optional = {"img_size", "dynamic_img_size", "drop_path_rate"} - known
        return {name: value for name, value in options.items() if name not in optional}

    def _choose_maps(self, out_indices: Sequence[int] | None) -> None:
        """Settle which maps to give, and drop what comes behind the last one."""
        if not hasattr(self.model, "prune_intermediate_layers"):
            raise self._unusable("timm gives no intermediate maps of it")
        stages: list[dict[str, Any]] = list(self.model.feature_info)
        self.largest_stride = max(stage["reduction"] for stage in stages)
        self.plain = all(stage["reduction"] == self.largest_stride for stage in stages)
        indices = _default_indices(len(stages), self.plain) if out_indices is None else out_indices
        if not indices or not all(-len(stages) <= i < len(stages) for i in indices):
            raise self._unusable(
                f"it has {len(stages)} {'blocks' if self.plain else 'stages'}, "
                f"and out_indices is {tuple(indices)}"
            )
        self.out_indices = tuple(sorted({i % len(stages) for i in indices}))
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=not self.plain)
        self.channels = tuple(stages[i]["num_chs"] for i in self.out_indices)
        self.strides = tuple(stages[i]["reduction"] for i in self.out_indices)

    def _append_class_token(self) -> None:
        known = inspect.signature(self.model.forward_intermediates).parameters
        given = "return_prefix_tokens" in known
        if self.plain and given and getattr(self.model, "cls_token", None) is not None:
            self.class_token = True
            self.channels = tuple(2 * channels for channels in self.channels)

    def _attend_in_windows(self, window_size: int, global_blocks: int) -> None:
        try:
            window.attend_in_windows(self.model, window_size, global_blocks)
        except ValueError as error:
            raise self._unusable(str(error)) from None

    def _check_maps(self) -> None:
        """Run a tiny image through, and refuse an architecture whose maps are not as stated."""
        self.eval()
        size = self._padded_size(self.largest_stride, 2 * self.largest_stride)
        try:
            with torch.no_grad():
                maps = self._maps(torch.zeros(1, 3, *size))
        except (AssertionError, RuntimeError, TypeError) as error:
            raise self._unusable(f"a {size} image raises {error}") from error
        found = [tuple(m.shape[1:]) for m in maps]
        stated = [
            (c, size[0] // s, size[1] // s)
            for c, s in zip(self.channels, self.strides, strict=True)
        ]
        if found != stated:
            raise self._unusable(f"its maps of a {size} image are {found}, not {stated} as stated")

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"The architecture {self.arch} cannot be used here: {reason}. Plain ViTs (DeiT, DINOv2), "
            "Swin, SwinV2, ConvNeXt, ResNet, EfficientNet and Hiera can."
        )

    @property
    def _fixed_size(self) -> tuple[int, int] | None:
        """The only image size that the model takes, if so: Hiera's and BEiT's."""
        if hasattr(self.model, "unroll"):  # Hiera reorders its tokens by a fixed schedule
            (rows, columns), stride = self.model.tokens_spatial_shape, self.model.patch_stride
            return rows * stride[0], columns * stride[1]
        patch_embed: Any = getattr(self.model, "patch_embed", None)
        return patch_embed.img_size if getattr(patch_embed, "strict_img_size", False) else None

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        if fixed := self._fixed_size:
            if height > fixed[0] or width > fixed[1]:
                raise UserError(
                    f"An image of {height}x{width} is larger than {fixed[0]}x{fixed[1]}, for which "
                    f"{self.arch} was built, and it takes no other size. Build it with a larger img_size."
                )
            return fixed
        step = self.largest_stride
        return ceil(height / step) * step, ceil(width / step) * step

    def _maps(self, images: Tensor) -> list[Tensor]:
        norm = {"norm": True} if self.plain else {}
        prefix = {"return_prefix_tokens": True} if self.class_token else {}
        maps: list[Any] = self.model.forward_intermediates(
            images, indices=list(self.out_indices), intermediates_only=True, **norm, **prefix
        )
        if self.class_token:
            maps = [torch.cat((m, t[:, 0, :, None, None].expand_as(m)), 1) for m, t in maps]
        return maps

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the maps (N, C, ceil(H / stride), ceil(W / stride)) of images (N, 3, H, W)."""
        height, width = images.shape[-2:]
        padded_height, padded_width = self._padded_size(height, width)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self._maps(F.pad(images, (0, padded_width - width, 0, padded_height - height)))
        return tuple(
            m[..., : ceil(height / s), : ceil(width / s)]
            for m, s in zip(maps, self.strides, strict=True)
        )

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Switch to training mode, unless frozen."""
        super().train(mode and not self.frozen)
        return self

    def init_weights(self) -> None:
        """Keep the weights: mmengine would call timm's own `init_weights` and overwrite them."""
        self._is_init = True


def _default_indices(depth: int, plain: bool) -> list[int]:
    if plain:
        return sorted({max(round(depth * part), 1) - 1 for part in PLAIN_TAPS})
    return list(range(max(depth - 4, 0), depth))
