"""torchvision's own models: Swin and SwinV2 in test_swin.py, ResNet in test_convolutional.py, ViT and ConvNeXt here."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig


def test_vit(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(VisionTransformer(64, 16, 2, 4, 48, 96, num_classes=7))
    blocks = [*model.encoder.layers]
    old = {
        re.sub(r"mlp\.(\d)", lambda m: f"mlp.linear_{1 if m[1] == '0' else 2}", key): value
        for key, value in model.state_dict().items()
    }
    model.heads = nn.Identity()
    options = {"depth": 2, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 2, "img_size": 64}
    for state in (
        old,
        {f"module.{key.replace('linear_1', '0').replace('linear_2', '3')}": v for key, v in old.items()},
    ):
        torch.save(state, tmp_path / "vit.pth")
        _, report = agrees(model, blocks, "vit_tiny_patch16_224", tmp_path / "vit.pth", size=64, **options)
        assert report.format == "torchvision, ViT"
        assert [key.split(".")[-3:-1] for key in report.leftover] == [["heads", "head"]] * 2


def test_convnext(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    sizes, depths = (8, 16, 24, 32), (2, 1, 2, 1)
    config = [CNBlockConfig(a, b, n) for a, b, n in zip(sizes, (*sizes[1:], None), depths, strict=True)]
    model = disturb(ConvNeXt(config, num_classes=7))
    torch.save(model.state_dict(), tmp_path / "convnext.pth")
    blocks = [block for stage in model.features[1::2] for block in stage]
    model.classifier[2] = nn.Identity()
    ours = {"our_blocks": lambda m: [block for stage in m.stages for block in stage.blocks]}
    _, report = agrees(
        model, blocks, "convnext_tiny", tmp_path / "convnext.pth", size=64, depths=depths, dims=sizes, **ours
    )
    assert report.format == "torchvision, ConvNeXt"
    assert (report.missing, report.leftover) == ((), ("classifier.2.weight", "classifier.2.bias"))
