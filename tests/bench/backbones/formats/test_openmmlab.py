"""OpenMMLab's spellings, against mmpretrain's and mmsegmentation's own modules."""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.backbones.formats import IMAGENET, recognise

VIT = {"embed_dims": 48, "num_layers": 2, "num_heads": 4, "feedforward_channels": 96}
OURS: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 2, "img_size": 64}
ARCH = "vit_tiny_patch16_224"
DISTILLED = "deit_tiny_distilled_patch16_224"
SWIN = {"embed_dims": 24, "depths": [2, 2, 3, 2], "num_heads": [2, 4, 8, 8]}
SMALL: dict[str, Any] = {
    **{"embed_dim": 24, "depths": (2, 2, 3, 2), "num_heads": (2, 4, 8, 8)},
    **{"img_size": 128, "window_size": 4, "global_pool": ""},
}


@pytest.fixture(scope="module")
def backbones() -> Any:
    """mmpretrain's, without its multimodal models: BLIP's do not import beside a current transformers."""
    from adapters.openmmlab import compatibility

    compatibility.prepare()  # which hides both from mmdet
    for hidden in ("mmpretrain", "transformers"):
        sys.modules.pop(hidden)
    name = "mmpretrain.models.multimodal"
    sys.modules[name] = types.ModuleType(name)
    return importlib.import_module("mmpretrain.models.backbones")


def made(model: nn.Module, disturb: Callable[[nn.Module], object]) -> Any:
    disturb(model)  # OpenMMLab's own `train` and `eval` return nothing
    return model


class Tokens(nn.Module):
    """A backbone's last output as timm has it: tokens, not maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        (out,) = self.model(images)
        out = sum(out) / 2 if isinstance(out, tuple) else out  # both tokens of a distilled DeiT
        return out.permute(0, 2, 3, 1) if out.ndim == 4 else out


def saved(model: nn.Module, path: Path, **beside: Tensor) -> Path:
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"meta": {"epoch": 3}, "state_dict": state | beside}, path)
    return path


def swin_blocks(model: Any) -> list[nn.Module]:
    return [block for stage in model.layers for block in stage.blocks]


@pytest.mark.parametrize("head", ["head.fc.weight", "neck.decoder.0.weight"])
def test_swin(head: str, backbones: Any, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = made(backbones.SwinTransformer(arch=SWIN, img_size=128, window_size=4), disturb)
    mask = {"backbone.mask_token": torch.zeros(1, 1, 24)} if "decoder" in head else {}
    path = saved(model, tmp_path / "swin.pth", **{head: torch.zeros(5, 5)}, **mask)
    blocks = [block for stage in model.stages for block in stage.blocks]
    options = {**SMALL, "our_blocks": swin_blocks, "size": 128}
    _, report = agrees(Tokens(model), blocks, "swin_tiny_patch4_window7_224", path, **options)
    assert report.format == "OpenMMLab, Swin"
    assert head in report.leftover


def test_swin_of_a_detector(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    """mmdetection's keeps a norm for every map, of which a classifier has only the last.

    It shifts windows also where one covers the map, as the official model does not: hence the larger image.
    """
    from mmdet.models.backbones import SwinTransformer

    sizes = {"embed_dims": 24, "depths": SWIN["depths"], "num_heads": SWIN["num_heads"]}
    model = made(SwinTransformer(window_size=4, **sizes), disturb)
    path = saved(model, tmp_path / "swin.pth", **{"rpn_head.rpn_conv.weight": torch.zeros(2)})
    blocks = [block for stage in model.stages for block in stage.blocks]
    model.forward, forward = lambda x: forward(x)[-1:], model.forward
    options = {**SMALL, "our_blocks": swin_blocks, "size": 256, "img_size": 256}
    _, report = agrees(Tokens(model), blocks, "swin_tiny_patch4_window7_224", path, **options)
    norms = {f"backbone.norm{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert norms | {"rpn_head.rpn_conv.weight"} <= set(report.leftover)


def test_swin_v2(backbones: Any, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    arch = {**SWIN, "extra_norm_every_n_blocks": 0}
    windows = {"window_size": [4, 4, 4, 4], "pretrained_window_sizes": [6, 6, 6, 3]}
    model = made(backbones.SwinTransformerV2(arch=arch, img_size=128, **windows), disturb)
    path = saved(model, tmp_path / "swin.pth")
    blocks = [block for stage in model.stages for block in stage.blocks]
    options = {**SMALL, "our_blocks": swin_blocks, "size": 128}
    ours, report = agrees(Tokens(model), blocks, "swinv2_tiny_window8_256", path, **options)
    assert report.format == "OpenMMLab, SwinV2"
    trained = [stage.blocks[0].attn.pretrained_window_size for stage in ours.layers]
    assert trained == [(6, 6), (6, 6), (6, 6), (3, 3)]


CLASS_TOKEN = {"out_type": "cls_token", "final_norm": True}
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "ViT": ("VisionTransformer", {}, ARCH, {}),
    "the mean of the patches": ("VisionTransformer", {"out_type": "avg_featmap", "final_norm": False}, ARCH, {}),
    "LayerScale": ("VisionTransformer", {"layer_scale_init_value": 0.1}, ARCH, {}),
    "a norm before": ("VisionTransformer", {"pre_norm": True}, "vit_base_patch16_clip_224", {}),
    "DeiT, distilled": ("DistilledVisionTransformer", {}, DISTILLED, {}),
    "DeiT III": ("DeiT3", {}, "deit3_small_patch16_224", {}),
    "BEiT": ("BEiTViT", {"out_type": "avg_featmap", "final_norm": False}, "beit_base_patch16_224", {}),
    "BEiT, one table": (
        "BEiTViT",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, **CLASS_TOKEN},
        "beit_base_patch16_224",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_vit(case: str, backbones: Any, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    kind, given, arch, more = CASES[case]
    norm = {"norm_cfg": {"type": "LN", "eps": 1e-5 if "norm" in case else 1e-6}}
    model = made(getattr(backbones, kind)(arch=VIT, img_size=64, **norm, **given), disturb)
    for layer in model.layers if kind == "DeiT3" else ():
        layer.ln2.load_state_dict(layer.ln1.state_dict())  # mmpretrain's calls its first norm twice
    path = saved(model, tmp_path / "vit.pth", **{"head.layers.head.weight": torch.zeros(5, 48)})
    _, report = agrees(Tokens(model), model.layers, arch, path, size=64, **OURS, **more)
    assert report.format == ("OpenMMLab, BEiT" if "BEiT" in case else "OpenMMLab, ViT")
    assert (report.missing, report.resampled) == ((), ())


def test_vit_of_mmsegmentation(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    """Its attention is torch's own; a norm behind the last block is asked for in its configurations."""
    from mmseg.models.backbones import VisionTransformer

    sizes = {"embed_dims": 48, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2, "img_size": (64, 64)}
    norm = {"norm_cfg": {"type": "LN", "eps": 1e-6}, "final_norm": True, "patch_bias": True}
    model = made(VisionTransformer(**sizes, **norm, out_indices=1), disturb)
    path = saved(model, tmp_path / "vit.pth", **{"decode_head.conv_seg.weight": torch.zeros(2)})
    options = {**OURS, "global_pool": "", "class_token": True}

    class All(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            model.output_cls_token = True
            maps, token = model(images)[0]
            return torch.cat([token[:, None], maps.flatten(2).mT], 1)

    _, report = agrees(All(), model.layers, ARCH, path, size=64, **options)
    assert report.format == "OpenMMLab, ViT"


def test_no_damage_to_a_single_key_is_swallowed(backbones: Any, swallowed: Any) -> None:
    model = backbones.VisionTransformer(arch=VIT, img_size=64)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    assert swallowed(state, ARCH, **OURS) == []
    depths = {"depths": [1, 1, 1, 1]}
    model = backbones.SwinTransformer(arch={**SWIN, **depths}, img_size=128, window_size=4)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    assert swallowed(state, "swin_tiny_patch4_window7_224", **{**SMALL, **depths}) == []


def test_pretraining_is_told_by_what_lies_beside(backbones: Any) -> None:
    """MoCo v3's ViT-S has 12 heads where timm's has 6, and its position embedding is no parameter's."""
    small = {"embed_dims": 384, "num_layers": 1, "num_heads": 12, "feedforward_channels": 48}
    state = backbones.VisionTransformer(arch=small, img_size=32).state_dict()
    state = {f"backbone.{key}": value for key, value in state.items()}
    cases = {"momentum_encoder.module.0.x": "mocov3", "neck.decoder_embed.weight": "mae"}
    for beside, method in cases.items():
        encoder = recognise(state | {beside: torch.zeros(1)}, lambda _: False)
        assert encoder is not None
        assert (encoder.method, encoder.normalisation) == (method, IMAGENET)
        assert encoder.options.get("num_heads") == (12 if method == "mocov3" else None)


def test_convnext(backbones: Any, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    for version, more in {"": {}, "v2": {"use_grn": True, "layer_scale_init_value": 0.0}}.items():
        sizes = {"depths": [2, 1, 2, 1], "channels": [8, 16, 24, 32]}
        model = made(backbones.ConvNeXt(arch=sizes, **more), disturb)
        path = saved(model, tmp_path / "convnext.pth")
        options = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32), "size": 64}
        ours = {"our_blocks": lambda m: [b for stage in m.stages for b in stage.blocks]}
        blocks = [block for stage in model.stages for block in stage]
        arch = f"convnext{version}_tiny"
        _, report = agrees(Tokens(model), blocks, arch, path, **options, **ours)
        assert report.format == "OpenMMLab, ConvNeXt"
        assert (report.missing, report.leftover) == ((), ())


@pytest.mark.parametrize(
    ("kind", "arch", "name"),
    [
        ("ResNet", "resnet18", "ResNet"),
        ("ResNetV1c", "resnet50c", "OpenMMLab, ResNet with a deep stem"),
        ("ResNetV1d", "resnet18d", "OpenMMLab, ResNet with a deep stem"),
    ],
)
def test_resnet(kind: str, arch: str, name: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    from mmseg.models import backbones as mmseg_backbones

    model = made(
        getattr(mmseg_backbones, kind)(depth=50 if "50" in arch else 18, out_indices=(3,), norm_cfg={"type": "BN"}),
        disturb,
    )
    path = saved(model, tmp_path / "resnet.pth")
    stages = ("layer1", "layer2", "layer3", "layer4")
    ours = {"our_blocks": lambda m: [b for stage in stages for b in getattr(m, stage)]}
    blocks = [block for stage in stages for block in getattr(model, stage)]

    class Pooled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model(images)[0].mean((2, 3))

    _, report = agrees(Pooled(), blocks, arch, path, size=64, **ours)
    assert report.format == name
