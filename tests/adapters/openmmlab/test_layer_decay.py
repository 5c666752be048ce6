from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from adapters.openmmlab import layer_decay as constructors
from adapters.openmmlab.backbone import TimmBackbone
from bench.errors import UserError

SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SMALL_HIERA = {"embed_dim": 24, "stages": (1, 1, 2, 1)}
# arch, timm options, number of layers (stem + blocks), one name in the first and the last block
FAMILIES: dict[str, tuple[str, dict[str, Any], int, str, str]] = {
    "ViT": ("test_vit", {}, 7, "blocks.0.", "blocks.5."),
    "DeiT": (
        "deit_tiny_distilled_patch16_224",
        {"embed_dim": 48, "depth": 4, "num_heads": 3},
        5,
        "blocks.0.",
        "blocks.3.",
    ),
    "Swin": ("swin_tiny_patch4_window7_224", SMALL_SWIN, 6, "layers.0.blocks.0.", "layers.3.blocks.0."),
    "SwinV2": ("swinv2_tiny_window8_256", SMALL_SWIN, 6, "layers.0.blocks.0.", "layers.3.blocks.0."),
    "ConvNeXt": ("test_convnext", {}, 10, "stages.0.blocks.0.", "stages.3.blocks.1."),
    "ResNet": ("resnet18", {}, 9, "layer1.0.", "layer4.1."),
    "EfficientNet": ("tf_efficientnet_lite0", {}, 17, "blocks.0.0.", "blocks.6.0."),
    "Hiera": ("hiera_tiny_224", {**SMALL_HIERA, "img_size": 64}, 6, "blocks.0.", "blocks.4."),
    "SAM 2": ("sam2_hiera_tiny", {**SMALL_HIERA, "global_att_blocks": (3,)}, 6, "blocks.0.", "blocks.4."),
}
LR, DECAY = 1e-3, 0.65


class Segmentor(nn.Module):
    """The shape of every OpenMMLab model: a backbone, and something behind it."""

    def __init__(self, arch: str, **settings: Any) -> None:
        super().__init__()
        self.backbone = TimmBackbone(arch, seed=0, **settings)
        self.decode_head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


def groups(model: nn.Module, layer_decay: float | None = DECAY) -> list[dict[str, Any]]:
    settings = {
        "type": "OptimWrapper",
        "constructor": "LayerDecayConstructor",
        "paramwise_cfg": {"layer_decay": layer_decay},
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": 0.05},
    }
    return build_optim_wrapper(model, settings).optimizer.param_groups


def rates(model: nn.Module, layer_decay: float | None = DECAY) -> dict[str, float]:
    rate = {id(p): g["lr"] for g in groups(model, layer_decay) for p in g["params"]}
    return {name: rate[id(p)] / LR for name, p in model.named_parameters()}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[tuple[Segmentor, int, str, str]]:
    arch, options, layers, first, last = FAMILIES[request.param]
    return Segmentor(arch, timm_options=options), layers, first, last


def test_each_layer_learns_at_its_power_of_the_decay(family: tuple[Segmentor, int, str, str]) -> None:
    model, layers, first, last = family
    found = rates(model)
    assert sorted({round(r, 9) for r in found.values()}) == [round(DECAY**k, 9) for k in range(layers, -1, -1)]

    def of(part: str) -> set[float]:
        return {round(r, 9) for name, r in found.items() if name.startswith(part)}

    assert of("decode_head.") == {1.0}
    assert of(f"backbone.model.{last}") == {DECAY}
    assert of(f"backbone.model.{first}") == {round(DECAY ** (layers - 1), 9)}
    stem = next(iter(found))
    assert found[stem] == pytest.approx(DECAY**layers)


def test_a_vit_follows_maes_formula() -> None:
    # MAE: layer i of depth d learns at decay^(d + 1 - i); patch embedding and tokens are layer 0.
    found = rates(Segmentor("test_vit"))
    depth = 6
    for name, rate in found.items():
        if name.startswith("backbone.model.blocks."):
            assert rate == pytest.approx(DECAY ** (depth - int(name.split(".")[3])))
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token"):
        assert found[f"backbone.model.{name}"] == pytest.approx(DECAY ** (depth + 1))


def test_every_trainable_parameter_is_in_one_group(family: tuple[Segmentor, int, str, str]) -> None:
    model = family[0]
    model.decode_head[0].bias.requires_grad_(False)
    grouped = [id(p) for g in groups(model) for p in g["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_vectors_and_named_parameters_have_no_weight_decay(family: tuple[Segmentor, int, str, str]) -> None:
    model = family[0]
    decay = {id(p): g["weight_decay"] for g in groups(model) for p in g["params"]}
    named = getattr(model.backbone.model, "no_weight_decay", set)()
    assert set(decay.values()) == {0.0, 0.05}
    for name, parameter in model.named_parameters():
        spared = parameter.ndim <= 1 or name.removeprefix("backbone.model.") in named
        assert decay[id(parameter)] == (0.0 if spared else 0.05), name
    if FAMILIES["ViT"][0] == model.backbone.arch:
        assert decay[id(model.backbone.model.pos_embed)] == 0.0


@pytest.mark.parametrize("layer_decay", [None, 1.0])
def test_without_decay_all_learn_alike_even_a_frozen_backbones_head(layer_decay: float | None) -> None:
    assert set(rates(Segmentor("test_vit"), layer_decay).values()) == {1.0}
    frozen = Segmentor("test_vit", frozen=True)
    grouped = {id(p) for g in groups(frozen, layer_decay) for p in g["params"]}
    assert grouped == {id(p) for p in frozen.decode_head.parameters()}


def test_wrapped_and_half_precision_models_keep_their_rates() -> None:
    expected = rates(Segmentor("test_vit"))
    wrapped = nn.DataParallel(Segmentor("test_vit").to(torch.bfloat16))
    assert {n.removeprefix("module."): r for n, r in rates(wrapped).items()} == expected


def test_a_schedule_keeps_the_ratios() -> None:
    from mmengine.optim import LinearLR

    model = Segmentor("test_vit")
    wrapper = build_optim_wrapper(
        model,
        {
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": DECAY},
            "optimizer": {"type": "SGD", "lr": LR},
        },
    )
    before = [g["lr"] for g in wrapper.optimizer.param_groups]
    LinearLR(wrapper, start_factor=0.5, end=10)
    after = [g["lr"] for g in wrapper.optimizer.param_groups]
    assert after == pytest.approx([rate / 2 for rate in before])


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)


def with_a_stray_parameter() -> Segmentor:
    model = Segmentor("test_vit")
    model.backbone.model.stray = nn.Parameter(torch.zeros(2, 2))
    return model


def with_one_layer() -> Segmentor:
    model = Segmentor("test_vit")
    model.backbone.model.group_matcher = lambda coarse: {"stem": ".*"}
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Plain, "a Linear, not a TimmBackbone"),
        (lambda: Segmentor("test_vit", frozen=True), "fewer than two trainable layers"),
        (with_one_layer, "fewer than two trainable layers"),
        (with_a_stray_parameter, "into no layer: stray"),
    ],
)
def test_a_decay_without_effect_is_refused(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups(model())


def test_an_unread_setting_is_refused() -> None:
    with pytest.raises(AssertionError, match="custom_keys"):
        constructors.LayerDecayConstructor({}, {"layer_decay": 0.5, "custom_keys": {}})
