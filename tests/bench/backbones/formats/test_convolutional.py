"""ConvNeXt and ResNet against transformers and torchvision, and ConvNeXt's official names."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.inspect import inspect

WIDTHS, DEPTHS = (8, 16, 24, 32), (2, 1, 2, 1)
OFFICIAL = (
    (r"^(convnext|convnextv2)\.", ""),
    (r"^embeddings\.patch_embeddings", "downsample_layers.0.0"),
    (r"^embeddings\.layernorm", "downsample_layers.0.1"),
    (r"^encoder\.stages\.(\d)\.layers", r"stages.\1"),
    (r"^encoder\.stages\.(\d)\.downsampling_layer", r"downsample_layers.\1"),
    (r"layer_scale_parameter", "gamma"),
    (r"grn\.weight", "grn.gamma"),
    (r"grn\.bias", "grn.beta"),
    (r"^layernorm", "norm"),
    (r"\.layernorm", ".norm"),
    (r"^classifier", "head"),
)


class Pooled(nn.Module):
    """What a transformers model pools, as a vector."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).pooler_output.flatten(1)


def convnext(version: str) -> Any:
    kind = {"": "ConvNext", "v2": "ConvNextV2"}[version]
    config = getattr(transformers, f"{kind}Config")(hidden_sizes=[*WIDTHS], depths=[*DEPTHS])
    return getattr(transformers, f"{kind}ForImageClassification")(config)


@pytest.mark.parametrize("version", ["", "v2"])
@pytest.mark.parametrize("project", ["Hugging Face", "official"])
def test_convnext(version: str, project: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(convnext(version))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if project == "official":
        state = load_file(path)
        for expression, name in OFFICIAL:
            state = {re.sub(expression, name, key): value for key, value in state.items()}
        state = {k: v.reshape(1, 1, 1, -1) if ".grn." in k else v for k, v in state.items()}
        path = tmp_path / "convnext.pth"
        torch.save({"model": state}, path)
    blocks = [layer for stage in model.base_model.encoder.stages for layer in stage.layers]
    options = {"depths": DEPTHS, "dims": WIDTHS, "size": 64}
    ours = {"our_blocks": lambda m: [block for stage in m.stages for block in stage.blocks]}
    arch = f"convnext{version}_tiny"
    reference = Pooled(model.base_model)
    _, report = agrees(reference, blocks, arch, path, **options, **ours)
    assert report.format in (f"{project}, ConvNeXt", f"ConvNeXt, {project}")
    assert (report.missing, len(report.leftover)) == ((), 2)


def test_the_small_convnexts_hold_linear_layers_where_timm_has_convolutions(tmp_path: Path) -> None:
    model = timm.create_model("convnextv2_atto", num_classes=0)
    state = {}
    for key, value in model.state_dict().items():
        value = value.flatten(1) if ".mlp.fc" in key and key.endswith("weight") else value
        key = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        key = key.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        state[key.replace("head.norm", "norm").replace("mlp.grn", "grn")] = value
    torch.save({"model": state}, tmp_path / "w.pth")
    assert inspect(tmp_path / "w.pth").archs[0] == "convnextv2_atto"
    loaded, _ = build("convnextv2_atto", weights=tmp_path / "w.pth", num_classes=0)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images), model.eval()(images))


def resnet_blocks(model: Any) -> list[nn.Module]:
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    return [block for stage in stages for block in stage]


@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "backbone.", "model.backbone.", "module.encoder_q."])
def test_resnet_of_torchvision(wrapper: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(torchvision.models.resnet18(num_classes=7))
    state = {wrapper + key: value for key, value in model.state_dict().items()}
    if "encoder_q" in wrapper:
        state |= {key.replace("_q", "_k"): value for key, value in state.items()}
        state["module.queue"] = torch.zeros(2, 2)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    blocks = resnet_blocks(model)
    model.fc = nn.Identity()
    _, report = agrees(model, blocks, "resnet18", tmp_path / "w.pth", size=64, our_blocks=resnet_blocks)
    assert report.format == "ResNet"
    assert {f"{wrapper}fc.weight", f"{wrapper}fc.bias"} <= set(report.leftover)
    assert inspect(tmp_path / "w.pth").archs[0] == "resnet18"


@pytest.mark.parametrize("project", ["torchvision", "Hugging Face"])
def test_no_damage_to_a_single_key_is_swallowed(project: str, tmp_path: Path, swallowed: Any) -> None:
    if project == "torchvision":
        state = torchvision.models.resnet18().state_dict()
        assert swallowed({k: v for k, v in state.items() if "fc." not in k}, "resnet18") == []
    else:
        convnext("v2").save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert swallowed(state, "convnextv2_tiny", depths=DEPTHS, dims=WIDTHS) == []


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_of_hugging_face(kind: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    sizes = (64, 128, 256, 512) if kind == "basic" else (256, 512, 1024, 2048)
    depths = (2, 2, 2, 2) if kind == "basic" else (3, 4, 6, 3)
    config = transformers.ResNetConfig(hidden_sizes=[*sizes], depths=[*depths], layer_type=kind)
    model = disturb(transformers.ResNetForImageClassification(config))
    model.save_pretrained(tmp_path)
    blocks = [layer for stage in model.base_model.encoder.stages for layer in stage.layers]
    arch = {"basic": "resnet18", "bottleneck": "resnet50"}[kind]
    path = tmp_path / "model.safetensors"
    reference = Pooled(model.base_model)
    _, report = agrees(reference, blocks, arch, path, size=64, our_blocks=resnet_blocks)
    assert report.format == "Hugging Face, ResNet"
    assert inspect(path).archs[0] == arch
