"""ViTDet's feature pyramid, for backbones whose maps have a single stride."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)  # size of each level, relative to the input map


def pyramid_strides(stride: int, num_outs: int = 5) -> tuple[float, ...]:
    """Return the strides of the levels above a backbone of `stride`: of 16, 4, 8, 16, 32, 64; of 14, 3.5, ..."""
    return tuple(stride / scale for scale in SCALES[:num_outs])


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3).

    The last map (N, in_channels, h, w) becomes levels (N, out_channels, h', w') with h' = 4h, 2h, h, ceil(h / 2) and
    ceil(h / 4): by deconvolutions, nothing, or max pooling, then a 1x1 and a 3x3 convolution, each with a layer norm.
    The fifth level subsamples the fourth.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, num_outs: int = 5) -> None:
        """Build the first `num_outs` of the five levels."""
        super().__init__()
        assert 1 <= num_outs <= len(SCALES), f"num_outs is {num_outs}, of 1 to {len(SCALES)}"
        self.num_outs = num_outs
        self.levels = nn.ModuleList(
            nn.Sequential(*_resize(in_channels, scale), *_project(in_channels, out_channels, scale))
            for scale in SCALES[: min(num_outs, 4)]
        )
        self.subsample = nn.MaxPool2d(kernel_size=1, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the levels above the last of `maps`, finest first."""
        pyramid = [level(maps[-1]) for level in self.levels]
        if self.num_outs == len(SCALES):
            pyramid.append(self.subsample(pyramid[-1]))
        return tuple(pyramid)


def _resize(width: int, scale: float) -> list[nn.Module]:
    """Return layers that resize a map by `scale`; each deconvolution halves the channels."""
    if scale == 4.0:
        return [*_upsample(width), LayerNorm2d(width // 2), nn.GELU(), *_upsample(width // 2)]
    if scale == 2.0:
        return _upsample(width)
    return [nn.MaxPool2d(2, ceil_mode=True)] if scale == 0.5 else []


def _upsample(width: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]


def _project(width: int, out_channels: int, scale: float) -> list[nn.Module]:
    resized = int(width // max(scale, 1.0))
    return [
        nn.Conv2d(resized, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    ]
