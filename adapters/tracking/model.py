"""Tracking models for mmengine: a backbone encodes template and search crop, a head locates the target.

Both models encode a template once (`encode`), and then locate the target in each search crop (`locate`).
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

STRIDE = 16  # pixels of a crop per cell of the head


@MODELS.register_module()
class PairPreprocessor(BaseDataPreprocessor):  # type: ignore[misc]  # mmengine is untyped
    """Stacks a batch of pairs on the device, and normalises the crops."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and std of RGB values from 0 to 255."""
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, data: Mapping[str, Sequence[Tensor]], training: bool = False) -> Any:
        """Stack crops uint8 (3, S, S) to normalised float (N, 3, S, S), and boxes to (N, 4)."""
        stacked = {name: self.cast_data(torch.stack(list(data[name]))) for name in data}
        crops = {name: self.normalised(stacked[name]) for name in ("template", "search")}
        return stacked | crops

    def normalised(self, crops: Tensor) -> Tensor:
        """Normalise crops (N, 3, S, S), in the channels-last format, which makes convolutions faster."""
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
        """Take crops of `template_size` and `img_size` pixels; the head has `dim` channels, 0 for the backbone's.

        A `primed` model starts with what a long training would learn by itself: TrackingHead's boxes are anchored,
        and FusionTracker adds a correlation.
        """
        super().__init__(data_preprocessor)
        self.backbone: TimmBackbone = MODELS.build(backbone)
        self.dim = dim or self.backbone.channels[-1]
        self.grids = template_size // STRIDE, img_size // STRIDE
        self.head = TrackingHead(self.dim, self.grids[1], anchored=primed)

    def forward(self, template: Tensor, search: Tensor, box: Tensor | None = None, mode: str = "tensor") -> Any:
        """Return the losses of pairs of crops with boxes (N, 4), or the result of `locate`."""
        found = self.locate(self.encode(template), search)
        return self.head.loss(*found, box) if mode == "loss" else found

    def encode(self, template: Tensor) -> Tensor:
        """Return the encoding of templates (N, 3, S, S), which `locate` takes."""
        raise NotImplementedError

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits (N, L) and boxes (N, L, 4) of search crops (N, 3, S, S); see TrackingHead."""
        raise NotImplementedError


@MODELS.register_module()
class FusionTracker(PairModel):
    """The backbone encodes each crop separately; a transformer fuses them (SwinTrack, arXiv 2112.00995).

    The backbone's last map is resampled to stride 16 if necessary, layer-normed, and projected. A primed model adds,
    channel by channel, the product of the search tokens and the template's centre: the depth-wise correlation of
    SiamRPN++ (arXiv 1812.11703) with a kernel of one cell.
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
        """Return the templates' normed features (N, M, C)."""
        return self._features(template, self.grids[0])

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """See PairModel."""
        features = self._features(search, self.grids[1])
        tokens = self.project(features)
        if self.agree is not None:
            tokens = tokens + self.agree(features * self._centre(template))
        located: tuple[Tensor, Tensor] = self.head(self.fusion(self.project(template), tokens))
        return located

    def _features(self, crops: Tensor, grid: int) -> Tensor:
        features = self.backbone(crops)[-1]
        if features.shape[-1] != grid:
            features = F.interpolate(features, (grid, grid), mode="bilinear", antialias=True)
        return self.norm(features.flatten(2).mT)

    def _centre(self, template: Tensor) -> Tensor:
        """Return the mean (N, 1, C) over the central half of the template, which the target fills."""
        side = self.grids[0]
        edge = round(side / 4)
        cells = template.unflatten(1, (side, side))[:, edge : side - edge, edge : side - edge]
        return cells.mean((1, 2))[:, None]


@MODELS.register_module()
class OneStreamTracker(PairModel):
    """A plain ViT sees the tokens of both crops at once, and its own blocks fuse them.

    After OSTrack (arXiv 2203.11991), without its early elimination of candidates. Position embeddings are resampled
    to each crop's grid of stride 16; crops are resampled to whole patches if the patches have another size.
    """

    def __init__(self, **settings: Any) -> None:
        """`settings` are PairModel's. Raises UserError unless the backbone is a plain ViT of timm's."""
        super().__init__(dim=0, **settings)
        if not isinstance(self.vit, VisionTransformer) or not self.vit.dynamic_img_size:
            raise UserError(
                f"The one-stream protocol cannot take {self.backbone.arch}: it joins the tokens of both crops inside "
                f"the backbone, which must be a plain ViT (timm's VisionTransformer: DeiT, MAE, DINOv2). Give one of "
                f"those, or --protocol finetune or frozen, which take any backbone."
            )

    @property
    def vit(self) -> VisionTransformer:
        """Return the timm model, whose parts are called one by one."""
        return self.backbone.model

    def encode(self, template: Tensor) -> Tensor:
        """Return the templates' embedded patches (N, M, C)."""
        return self._embedded(template, self.grids[0])[:, self.vit.num_prefix_tokens :]

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """See PairModel."""
        vit, seen = self.vit, self._embedded(search, self.grids[1])
        tokens = vit.norm_pre(torch.cat((seen, template), 1))
        for block in vit.blocks:
            tokens = block(tokens)
        located: tuple[Tensor, Tensor] = self.head(vit.norm(tokens[:, vit.num_prefix_tokens : seen.shape[1]]))
        return located

    def _embedded(self, crops: Tensor, grid: int) -> Tensor:
        side = grid * self.backbone.strides[-1]
        if crops.shape[-1] != side:
            crops = F.interpolate(crops, (side, side), mode="bilinear", antialias=True)
        return self.vit._pos_embed(self.vit.patch_embed(crops))
