"""Swin and SwinV2 against transformers and torchvision; the official files are transformers' numbers under
the official names, with the buffers that the official models keep."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from bench.backbones.build import build
from bench.backbones.formats import IMAGENET, Encoder, recognise
from bench.backbones.inspect import inspect
from bench.errors import UserError

State = dict[str, Tensor]
WIDTH, DEPTHS, HEADS, SIZE, WINDOW = 24, (2, 2, 3, 2), (2, 4, 8, 8), 128, 4
PRETRAINED = (6, 6, 6, 3)
ARCH = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
SMALL: dict[str, Any] = {
    "embed_dim": WIDTH,
    "depths": DEPTHS,
    "num_heads": HEADS,
    "img_size": SIZE,
    "window_size": WINDOW,
}
MAPS = {**SMALL, "global_pool": ""}

OFFICIAL = (
    (r"^(swin|swinv2)\.", ""),
    (r"^embeddings\.mask_token", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    (r"^encoder\.", ""),
    (r"\.attention\.self\.relative_position_bias_table", ".attn.relative_position_bias_table"),
    (r"\.attention\.self\.logit_scale", ".attn.logit_scale"),
    (r"\.attention\.self\.continuous_position_bias_mlp", ".attn.cpb_mlp"),
    (r"\.attention\.output\.dense", ".attn.proj"),
    (r"\.intermediate\.dense", ".mlp.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"^layernorm", "norm"),
    (r"^classifier", "head"),
)


def hugging_face(version: int, kind: str = "Model", **more: Any) -> Any:
    options = {"image_size": SIZE, "embed_dim": WIDTH, "depths": DEPTHS, "num_heads": HEADS, **more}
    family = {1: "Swin", 2: "Swinv2"}[version]
    config = getattr(transformers, f"{family}Config")(window_size=WINDOW, encoder_stride=32, **options)
    return getattr(transformers, f"{family}{kind}")(config)


def saved(model: Any, folder: Path) -> State:
    """The names of the published files, which transformers translates on its way in and out."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def coordinates(window: int, trained: int) -> Tensor:
    """Equation 4 of SwinV2 with its code's scale: signed log2(1 + |8 d / (trained - 1)|) / log2(8)."""
    offsets = torch.arange(1 - window, window) * 8 / (trained - 1)
    line = offsets.sign() * (1 + offsets.abs()).log() / math.log(8)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None]


def official(state: State, trained: tuple[int, ...] = PRETRAINED) -> State:
    """transformers' tensors as the official model saves them."""
    for expression, name in OFFICIAL:
        state = {re.sub(expression, name, key): value for key, value in state.items()}
    for block in sorted({key.split(".attention.")[0] for key in state if ".attention." in key}):
        q, k, v = (f"{block}.attention.self.{part}" for part in ("query", "key", "value"))
        attn = f"{block}.attn"
        state[f"{attn}.qkv.weight"] = torch.cat([state.pop(f"{part}.weight") for part in (q, k, v)])
        state[f"{attn}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
        if f"{attn}.logit_scale" in state:
            state[f"{attn}.q_bias"], state[f"{attn}.v_bias"] = (state.pop(f"{q}.bias"), state.pop(f"{v}.bias"))
            stage = int(block.split(".")[1])
            state[f"{attn}.relative_coords_table"] = coordinates(WINDOW, trained[stage])
        else:
            state[f"{attn}.qkv.bias"] = torch.cat([state.pop(f"{part}.bias") for part in (q, k, v)])
        if block.endswith(".blocks.1"):
            state[f"{block}.attn_mask"] = torch.zeros(4, 16, 16)
    return state


def found(state: State) -> Encoder:
    encoder = recognise(state, lambda _: False)
    assert encoder is not None
    return encoder


def our_blocks(model: Any) -> list[nn.Module]:
    return [block for stage in model.layers for block in stage.blocks]


def blocks_of(model: Any) -> list[nn.Module]:
    encoder = getattr(model, "swin", getattr(model, "swinv2", model)).encoder
    return [block for stage in encoder.layers for block in stage.blocks]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("written", ["save_pretrained", "pytorch_model.bin"])
def test_hugging_face(version: int, written: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(hugging_face(version))
    path = tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path)
    if written != "save_pretrained":
        path = tmp_path / written
        torch.save(model.state_dict(), path)
    trained = {"pretrained_window_sizes": (WINDOW,) * 4} if version == 2 else {}
    options = {**MAPS, **trained, "our_blocks": our_blocks, "size": SIZE}
    _, report = agrees(model, blocks_of(model), ARCH[version], path, **options)
    assert report.format == f"Hugging Face, Swin{'v2' if version == 2 else ''}"
    assert (report.leftover, report.missing, report.resampled) == ((), (), ())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["ForImageClassification", "ForMaskedImageModeling"])
def test_hugging_face_with_a_head(version: int, kind: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(hugging_face(version, kind))
    model.save_pretrained(tmp_path)
    trained = {"pretrained_window_sizes": (WINDOW,) * 4} if version == 2 else {}
    options = {**MAPS, **trained, "our_blocks": our_blocks, "size": SIZE}
    weights = tmp_path / "model.safetensors"
    _, report = agrees(model.base_model, blocks_of(model), ARCH[version], weights, **options)
    assert all("decoder" in k or "classifier" in k or "mask_token" in k for k in report.leftover)
    assert len(report.leftover) == (3 if kind.endswith("Modeling") else 2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "backbone."])
def test_official(version: int, wrapper: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    more = {"pretrained_window_sizes": PRETRAINED} if version == 2 else {}
    model = disturb(hugging_face(version, "ForImageClassification", **more))
    state = official(saved(model, tmp_path))
    path = tmp_path / "swin.pth"
    torch.save({"model": {wrapper + k: v for k, v in state.items()}, "epoch": 300}, path)
    options = {**MAPS, "our_blocks": our_blocks, "size": SIZE}
    ours, report = agrees(model.base_model, blocks_of(model), ARCH[version], path, **options)
    assert report.format == f"Swin{'V2' if version == 2 else ''}, official"
    buffers = (*("head.weight", "head.bias"), "relative_position_index", "relative_coords_table", "attn_mask")
    assert all(key.endswith(buffers) for key in report.leftover)
    assert report.missing == ()
    if version == 2:
        assert tuple(s.blocks[0].attn.pretrained_window_size[0] for s in ours.layers) == PRETRAINED


@pytest.mark.parametrize("version", [1, 2])
def test_simmim(version: int, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    model = disturb(hugging_face(version, "ForMaskedImageModeling"))
    state = official(saved(model, tmp_path), (WINDOW,) * 4)
    wrapped = {k if k.startswith("decoder") else f"encoder.{k}": v for k, v in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    path = tmp_path / "ckpt_epoch_799.pth"
    torch.save({"model": wrapped, "optimizer": optimizer, "epoch": 799}, path)
    options = {**MAPS, "our_blocks": our_blocks, "size": SIZE}
    _, report = agrees(model.base_model, blocks_of(model), ARCH[version], path, **options)
    assert report.format == f"SimMIM, Swin{'V2' if version == 2 else ''}"
    assert {"encoder.mask_token", "decoder.0.weight", "decoder.0.bias"} <= set(report.leftover)
    assert (found(wrapped).method, found(wrapped).normalisation) == ("simmim", IMAGENET)


@pytest.mark.parametrize("version", [1, 2])
def test_torchvision(version: int, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    v2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    model = disturb(SwinTransformer([4, 4], WIDTH, [*DEPTHS], [*HEADS], [4, 4], num_classes=7, **v2))
    path = tmp_path / "swin.pth"
    torch.save(model.state_dict(), path)
    model.head = nn.Identity()
    blocks = [block for stage in model.features[1::2] for block in stage]
    options = {**SMALL, "our_blocks": our_blocks, "size": SIZE}
    _, report = agrees(model, blocks, ARCH[version], path, **options)
    assert report.format == f"torchvision, Swin{'V2' if version == 2 else ''}"
    assert {"head.weight", "head.bias"} <= set(report.leftover)


@pytest.mark.parametrize(
    "arch",
    [
        *("swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384", "swin_s3_tiny_224"),
        *("swinv2_tiny_window8_256", "swinv2_base_window16_256", "swinv2_base_window12_192"),
        *("swinv2_large_window12to16_192to256", "swinv2_base_window12to24_192to384"),
    ],
)
def test_the_architecture_is_told_by_the_file(arch: str, tmp_path: Path) -> None:
    """Shapes alone do not tell the windows of SwinV2; the coordinates do."""
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=0)
    state = {}
    for key, value in model.state_dict().items():
        earlier = re.sub(r"(\d)\.downsample", lambda m: f"{int(m[1]) - 1}.downsample", key)
        state[earlier] = torch.empty(1).expand(value.shape)
    for stage, layer in enumerate(model.layers if "v2" in arch else ()):
        attention = layer.blocks[0].attn
        trained = attention.pretrained_window_size[0] or attention.window_size[0]
        table = coordinates(attention.window_size[0], trained)
        state[f"layers.{stage}.blocks.0.attn.relative_coords_table"] = table
    torch.save(state, tmp_path / "w.pth")
    assert inspect(tmp_path / "w.pth").archs[0] == arch


@pytest.mark.parametrize("project", ["official", "Hugging Face"])
def test_no_damage_to_a_single_key_is_swallowed(project: str, tmp_path: Path, swallowed: Any) -> None:
    state = saved(hugging_face(1, "ForImageClassification", depths=(1, 1, 1, 1)), tmp_path)
    state = official(state) if project == "official" else state
    assert swallowed(state, ARCH[1], **{**SMALL, "depths": (1, 1, 1, 1)}) == []


def test_the_wrong_number_of_heads_is_refused(tmp_path: Path, disturb: Callable[..., Any]) -> None:
    model = disturb(hugging_face(1))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="relative_position_bias_table"):
        build(ARCH[1], weights=tmp_path / "w.pth", num_classes=0, **{**SMALL, "num_heads": (3, 6, 12, 24)})
