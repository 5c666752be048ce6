from math import ceil

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor
from torch.nn import functional as F

from adapters.detection.heads import SimpleFeaturePyramid, pyramid_strides
from adapters.openmmlab.backbone import TimmBackbone
from adapters.openmmlab.compatibility import prepare

SMALL_DINO = {"embed_dim": 48, "depth": 4, "num_heads": 3}


def channel_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)


@pytest.mark.parametrize("arch", ["test_vit", "vit_small_patch14_dinov2"])
@pytest.mark.parametrize("size", [(224, 224), (112, 90), (75, 33)])
@pytest.mark.parametrize("num_outs", [4, 5])
def test_levels_over_a_real_vit_lie_at_the_stated_strides(arch: str, size: tuple[int, int], num_outs: int) -> None:
    options = {"img_size": 56, "timm_options": SMALL_DINO} if "dino" in arch else {}
    backbone = TimmBackbone(arch, out_indices=[-1], **options).eval()
    pyramid = MODELS.build(
        {"type": "SimpleFeaturePyramid", "in_channels": backbone.channels[-1], "out_channels": 32, "num_outs": num_outs}
    )
    levels = pyramid(backbone(torch.randn(2, 3, *size)))
    rows, columns = (ceil(n / backbone.strides[-1]) for n in size)
    expected = [(2, 32, ceil(rows * scale), ceil(columns * scale)) for scale in (4, 2, 1, 0.5, 0.25)]
    assert [level.shape for level in levels] == expected[:num_outs]
    for level, stride in zip(
        levels, pyramid_strides(backbone.strides[-1], num_outs), strict=True
    ):  # a stride counts the input's pixels, so a level covers the input
        assert level.shape[2] * stride >= size[0]
        assert (level.shape[2] - 1) * stride <= size[0] + backbone.strides[-1]


def test_strides() -> None:
    assert pyramid_strides(16) == (4, 8, 16, 32, 64)
    assert pyramid_strides(14, 4) == (3.5, 7, 14, 28)


def test_each_level_is_the_papers() -> None:
    torch.manual_seed(0)
    pyramid, x = SimpleFeaturePyramid(16, 8), torch.randn(2, 16, 6, 5)
    w = dict(pyramid.named_parameters())

    def project(x: Tensor, one: str, three: str) -> Tensor:
        x = channel_norm(F.conv2d(x, w[one]))
        return channel_norm(F.conv2d(x, w[three], padding=1))

    def up(x: Tensor, name: str) -> Tensor:
        return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2)

    x4 = up(F.gelu(channel_norm(up(x, "levels.0.0"))), "levels.0.3")
    expected = [
        project(x4, "levels.0.4.weight", "levels.0.6.weight"),
        project(up(x, "levels.1.0"), "levels.1.1.weight", "levels.1.3.weight"),
        project(x, "levels.2.0.weight", "levels.2.2.weight"),
        project(F.max_pool2d(x, 2, ceil_mode=True), "levels.3.1.weight", "levels.3.3.weight"),
    ]
    expected.append(expected[-1][:, :, ::2, ::2])
    for level, by_hand in zip(pyramid([torch.zeros(1), x]), expected, strict=True):
        torch.testing.assert_close(level, by_hand)
    assert x4.shape[1] == 4  # a quarter of the width


def test_every_parameter_learns() -> None:
    pyramid = SimpleFeaturePyramid(16, 8)
    sum(level.square().sum() for level in pyramid([torch.randn(1, 16, 4, 4)])).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_mmsegs_own_neck_serves_uperhead_on_a_vit() -> None:
    prepare()
    import mmseg.models  # noqa: F401

    backbone = TimmBackbone("test_vit")
    width = backbone.channels[-1]
    neck = MODELS.build({"type": "mmseg.Feature2Pyramid", "embed_dim": width, "norm_cfg": {"type": "BN"}})
    with DefaultScope.overwrite_default_scope("mmseg"):
        head = MODELS.build(
            {
                "type": "mmseg.UPerHead",
                "in_channels": [width] * 4,
                "in_index": [0, 1, 2, 3],
                "channels": 16,
                "num_classes": 5,
                "norm_cfg": {"type": "BN"},
                "loss_decode": {"type": "mmseg.CrossEntropyLoss"},
            }
        )
    maps = neck(backbone(torch.randn(2, 3, 96, 70)))
    assert [m.shape[1:] for m in maps] == [(64, 24, 20), (64, 12, 10), (64, 6, 5), (64, 3, 2)]
    assert head(maps).shape == (2, 5, 24, 20)
