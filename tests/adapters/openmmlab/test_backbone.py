"""What mmengine adds to the feature contract; the contract itself is tested in tests/bench."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from mmengine.registry import MODELS, Registry

from adapters.openmmlab.backbone import TimmBackbone
from bench.backbones.backbone import Backbone
from bench.backbones.extract import load_backbone
from bench.errors import UserError

SETTINGS: dict[str, Any] = {"out_indices": [1, 3], "img_size": (64, 96), "seed": 3}


def test_any_scope_finds_it() -> None:
    child = Registry("model", parent=MODELS, scope="someone")
    assert isinstance(child.build({"type": "TimmBackbone", "arch": "test_resnet"}), TimmBackbone)


def test_it_is_the_feature_extractor_with_the_same_names() -> None:
    """Records' checkpoints and the layer decay know parameters as `model.` and timm's name."""
    backbone = TimmBackbone("test_vit", class_token=True, drop_path_rate=0.1, **SETTINGS)
    entry = Backbone(name="test_vit", arch="test_vit")
    plain = load_backbone(entry, class_token=True, drop_path_rate=0.1, **SETTINGS)
    state = backbone.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    assert all(key.startswith("model.") for key in state)
    assert (backbone.channels, backbone.strides) == (plain.channels, plain.strides)
    x = torch.randn(1, 3, 64, 96)
    for ours, expected in zip(backbone.eval()(x), plain.eval()(x), strict=True):
        assert torch.equal(ours, expected)
    assert backbone.mean is None  # mmengine's data preprocessor normalises


def test_weights_survive_mmengines_initialisation(tmp_path: Path) -> None:
    source = timm.create_model("test_vit")
    safetensors.torch.save_file(source.state_dict(), tmp_path / "weights.safetensors")
    backbone = TimmBackbone("test_vit", weights=str(tmp_path / "weights.safetensors"))
    backbone.init_weights()  # the Runner calls this on every BaseModule
    state = backbone.model.state_dict()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in state.items())
    assert backbone.load_report.matched >= len(state)
    assert backbone.load_report.missing == ()


def test_only_what_is_allowed_may_be_missing(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    del state["blocks.5.norm2.weight"]
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    settings = {"arch": "test_vit", "weights": str(tmp_path / "weights.safetensors")}
    with pytest.raises(UserError, match=r"blocks\.5\.norm2\.weight"):
        TimmBackbone(**settings)
    backbone = TimmBackbone(**settings, allow_partial=("blocks.5.norm2.*",))
    assert "blocks.5.norm2.weight" in backbone.load_report.missing


def test_frozen_stays_frozen_when_mmengine_trains_the_model() -> None:
    backbone = TimmBackbone("test_resnet", frozen=True)
    model = torch.nn.Sequential(backbone).train()
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(UserError, match="test_maxvit cannot be used here"):
        TimmBackbone("test_maxvit")
