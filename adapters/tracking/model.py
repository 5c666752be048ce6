"""Trackers as mmengine models: what a backbone makes of template and search crop, and where the target is.

Either model gives a template once (`encode`), and then a place in each search crop (`locate`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.openmmlab.backbone import TimmBackbone
from adapters.tracking.heads import Fusion, TrackingHead, initialise
from bench.errors import UserError

STRIDE = 16  # pixels of a crop to one of the head's cells


@MODELS.register_module()
class PairPreprocessor(BaseDataPreprocessor):  # type: ignore[misc]  # mmengine is untyped
    """Stacks a batch of pairs on the device, and normalises the crops."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Of RGB values from 0 to 255."""
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, data: Mapping[str, Sequence[Tensor]], training: bool = False) -> Any:
        """Crops uint8 (3, S, S) become float (N, 3, S, S), boxes (N, 4)."""
        stacked = {name: self.cast_data(torch.stack(list(data[name]))) for name in data}
        crops = {name: self.normalised(stacked[name]) for name in ("template", "search")}
        return stacked | crops

    def normalised(self, crops: Tensor) -> Tensor:
        """Crops (N, 3, S, S) as the backbone takes them; channels last, for which convolutions are faster."""
        crops = crops.contiguous(memory_format=torch.channels_last)
        return (crops.float() - self.mean) / self.std


class PairModel(BaseModel):  # type: ignore[misc]
    """A backbone under test and a head over the cells of the search crop."""

    def __init__(
        self,
        backbone: Mapping[str, Any],
        template_size: int,
        img_size: int,
        dim: int,
        primed: bool,
        data_preprocessor: Mapping[str, Any],
    ) -> None:
        """Crops of `template_size` and `img_size` pixels; `dim` channels for the head, 0 for the backbone's.

        What is `primed` starts from what a long training would find by itself: TrackingHead's boxes are
        anchored, and see FusionTracker.
        """
        super().__init__(data_preprocessor)
        self.backbone: TimmBackbone = MODELS.build(backbone)
        self.dim = dim or self.backbone.channels[-1]
        self.grids = template_size // STRIDE, img_size // STRIDE
        self.head = TrackingHead(self.dim, self.grids[1], anchored=primed)

    def forward(self, template: Tensor, search: Tensor, box: Tensor | None = None, mode: str = "tensor") -> Any:
        """The losses of pairs of crops with boxes (N, 4), or what `locate` gives."""
        found = self.locate(self.encode(template), search)
        return self.head.loss(*found, box) if mode == "loss" else found

    def encode(self, template: Tensor) -> Tensor:
        """What is kept of the template (N, 3, S, S)."""
        raise NotImplementedError

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Score logits (N, L) and boxes (N, L, 4) of crops (N, 3, S, S); see TrackingHead."""
        raise NotImplementedError


@MODELS.register_module()
class FusionTracker(PairModel):
    """Both crops go through the backbone by themselves; a transformer brings them together (SwinTrack).

    The backbone's last map is resampled to stride 16 where it has another, layer-normed, and projected.
    Where it is primed, the search tokens are told how far they agree with the middle of the template,
    channel by channel: what SiamRPN++ (arXiv 1812.11703) calls depth-wise correlation, with a kernel of one.
    """

    def __init__(self, heads: int, layers: int, drop_path: float, **settings: Any) -> None:
        """`settings` are PairModel's, the others Fusion's."""
        super().__init__(**settings)
        channels = self.backbone.channels[-1]
        self.norm, self.project = nn.LayerNorm(channels), nn.Linear(channels, self.dim)
        self.agree = nn.Linear(channels, self.dim) if settings["primed"] else None
        self.project.apply(initialise)
        self.fusion = Fusion(self.dim, heads, layers, self.grids, drop_path)

    def encode(self, template: Tensor) -> Tensor:
        """Its normed features (N, M, C)."""
        return self._features(template, self.grids[0])

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """See PairModel."""
        features = self._features(search, self.grids[1])
        tokens = self.project(features)
        if self.agree is not None:
            tokens = tokens + self.agree(features * self._middle(template))
        located: tuple[Tensor, Tensor] = self.head(self.fusion(self.project(template), tokens))
        return located

    def _features(self, crops: Tensor, grid: int) -> Tensor:
        features = self.backbone(crops)[-1]
        if features.shape[-1] != grid:
            features = F.interpolate(features, (grid, grid), mode="bilinear", antialias=True)
        return self.norm(features.flatten(2).mT)

    def _middle(self, template: Tensor) -> Tensor:
        """The mean (N, 1, C) over the half of the template that the target fills."""
        side = self.grids[0]
        edge = round(side / 4)
        cells = template.unflatten(1, (side, side))[:, edge : side - edge, edge : side - edge]
        return cells.mean((1, 2))[:, None]


@MODELS.register_module()
class OneStreamTracker(PairModel):
    """A plain ViT that sees the tokens of both crops at once: its own blocks bring them together.

    After OSTrack (arXiv 2203.11991), without its early elimination of candidates. Position embeddings are
    resampled to each crop's grid of stride 16, and crops to whole patches where the patches are of another size.
    """

    def __init__(self, **settings: Any) -> None:
        """`settings` are PairModel's. Raises UserError for a backbone that is no plain ViT of timm's."""
        super().__init__(dim=0, **settings)
        if not isinstance(self.vit, VisionTransformer) or not self.vit.dynamic_img_size:
            raise UserError(
                f"The one-stream protocol cannot take {self.backbone.arch}: it joins the tokens of both crops inside "
                f"the backbone, which must be a plain ViT (timm's VisionTransformer: DeiT, MAE, DINOv2). Give one of "
                f"those, or --protocol finetune or frozen, which take any backbone."
            )

    @property
    def vit(self) -> VisionTransformer:
        """The timm model, whose parts are called one by one."""
        return self.backbone.model

    def encode(self, template: Tensor) -> Tensor:
        """Its embedded patches (N, M, C)."""
        return self._embedded(template, self.grids[0])[:, self.vit.num_prefix_tokens :]

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """See PairModel."""
        vit, seen = self.vit, self._embedded(search, self.grids[1])
        tokens = vit.norm_pre(torch.cat((seen, template), 1))
        for block in vit.blocks:
            tokens = block(tokens)
        searched = tokens[:, vit.num_prefix_tokens : seen.shape[1]]
        located: tuple[Tensor, Tensor] = self.head(vit.norm(searched))
        return located

    def _embedded(self, crops: Tensor, grid: int) -> Tensor:
        side = grid * self.backbone.strides[-1]
        if crops.shape[-1] != side:
            crops = F.interpolate(crops, (side, side), mode="bilinear", antialias=True)
        embedded: Tensor = self.vit._pos_embed(self.vit.patch_embed(crops))
        return embedded
