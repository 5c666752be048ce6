"""A linear segmentation head on several feature maps (DINOv2)."""

from collections.abc import Sequence
from typing import Any

from adapters.openmmlab import runner as _runner  # noqa: F401  first: prepares the process for OpenMMLab  # isort: skip

import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class LinearHead(BaseDecodeHead):  # type: ignore[misc]  # mmengine is untyped
    """BatchNorm and a 1x1 convolution on all maps, resized to the first and stacked (DINOv2, arXiv 2304.07193).

    A 1x1 convolution and a bilinear resize commute, so each map is normalised and convolved at its own size, and the
    logits are resized and summed: the same function without a stack of thousands of channels.
    """

    def __init__(self, in_channels: Sequence[int], **settings: Any) -> None:
        """Take the channels of each map; `settings` go to mmsegmentation's BaseDecodeHead."""
        super().__init__(
            in_channels=in_channels,
            in_index=list(range(len(in_channels))),
            channels=sum(in_channels),
            input_transform="multiple_select",
            dropout_ratio=0.0,
            **settings,
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (N, classes, H, W) at the first map's size, of maps (N, C, h, w)."""
        weights = self.conv_seg.weight.split(list(self.in_channels), dim=1)
        logits = [
            resize(F.conv2d(norm(m), weight), maps[0].shape[2:], mode="bilinear")
            for m, norm, weight in zip(maps, self.norms, weights, strict=True)
        ]
        return torch.stack(logits).sum(0) + self.conv_seg.bias[:, None, None]
