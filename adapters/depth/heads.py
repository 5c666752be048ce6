"""Heads that compute metric depth from a backbone's maps, and their loss."""

from collections.abc import Mapping, Sequence
from math import log2
from typing import Any

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmseg.models.decode_heads.vpd_depth_head import VPDDepthDecoder
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.depth.config import MIN_DEPTH


def silog(depth: Tensor, truth: Tensor, max_depth: float) -> Tensor:
    """Return sqrt(mean(d^2) - 0.5 mean(d)^2), d = ln truth - ln depth, over all pixels of 0 < truth <= max_depth.

    The root of Eigen et al. 2014 (arXiv 1406.2283, eq. 4) over the batch as a whole, as in MIM-Depth; mmsegmentation's
    SiLogLoss takes a root per image. Both are (N, 1, H, W) in metres. Computed in fp32 also under autocast; 0 if no
    pixel has a depth.
    """
    known = (truth > 0) & (truth <= max_depth)
    if not known.any():
        return depth.sum() * 0
    d = truth[known].log() - depth.float()[known].clamp(min=1e-6).log()
    # The root has no gradient at 0, where the prediction is perfect.
    return (d.square().mean() - 0.5 * d.mean().square()).clamp(min=1e-12).sqrt()


class DepthHead(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """What mmsegmentation's DepthEstimator requires of a head, without `forward`.

    Maps that the backbone has not normalised (the stages of a hierarchical one) pass a layer norm first.
    """

    align_corners = False
    num_classes = out_channels = 1

    def __init__(
        self, in_channels: Sequence[int], stride: int, normalised: bool, max_depth: float, init_cfg: Any = None
    ) -> None:
        """Take the channels of each map, the stride of the last, and whether they are normalised already."""
        super().__init__(init_cfg)
        self.stride, self.max_depth = stride, max_depth
        self.norms = nn.ModuleList(nn.Identity() if normalised else LayerNorm2d(c) for c in in_channels)

    def loss(self, maps: Sequence[Tensor], samples: Sequence[Any], _: Any) -> dict[str, Tensor]:
        """Return the SILog loss of a batch."""
        truth = torch.stack([sample.gt_depth_map.data for sample in samples])
        depth = self.depth(maps, truth.shape[-2:])
        return {"loss_silog": silog(depth, truth, self.max_depth)}

    def predict(self, maps: Sequence[Tensor], metas: Sequence[Mapping[str, Any]], _: Any) -> Tensor:
        """Depth of the images (N, 1, H, W), in metres."""
        return self.depth(maps, metas[0]["img_shape"])

    def depth(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Depth at the image's size: a map's pixel covers `stride` of it, and what was padded is cut."""
        covered = [side * self.stride for side in maps[-1].shape[-2:]]
        depth = self(maps)
        if list(depth.shape[-2:]) != covered:
            depth = F.interpolate(depth, covered, mode="bilinear")
        return depth[..., : size[0], : size[1]]


@MODELS.register_module()
class DeconvDepthHead(DepthHead):
    """MIM-Depth's head (arXiv 2205.13543) on the last map: deconvolutions, bilinear x4, two convolutions, a sigmoid.

    Stride 32 has three deconvolutions, as in MIM-Depth, other strides log2(stride / 4), rounded: a plain ViT's 16 has
    two. If the stride is not a power of two, the result is resized.
    """

    def __init__(self, *, channels: int, **settings: Any) -> None:
        """Take the width (MIM-Depth's embed_dim); `settings` go to DepthHead."""
        super().__init__(init_cfg={"type": "Normal", "std": 0.001, "layer": "Conv2d"}, **settings)
        deconvs = round(log2(self.stride / 4))
        self.decoder = VPDDepthDecoder(settings["in_channels"][-1], channels, deconvs, [32] * deconvs)
        self.last = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return depth (N, 1, 2^k h, 2^k w) in metres, of the last map (N, C, h, w)."""
        logits = self.last(self.decoder(self.norms[-1](maps[-1])))
        return logits.float().sigmoid() * self.max_depth


@MODELS.register_module()
class LinearDepthHead(DepthHead):
    """DINOv2's linear head (arXiv 2304.07193): a 1x1 convolution of the maps, upsampled to 4 times the last map's size.

    With bins, (relu(score) + 0.1), divided by its sum over bins (AdaBins' linear norm, arXiv 2011.14141), weights the
    bins' depths, which are uniform from 1 mm to max_depth. Without, depth is max_depth times the sigmoid of one score.
    Convolution and resize commute, so each map is convolved at its own size.
    """

    def __init__(self, *, bins: int, **settings: Any) -> None:
        """Take the number of bins, 0 for none; `settings` go to DepthHead."""
        super().__init__(**settings)
        self.in_channels = list(settings["in_channels"])
        self.conv = nn.Conv2d(sum(self.in_channels), bins or 1, 1)
        depths = torch.linspace(MIN_DEPTH, self.max_depth, bins)
        self.register_buffer("depths", depths, persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return depth (N, 1, 4h, 4w) in metres, of maps whose last one is (N, C, h, w)."""
        size = [4 * side for side in maps[-1].shape[-2:]]
        weights = self.conv.weight.split(self.in_channels, dim=1)
        scores = [
            F.interpolate(F.conv2d(norm(m), weight).float(), size, mode="bilinear")
            for m, norm, weight in zip(maps, self.norms, weights, strict=True)
        ]
        score = torch.stack(scores).sum(0) + self.conv.bias[:, None, None]
        if not len(self.depths):
            return score.sigmoid() * self.max_depth
        shares = F.relu(score) + 0.1
        return (shares * self.depths[:, None, None]).sum(1, keepdim=True) / shares.sum(1, keepdim=True)
