"""The feature contract: what every consumer of a backbone may rely on, for any architecture.

    extractor = load_backbone(backbones.resolve("vit_small_patch14_reg4_dinov2@weights.pth"), frozen=True)
    maps = extractor(images)             # one (N, C, H / stride, W / stride) per chosen layer
    tokens = extractor.tokens(images)    # (N, num_prefix_tokens + L, C) of the last of them

OpenMMLab is not needed; `adapters.openmmlab.backbone` wraps the extractor as an mmengine module.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from math import ceil
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher  # its public twin takes a module only
from torch import Tensor, nn
from torch.nn import functional as F

from bench.backbones.backbone import Backbone, LoadReport
from bench.backbones.build import is_plain
from bench.backbones.normalise import normalisation
from bench.backbones.timm_models import OutsideContractError, create, fixed_size
from bench.errors import UserError

# Taps of a plain ViT, as parts of its depth: blocks 3, 5, 7, 11 of 12 (MAE's UPerNet) and 7, 11,
# 15, 23 of 24 (BEiT-L's).
PLAIN_TAPS = (Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(1))
OUTSIDE = "<everything behind the encoder>"  # a name that no matcher of timm knows


def load_backbone(
    backbone: Backbone,
    *,
    out_indices: Sequence[int] | None = None,
    img_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
    frozen: bool = False,
    class_token: bool = False,
    seed: int | None = None,
    timm_options: Mapping[str, Any] | None = None,
) -> "FeatureExtractor":
    """Build the backbone's architecture with its weights; see `create` and FeatureExtractor.

    Raises UserError: the architecture is outside the contract, or the weights do not fit it.
    """
    model, report = create(
        backbone.arch,
        weights=backbone.weights,
        part=backbone.part,
        allow_partial=backbone.allow_partial,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        seed=seed,
        timm_options=timm_options,
    )
    return FeatureExtractor(
        model,
        arch=backbone.arch,
        load_report=report,
        normalisation=normalisation(backbone),
        out_indices=out_indices,
        class_token=class_token,
        frozen=frozen,
    )


class FeatureExtractor(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A timm model that returns the maps of some of its stages (or, for a plain ViT, blocks).

    Each map is what timm's `forward_intermediates` gives, and measures ceil(size / stride). To get
    there the input is padded right and below, with zeros, to a multiple of the largest stride, and
    the maps are cropped. The layers after the last map and the classifier are pruned.

    Attributes:
        model: the timm model, with timm's names.
        out_indices: the chosen stages (blocks), ascending, counted from 0.
        channels, strides: of each map, in pixels of the input; checked against the real output.
        plain: all maps have the same stride, as in a ViT.
        normed: maps and tokens pass through the model's final norm, in every layer. True of plain
            ViTs, but for those whose norm comes after mean pooling (`fc_norm`), which have none to
            pass: there, as for all stages of hierarchical models, they are what the layer gives.
        num_prefix_tokens: class, distillation and register tokens in front of `tokens`, which
            the maps leave out.
        mean, std: (RGB, of images in 0-1) of the images that the weights were made with; None
            where whoever built this normalises by itself.
        load_report: which weights were loaded.
        frozen: no gradients, and always evaluation mode (fixed batch statistics).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __init__(
        self,
        model: nn.Module,
        *,
        arch: str,
        load_report: LoadReport | None = None,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        out_indices: Sequence[int] | None = None,
        class_token: bool = False,
        frozen: bool = False,
    ) -> None:
        """Wrap a timm model, which is pruned.

        Args:
            model: as `create` makes it.
            arch: its timm name, for messages.
            load_report: of its weights.
            normalisation: (mean, std).
            out_indices: stages, or blocks of a plain ViT, counted from 0. Default: the last four
                stages; the blocks at 1/3, 1/2, 2/3 and all of a plain ViT's depth.
            class_token: append the class token to every pixel of a map, which doubles its channels
                (DINOv2's linear heads); a model that is not plain, or has none, is left as it is.
            frozen: see the attribute.

        Raises UserError: the architecture gives no such maps.
        """
        super().__init__()
        self.arch, self.frozen, self.model = arch, frozen, model
        self.load_report = load_report or LoadReport()
        self.mean, self.std = normalisation if normalisation else (None, None)
        self._choose_maps(out_indices)
        known = inspect.signature(model.forward_intermediates).parameters
        given = "return_prefix_tokens" in known  # others put their class token in at the end
        self.num_prefix_tokens: int = getattr(model, "num_prefix_tokens", 0) if given else 0
        has_class_token = self.num_prefix_tokens and getattr(model, "cls_token", None) is not None
        self._check_maps()
        self.class_token = bool(class_token and has_class_token)
        if self.class_token:
            self.channels = tuple(2 * channels for channels in self.channels)
        self.requires_grad_(not frozen).train()

    def _choose_maps(self, out_indices: Sequence[int] | None) -> None:
        """Choose the maps and prune the layers after the last one."""
        if not hasattr(self.model, "prune_intermediate_layers"):
            raise OutsideContractError(self.arch, "timm gives no intermediate maps of it")
        stages: list[dict[str, Any]] = list(self.model.feature_info)
        self.largest_stride: int = max(stage["reduction"] for stage in stages)
        self.plain = is_plain(self.model)
        indices = _default_indices(len(stages), self.plain) if out_indices is None else out_indices
        if not indices or not all(-len(stages) <= i < len(stages) for i in indices):
            given = f"{'blocks' if self.plain else 'stages'}, and out_indices is {tuple(indices)}"
            raise OutsideContractError(self.arch, f"it has {len(stages)} {given}")
        self.out_indices = tuple(sorted({i % len(stages) for i in indices}))
        norm = getattr(self.model, "norm", None)
        self.normed = self.plain and norm is not None and not isinstance(norm, nn.Identity)
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=not self.normed)
        self.channels = tuple(stages[i]["num_chs"] for i in self.out_indices)
        self.strides = tuple(stages[i]["reduction"] for i in self.out_indices)

    def _check_maps(self) -> None:
        """Run a tiny image; raise OutsideContractError if the maps' shapes are not those stated by timm."""
        self.eval()
        size = self._padded_size(self.largest_stride, 2 * self.largest_stride)
        try:
            with torch.no_grad(), self._watched_norm():
                layers = self._uncropped(torch.zeros(1, 3, *size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OutsideContractError(self.arch, f"a {size} image raises {reason}") from error
        found = [tuple(m.shape[1:]) for m, _ in layers]
        kinds = zip(self.channels, self.strides, strict=True)
        stated = [(c, size[0] // s, size[1] // s) for c, s in kinds]
        if found != stated:
            wrong = f"its maps of a {size} image are {found}, not {stated} as stated"
            raise OutsideContractError(self.arch, wrong)

    @contextlib.contextmanager
    def _watched_norm(self) -> Iterator[None]:
        """Unset `normed` if the model does not apply its norm to maps, which not all timm models do on request."""
        if not self.normed:
            yield
            return
        passed: list[bool] = []
        hook = self.model.norm.register_forward_hook(lambda *_: passed.append(True))
        yield
        hook.remove()
        if not passed:
            self.normed, self.model.norm = False, nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (N, C, ceil(H / stride), ceil(W / stride)) of images (N, 3, H, W)."""
        layers = self._layers(images)
        if not self.class_token:
            return tuple(m for m, _ in layers)
        return tuple(torch.cat((m, t[:, 0, :, None, None].expand_as(m)), 1) for m, t in layers)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the tokens (N, num_prefix_tokens + L, C) of the last chosen layer.

        The prefix comes first, as the model has it: class, distillation, registers. The L others
        are the pixels of the layer's map, row by row, which is what they are for a hierarchical
        model or a convolution as well, with no prefix.
        """
        last, prefix = self._layers(images)[-1]
        return torch.cat((prefix, last.flatten(2).mT), 1)

    def _layers(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the map and the prefix tokens (N, num_prefix_tokens, C) of every chosen layer."""
        height, width = images.shape[-2:]
        padded_height, padded_width = self._padded_size(height, width)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            layers = self._uncropped(F.pad(images, (0, padded_width - width, 0, padded_height - height)))
        return [
            (m[..., : ceil(height / s), : ceil(width / s)], prefix)
            for (m, prefix), s in zip(layers, self.strides, strict=True)
        ]

    def _uncropped(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        prefix = {"return_prefix_tokens": True} if self.num_prefix_tokens else {}
        norm = {"norm": True} if self.normed else {}
        given: list[Any] = self.model.forward_intermediates(
            images, indices=list(self.out_indices), intermediates_only=True, **norm, **prefix
        )
        return given if prefix else [(m, m.new_empty(len(m), 0, m.shape[1])) for m in given]

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        if fixed := self.fixed_size:
            if height > fixed[0] or width > fixed[1]:
                raise UserError(
                    f"An image of {height}x{width} is larger than {fixed[0]}x{fixed[1]}, for which "
                    f"{self.arch} was built, and it takes no other size. Build it with a larger img_size."
                )
            return fixed
        step = self.largest_stride
        return ceil(height / step) * step, ceil(width / step) * step

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The only (height, width) that the model takes, to which images are padded; None: any.

        Hiera (not SAM 2's), BEiT and MViTv2 have one.
        """
        return fixed_size(self.model)

    def set_input_size(self, height: int, width: int) -> None:
        """Change the input size of the model in place; call it before building an optimizer.

        Position embeddings, and BEiT's relative position biases, are resampled (bicubic), rows and
        columns each for themselves. The windows of Swin and SwinV2 keep their size, and so their
        biases, wherever the maps are no smaller than a window. There is nothing to do for
        convolutions. Resampling loses what it must: on the way back, features are the same only
        where no table was resampled.

        Raises UserError if the model cannot change its size.
        """
        resize = getattr(self.model, "set_input_size", None)
        if resize is None:
            if (fixed := self.fixed_size) and fixed != (height, width):
                raise OutsideContractError(
                    self.arch,
                    f"it is built for images of {fixed[0]}x{fixed[1]} and cannot be made for "
                    f"{height}x{width} afterwards: load it with img_size=({height}, {width})",
                )
            return
        step = self.largest_stride if self.fixed_size is None else self.strides[0]
        size = ceil(height / step) * step, ceil(width / step) * step
        # Without a window size, timm would make the windows grow with the image.
        windows = getattr(self.model, "_ref_window_sizes", None)
        resize(img_size=size, **({"window_size": windows} if windows else {}))

    def layer_groups(self) -> tuple[dict[str, int], int]:
        """Return the layer number of each of the timm model's parameters, and the number of layers.

        Layer 0 is the stem with the position embeddings; then it goes block by block, and the final
        norm counts to the last one. Parameters after the encoder, or in no layer of timm's, get
        the number of layers as theirs. Raises UserError if timm groups no layers.
        """
        if not hasattr(self.model, "group_matcher"):
            raise OutsideContractError(self.arch, "timm groups no layers of it, which layer_decay needs")
        named = chain(self.model.named_parameters(), [(OUTSIDE, None)])
        matcher = self.model.group_matcher(coarse=False)
        layers: dict[str, int] = group_with_matcher(named, matcher, reverse=True)
        return layers, layers.pop(OUTSIDE)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Switch to training mode, unless frozen."""
        super().train(mode and not self.frozen)
        return self


def _default_indices(depth: int, plain: bool) -> list[int]:
    if plain:
        taps: list[int] = []
        for part in PLAIN_TAPS:  # of five blocks, two parts would be the same one
            taps.append(min(max(round(depth * part), 1, taps[-1] + 1 if taps else 1), depth))
        return sorted({tap - 1 for tap in taps})
    return list(range(max(depth - 4, 0), depth))
