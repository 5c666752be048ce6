from math import ceil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from mmengine.registry import MODELS, Registry
from torch import Tensor, nn

from adapters.openmmlab.backbone import TimmBackbone
from bench.errors import UserError

SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SMALL_HIERA = {"embed_dim": 24, "stages": (1, 1, 2, 1)}
SMALL_SAM2 = {**SMALL_HIERA, "global_att_blocks": (3,)}
SMALL_VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "ViT": {"arch": "test_vit"},
    "ViT, pooled": {"arch": "test_vit2"},
    "DeiT": {"arch": "deit_tiny_distilled_patch16_224", "timm_options": SMALL_VIT},
    "DINOv2": {
        "arch": "vit_small_patch14_reg4_dinov2",
        "img_size": 56,
        "timm_options": SMALL_VIT,
    },
    "BEiT": {"arch": "beit_base_patch16_224", "img_size": (96, 128), "timm_options": SMALL_VIT},
    "Swin": {"arch": "swin_tiny_patch4_window7_224", "timm_options": SMALL_SWIN},
    "SwinV2": {"arch": "swinv2_tiny_window8_256", "timm_options": SMALL_SWIN},
    "ConvNeXt": {"arch": "test_convnext"},
    "ResNet": {"arch": "test_resnet"},
    "EfficientNet": {"arch": "test_efficientnet"},
    "EfficientNet lite": {"arch": "tf_efficientnet_lite0"},
    "Hiera": {"arch": "hiera_tiny_224", "img_size": (96, 128), "timm_options": SMALL_HIERA},
    "SAM 2": {"arch": "sam2_hiera_tiny", "timm_options": SMALL_SAM2},
}
every_family = pytest.mark.parametrize("family", FAMILIES)
PLAIN = ("ViT", "ViT, pooled", "DeiT", "DINOv2", "BEiT")


def build(family: str, **changes: Any) -> TimmBackbone:
    return MODELS.build({"type": "TimmBackbone", "seed": 0, **FAMILIES[family], **changes})


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@every_family
def test_maps_equal_timms_at_the_stated_strides_and_channels(family: str) -> None:
    backbone = build(family).eval()
    settings = {"num_classes": 0, **FAMILIES[family], **FAMILIES[family].get("timm_options", {})}
    settings.pop("timm_options", None)
    torch.manual_seed(0)
    model = timm.create_model(settings.pop("arch"), **settings).eval()
    step = backbone.strides[0] if family in PLAIN else 32
    size = FAMILIES[family].get("img_size", model.default_cfg["input_size"][1:])
    height, width = size if isinstance(size, tuple) else (size, size)
    x = images(ceil(height / step) * step, ceil(width / step) * step, count=1)
    indices = list(backbone.out_indices)
    with torch.no_grad():
        maps = backbone(x)
        norm = {"norm": True} if family in PLAIN else {}
        expected = model.forward_intermediates(
            x, indices=indices, intermediates_only=True, output_fmt="NCHW", **norm
        )
    assert len(maps) == len(indices) == 4
    for ours, theirs, channels, stride in zip(
        maps, expected, backbone.channels, backbone.strides, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        assert ours.shape == (1, channels, x.shape[2] // stride, x.shape[3] // stride)
        assert ours.std() > 0


@every_family
@pytest.mark.parametrize("size", [(96, 128), (70, 45), (33, 61)])
def test_any_size_gives_maps_of_its_ceiling(family: str, size: tuple[int, int]) -> None:
    if family == "DINOv2":
        size = (size[0] + 1, size[1])
    backbone = build(family).eval()
    with torch.no_grad():
        maps = backbone(images(*size, count=1))
    stated = [(ceil(size[0] / s), ceil(size[1] / s)) for s in backbone.strides]
    assert [m.shape[2:] for m in maps] == stated
    assert all(m.isfinite().all() for m in maps)


@every_family
def test_every_parameter_that_is_left_is_trained(family: str) -> None:
    backbone = build(family, drop_path_rate=0.0)
    sum(m.square().mean() for m in backbone(images(96, 128))).backward()
    untouched = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert untouched == []


@every_family
def test_frozen_has_no_gradient_and_stays_in_evaluation_mode(family: str) -> None:
    backbone = build(family, frozen=True, drop_path_rate=0.5)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    wrapped = nn.Sequential(backbone).train()
    first, second = wrapped(images(96, 128)), wrapped(images(96, 128))
    assert not any(m.requires_grad for m in first)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.modules())
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)  # no dropped path
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_unfrozen_batch_statistics_move() -> None:
    backbone = build("ResNet")
    before = backbone.model.bn1.running_mean.clone()
    backbone.train()(images(64, 64))
    assert not torch.equal(before, backbone.model.bn1.running_mean)


@every_family
def test_drop_path_reaches_the_blocks(family: str) -> None:
    rates = {
        module.drop_prob
        for module in build(family, drop_path_rate=0.3).modules()
        if type(module).__name__ == "DropPath"
    }
    assert max(rates) == pytest.approx(0.3, abs=0.12)  # EfficientNet divides by all its blocks
    plain = build(family, drop_path_rate=0.0).modules()
    assert not any(type(m).__name__ == "DropPath" and m.drop_prob for m in plain)


@pytest.mark.parametrize(
    ("depth", "taps"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (1, (0,))]
)
def test_default_taps_of_a_plain_vit(depth: int, taps: tuple[int, ...]) -> None:
    assert TimmBackbone("test_vit", timm_options={"depth": depth}).out_indices == taps


def test_chosen_taps_drop_what_comes_behind() -> None:
    backbone = TimmBackbone("test_vit", out_indices=[2])
    assert len(backbone.model.blocks) == 3
    assert len(backbone(images(32, 32))) == 1
    assert TimmBackbone("test_resnet", out_indices=[-1]).strides == (32,)


def test_the_seed_decides_the_initialisation_and_disturbs_nothing() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (TimmBackbone("test_vit", seed=s).model for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    weights = [m.blocks[0].attn.qkv.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_are_loaded_reported_and_survive_mmengines_initialisation(tmp_path: Path) -> None:
    source = timm.create_model("test_vit")
    safetensors.torch.save_file(source.state_dict(), tmp_path / "weights.safetensors")
    backbone = TimmBackbone("test_vit", weights=str(tmp_path / "weights.safetensors"))
    backbone.init_weights()  # the Runner calls this on every BaseModule
    state = backbone.model.state_dict()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in state.items())
    assert backbone.load_report.matched >= len(state)
    assert backbone.load_report.missing == ()


def test_position_embeddings_are_resampled_to_img_size(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors"
    )
    backbone = TimmBackbone("test_vit", weights=tmp_path / "w.safetensors", img_size=(96, 64))
    assert backbone.model.pos_embed.shape[1] == 6 * 4 + 1
    assert backbone.load_report.resampled == ("pos_embed",)


def test_any_scope_finds_it() -> None:
    child = Registry("model", parent=MODELS, scope="someone")
    assert isinstance(child.build({"type": "TimmBackbone", "arch": "test_resnet"}), TimmBackbone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "test_vit", "out_indices": [6]}, "6 blocks"),
        ({"arch": "test_resnet", "out_indices": []}, "5 stages"),
        ({"arch": "test_maxvit"}, "test_maxvit cannot be used here"),
        ({"arch": "vgg11", "drop_path_rate": 0.1}, "no drop path"),
    ],
)
def test_what_cannot_be_used_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimmBackbone(**settings)


def test_a_fixed_size_model_refuses_a_larger_image() -> None:
    with pytest.raises(UserError, match=r"128x160 is larger than 96x128.*larger img_size"):
        build("Hiera")(images(128, 160))
