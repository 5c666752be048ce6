"""ViTs against transformers itself, which writes the files."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.formats import IMAGENET, INCEPTION, recognise
from bench.errors import UserError

SIZES = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
WIDE = {**SIZES, "intermediate_size": 192}
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32}
DECODER = {
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32,
}  # fmt: skip


def class_token(output: Any) -> Tensor:
    return output.last_hidden_state[:, 0]


def both_tokens(output: Any) -> Tensor:
    return output.last_hidden_state[:, :2].mean(1)


def pooled(output: Any) -> Tensor:
    return output.pooler_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model of transformers, and what its file should tell.

    `encoder` names the part of the model that gives features, `take` what of them timm gives in the end.
    """

    model: Callable[[], Any]
    encoder: str = ""
    take: Callable[[Any], Tensor] = class_token
    arch: str = "vit_base_patch16_224"
    name: str
    method: str | None = None
    normalisation: Any = None
    leftover: int = 0


def of(model: str, config: str, **sizes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**sizes))


CASES = {
    "ViTModel": Case(
        model=of("ViTModel", "ViTConfig", **WIDE), name="Hugging Face ViT", leftover=2,
    ),
    "ViTForImageClassification": Case(
        model=of("ViTForImageClassification", "ViTConfig", **WIDE), encoder="vit",
        name="Hugging Face ViT", leftover=2,
    ),
    "ViTForMaskedImageModeling": Case(
        model=of("ViTForMaskedImageModeling", "ViTConfig", **WIDE, encoder_stride=8), encoder="vit",
        name="Hugging Face ViT", leftover=3,
    ),
    "ViTMAEModel": Case(
        model=of("ViTMAEModel", "ViTMAEConfig", **WIDE, mask_ratio=0.0), name="Hugging Face ViT",
    ),
    "ViTMAEForPreTraining": Case(
        model=of("ViTMAEForPreTraining", "ViTMAEConfig", **WIDE, **DECODER, mask_ratio=0.0),
        encoder="vit", name="Hugging Face ViTMAE, pretraining", method="mae",
        normalisation=IMAGENET, leftover=24,
    ),
    "DeiTModel": Case(
        model=of("DeiTModel", "DeiTConfig", **WIDE), take=both_tokens,
        arch="deit_base_distilled_patch16_224", name="Hugging Face DeiT, distilled", method="deit",
        normalisation=IMAGENET, leftover=2,
    ),
    "DeiTForImageClassificationWithTeacher": Case(
        model=of("DeiTForImageClassificationWithTeacher", "DeiTConfig", **WIDE), encoder="deit",
        take=both_tokens, arch="deit_base_distilled_patch16_224",
        name="Hugging Face DeiT, distilled", method="deit", normalisation=IMAGENET, leftover=4,
    ),
    "Dinov2Model": Case(
        model=of("Dinov2Model", "Dinov2Config", **SIZES), arch="vit_base_patch14_dinov2",
        name="Hugging Face DINOv2", method="dinov2", normalisation=IMAGENET, leftover=1,
    ),
    "Dinov2Model, SwiGLU": Case(
        model=of("Dinov2Model", "Dinov2Config", **SIZES, use_swiglu_ffn=True),
        arch="vit_giant_patch14_dinov2", name="Hugging Face DINOv2", method="dinov2",
        normalisation=IMAGENET, leftover=1,
    ),
    "Dinov2ForImageClassification": Case(
        model=of("Dinov2ForImageClassification", "Dinov2Config", **SIZES), encoder="dinov2",
        arch="vit_base_patch14_dinov2", name="Hugging Face DINOv2", method="dinov2",
        normalisation=IMAGENET, leftover=3,
    ),
    "Dinov2WithRegistersModel": Case(
        model=of("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **SIZES),
        arch="vit_base_patch14_reg4_dinov2", name="Hugging Face DINOv2", method="dinov2",
        normalisation=IMAGENET, leftover=1,
    ),
    "BeitModel": Case(
        model=of("BeitModel", "BeitConfig", **WIDE, use_relative_position_bias=True), take=pooled,
        arch="beit_base_patch16_224", name="Hugging Face BEiT", method="beit",
        normalisation=INCEPTION,
    ),
    "BeitForImageClassification": Case(
        model=of("BeitForImageClassification", "BeitConfig", **WIDE, use_relative_position_bias=True),
        encoder="beit", take=pooled, arch="beit_base_patch16_224", name="Hugging Face BEiT",
        method="beit", normalisation=INCEPTION, leftover=2,
    ),
}  # fmt: skip


class Encoder(nn.Module):
    """The features of a model of transformers, without masking and its shuffle."""

    def __init__(self, model: Any, case: Case) -> None:
        super().__init__()
        self.model = model.get_submodule(case.encoder)
        self.take = case.take
        self.shuffles = "ViTMAE" in type(self.model).__name__

    def forward(self, images: Tensor) -> Tensor:
        noise = {"noise": torch.arange(16.0).expand(len(images), -1)} if self.shuffles else {}
        return self.take(self.model(images, **noise))

    def blocks(self) -> nn.ModuleList:
        return next(m for m in self.model.modules() if isinstance(m, nn.ModuleList))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "state_dict.pth"])
def test_every_block_gives_what_transformers_gives(
    case: Case, file: str, tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    model = disturb(case.model())
    path = write(model, tmp_path, file)
    reference = Encoder(model, case)
    _, report = agrees(reference, reference.blocks(), case.arch, path, **SMALL)
    assert report.format == case.name
    assert (report.missing, report.unexpected, report.resampled) == ((), (), ())
    assert len(report.leftover) == case.leftover


def write(model: Any, folder: Path, file: str) -> Path:
    """As the hub has it, as it had it before safetensors, and as version 5 calls its modules."""
    model.save_pretrained(folder)
    if file == "pytorch_model.bin":
        torch.save(load_file(folder / "model.safetensors"), folder / file)
    if file == "state_dict.pth":
        torch.save(model.state_dict(), folder / file)
    return folder / file


def test_beit_s_pretraining_keeps_its_norm_outside(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    sizes = {**WIDE, "vocab_size": 32, "use_mask_token": True}
    bias = {"use_shared_relative_position_bias": True}
    model = disturb(of("BeitForMaskedImageModeling", "BeitConfig", **sizes, **bias)())

    class Normalised(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model.layernorm(model.beit(images).last_hidden_state)[:, 0]

    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    for file in ("model.safetensors", "state_dict.pth"):
        path = write(model, tmp_path, file)
        _, report = agrees(Normalised(), blocks, "beit_base_patch16_224", path, **SMALL)
        assert report.format == "Hugging Face BEiT, pretraining"
        assert len(report.leftover) == 3
        assert (report.missing, report.unexpected) == ((), ())


FULL = {
    "vit_large_patch16_384": of(
        "ViTModel", "ViTConfig",
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=384,
    ),
    "vit_base_patch16_224": of("ViTMAEForPreTraining", "ViTMAEConfig"),
    "deit_base_distilled_patch16_224": of("DeiTModel", "DeiTConfig"),
    "vit_giant_patch14_dinov2": of(
        "Dinov2Model", "Dinov2Config", use_swiglu_ffn=True, patch_size=14, image_size=518,
        hidden_size=1536, num_hidden_layers=40, num_attention_heads=24,
    ),
    "vit_base_patch14_reg4_dinov2": of(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", patch_size=14, image_size=518
    ),
    "beit_base_patch16_224": of("BeitModel", "BeitConfig", use_relative_position_bias=True),
}  # fmt: skip


@pytest.mark.parametrize("arch", FULL)
def test_the_architecture_is_told_by_shapes(arch: str) -> None:
    with torch.device("meta"):
        encoder = recognise(FULL[arch]().state_dict(), lambda _: False)
    assert encoder is not None
    assert encoder.arch == arch


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_file_alone_tells_its_pretraining(case: Case) -> None:
    encoder = recognise(case.model().state_dict(), lambda _: False)
    assert encoder is not None
    assert (encoder.method, encoder.normalisation) == (case.method, case.normalisation)


@pytest.mark.parametrize("damage", ["dropped", "renamed", "cut"])
@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("encoder.layer.1.attention.attention.value.weight", r"blocks\.1\.attn\.qkv\.weight"),
        ("encoder.layer.2.attention.attention.key.bias", r"blocks\.2\.attn\.qkv\.bias"),
        ("encoder.layer.0.layernorm_after.weight", r"blocks\.0\.norm2\.weight"),
        ("embeddings.position_embeddings", "pos_embed"),
    ],
)
def test_a_damaged_key_is_named(key: str, named: str, damage: str, tmp_path: Path) -> None:
    """By the file's name where only it is of a wrong shape, else by timm's, which is missing."""
    write(CASES["ViTModel"].model(), tmp_path, "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    tensor = state.pop(key)
    if damage == "renamed":
        state[f"{key}_x"] = tensor
    elif damage == "cut":
        state[key] = tensor[..., :-1].clone()
    torch.save(state, tmp_path / "cut.bin")
    with pytest.raises(UserError, match=f"{named}|{re.escape(key)}"):
        build("vit_base_patch16_224", weights=tmp_path / "cut.bin", num_classes=0, **SMALL)
