"""Depth heads and their loss: sizes, closed forms, precision."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from adapters.depth.heads import DeconvDepthHead, DepthHead, LinearDepthHead, silog
from adapters.openmmlab.backbone import TimmBackbone

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHS = ["test_vit", "swinv2_tiny_window8_256", "test_resnet", "hiera_tiny_224"]
KINDS = [(arch, kind) for arch in ARCHS for kind in ("deconv", "bins", "linear")]


def test_silog_is_its_closed_form_over_the_whole_batch() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 12, (3, 1, 8, 9)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.4] = 0
    truth[0] = 0  # an image without depth weighs nothing
    depth = rng.uniform(0.5, 10, truth.shape).astype(np.float32)
    known = (truth > 0) & (truth <= 10)
    d = np.log(truth[known].astype(float)) - np.log(depth[known].astype(float))
    expected = math.sqrt(np.mean(d**2) - 0.5 * np.mean(d) ** 2)

    found = silog(torch.from_numpy(depth), torch.from_numpy(truth), 10.0)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_silog_of_a_common_factor_is_its_logarithm_over_root_two() -> None:
    truth = torch.rand(2, 1, 4, 4) + 1

    assert float(silog(3 * truth, truth, 10.0)) == pytest.approx(math.log(3) / math.sqrt(2))


@pytest.mark.parametrize("truth", [torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)])
def test_silog_has_a_finite_gradient_without_depth_and_at_the_truth(truth: torch.Tensor) -> None:
    depth = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
    silog(depth, truth, 10.0).backward()

    assert depth.grad is not None
    assert depth.grad.isfinite().all()


def head_for(backbone: TimmBackbone, kind: str) -> DepthHead:
    settings = {
        "in_channels": backbone.channels,
        "stride": backbone.strides[-1],
        "normalised": backbone.plain,
        "max_depth": 10.0,
    }
    if kind == "deconv":
        return DeconvDepthHead(channels=8, **settings)
    return LinearDepthHead(bins=256 if kind == "bins" else 0, **settings)


@pytest.mark.parametrize(("arch", "kind"), [*KINDS, ("vit_small_patch14_dinov2", "deconv")])
def test_depth_has_the_size_of_an_image_that_is_not_square(arch: str, kind: str) -> None:
    """48x80 is a multiple of neither 14 nor 32. And in bf16 autocast all is summed up in fp32."""
    maps = None if kind == "bins" else (-1,)
    backbone = TimmBackbone(arch=arch, img_size=96, out_indices=maps, class_token=kind == "bins")
    head = head_for(backbone, kind)
    sample = SegDataSample()
    sample.gt_depth_map = PixelData(data=torch.full((1, 48, 80), 2.0))
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(torch.rand(2, 3, 48, 80))
        depth = head.predict(features, [{"img_shape": (48, 80)}] * 2, None)
        loss = head.loss(features, [sample] * 2, None)["loss_silog"]
    loss.backward()

    assert depth.shape == (2, 1, 48, 80)
    assert 0 < depth.min() <= depth.max() < 10
    assert depth.dtype == loss.dtype == torch.float32
    expected = float(silog(depth.detach(), torch.full_like(depth, 2), 10.0))
    assert loss.item() == pytest.approx(expected, 0.05)
    assert any(p.grad.abs().sum() > 0 for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize(("arch", "deconvs"), [("test_vit", 2), ("test_resnet", 3)])
def test_deconvolutions_and_two_doublings_make_up_the_stride(arch: str, deconvs: int) -> None:
    torch.manual_seed(0)  # the standard deviation of few weights varies
    backbone = TimmBackbone(arch=arch, img_size=64, out_indices=(-1,))
    head = head_for(backbone, "deconv")
    head.init_weights()
    kinds = [m for m in head.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    convs = [m.weight for m in head.modules() if isinstance(m, torch.nn.Conv2d)]

    assert [m.kernel_size for m in kinds] == [(2, 2)] * deconvs
    assert all(m.bias is None and m.out_channels == 32 for m in kinds)
    assert [float(w.std()) for w in convs] == pytest.approx([0.001] * 3, rel=0.2)
    assert head(backbone(torch.rand(2, 3, 64, 96))).shape == (2, 1, 64, 96)


class MapAsDepth(DepthHead):
    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return maps[-1]


def test_padding_is_cut_not_squeezed_in() -> None:
    """A map of 2x3 pixels of 32 covers 64x96, of which the image is the upper left 48x80."""
    head = MapAsDepth(in_channels=(1,), stride=32, normalised=True, max_depth=10.0)
    whole = torch.rand(1, 1, 2, 3)
    expected = F.interpolate(whole, (64, 96), mode="bilinear")[..., :48, :80]

    torch.testing.assert_close(head.depth([whole], (48, 80)), expected)


def test_maps_that_the_backbone_has_not_normalised_are_normalised() -> None:
    settings = {"in_channels": (6,), "stride": 32, "max_depth": 10.0, "channels": 8}
    coarse = torch.rand(1, 6, 2, 2)
    for normalised in (True, False):
        head = DeconvDepthHead(normalised=normalised, **settings).eval()
        same = torch.allclose(head([coarse]), head([100 * coarse + 7]), rtol=1e-5)
        assert same != normalised


def test_bins_are_weighted_as_dinov2_weights_them() -> None:
    """Here as published: stack, upsample, convolve, ReLU + 0.1, divide by the sum, weight the depths."""
    torch.manual_seed(0)
    settings = {"in_channels": (5, 7), "stride": 16, "normalised": True, "max_depth": 8.0}
    head = LinearDepthHead(bins=256, **settings)
    maps = [torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4)]

    stacked = F.interpolate(torch.cat(maps, 1), (12, 16), mode="bilinear")
    shares = head.conv(stacked).relu() + 0.1
    bins = torch.linspace(0.001, 8.0, 256)
    expected = torch.einsum("nkhw,k->nhw", shares / shares.sum(1, keepdim=True), bins)
    torch.testing.assert_close(head(maps)[:, 0], expected)


def test_linear_head_is_one_convolution_and_a_sigmoid() -> None:
    settings = {"in_channels": (5,), "stride": 16, "normalised": True, "max_depth": 8.0}
    head = LinearDepthHead(bins=0, **settings)
    coarse = torch.randn(2, 5, 3, 4)

    expected = 8 * F.interpolate(head.conv(coarse), (12, 16), mode="bilinear").sigmoid()
    torch.testing.assert_close(head([coarse]), expected)


@pytest.mark.parametrize(
    ("arch", "factor"), [("test_vit", 2), ("vit_little_patch16_reg1_gap_256", 1), ("test_resnet", 1)]
)
def test_class_token_is_appended_to_every_pixel_where_there_is_one(arch: str, factor: int) -> None:
    plain = TimmBackbone(arch=arch, img_size=64, out_indices=(-1,), seed=0).eval()
    both = TimmBackbone(arch=arch, img_size=64, out_indices=(-1,), class_token=True, seed=0).eval()
    image = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        (alone,), (found,) = plain(image), both(image)

    channels = alone.shape[1]
    assert both.channels == (factor * channels,)
    torch.testing.assert_close(found[:, :channels], alone)
    if factor == 2:
        tokens = both.model.forward_features(image)
        expected = tokens[:, 0, :, None, None].expand_as(alone)
        torch.testing.assert_close(found[:, channels:], expected)
