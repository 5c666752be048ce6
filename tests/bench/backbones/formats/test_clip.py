"""CLIP's vision tower: transformers itself, a re-statement of OpenAI's module tree, timm in open_clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.formats import CLIP, Encoder, recognise
from bench.errors import UserError

State = dict[str, Tensor]
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32}
SIZES = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
ARCHS = {"quick_gelu": "vit_base_patch16_clip_quickgelu_224", "gelu": "vit_base_patch16_clip_224"}


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, act: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(dim, 4 * dim))
        self.mlp.add_module("act", act)
        self.mlp.add_module("c_proj", nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:  # tokens come first, as OpenAI has them
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tokens(nn.Module):
    """A block with batches first, for comparison; without parameters of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


class Tower(nn.Module):
    def __init__(
        self, dim: int = 48, heads: int = 3, depth: int = 3, patch: int = 8, size: int = 32,
        act: type[nn.Module] = QuickGELU,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.positional_embedding = nn.Parameter(torch.zeros((size // patch) ** 2 + 1, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(dim, heads, act()) for _ in range(depth))
        self.proj = nn.Parameter(torch.zeros(dim, 16))
        self.outputs = nn.ModuleList(Tokens() for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.class_embedding.expand(1, x.shape[1], -1), x])
        x = self.ln_pre(x + self.positional_embedding[:, None])
        for block, output in zip(self.transformer.resblocks, self.outputs, strict=True):
            x = block(x)
            output(x)
        return self.ln_post(x[0])  # timm has no projection


def beside() -> State:
    """The text tower's, and what both share."""
    names = (
        *("transformer.resblocks.0.attn.in_proj_weight", "transformer.resblocks.0.ln_1.weight"),
        *("token_embedding.weight", "positional_embedding", "ln_final.weight"),
        *("text_projection", "logit_scale"),
    )
    return {name: torch.randn(3, 2) for name in names}


def as_openai(state: State) -> object:
    tower = {f"visual.{k}": v.half() if "ln_" not in k else v for k, v in state.items()}
    sizes = {k: torch.tensor(n) for k, n in
             (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408))}  # fmt: skip
    return tower | beside() | sizes


def as_open_clip(state: State) -> object:
    full = {f"visual.{k}": v for k, v in state.items()} | beside()
    return {"epoch": 32, "name": "run", "state_dict": {f"module.{k}": v for k, v in full.items()}}


def recognised(state: State) -> Encoder:
    encoder = recognise(state, lambda _: False)
    assert encoder is not None
    assert (encoder.method, encoder.normalisation) == ("clip", CLIP)
    return encoder


@pytest.mark.parametrize("arch", [*ARCHS.values(), "vit_base_patch16_224"])
def test_openai_s_own_file_has_quick_gelu_under_any_name(arch: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    reference = disturb(Tower()).half().float()  # at the numbers that the file holds
    torch.save(as_openai(reference.state_dict()), tmp_path / "ViT-B-16.pt")
    _, report = agrees(reference, reference.outputs, arch, tmp_path / "ViT-B-16.pt", **SMALL)
    assert report.format == "CLIP, OpenAI"
    assert report.cast["float16"] > 0
    assert len(report.leftover) == 11
    assert (report.missing, report.unexpected) == ((), ())
    with torch.device("meta"):
        full = as_openai(Tower(1024, 16, 24, 14, 336).state_dict())
    assert isinstance(full, dict)
    assert recognised(full).arch == "vit_large_patch14_clip_quickgelu_336"


@pytest.mark.parametrize(("act", "kind"), [(QuickGELU, "quick_gelu"), (nn.GELU, "gelu")])
def test_without_openai_s_sizes_the_name_tells_the_activation(
    act: type[nn.Module], kind: str, tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    reference = disturb(Tower(act=act))
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(as_open_clip(reference.state_dict()), path)
    _, report = agrees(reference, reference.outputs, ARCHS[kind], path, **SMALL)
    assert report.format == "CLIP"
    assert len(report.leftover) == 8
    assert recognised(reference.state_dict()).arch is None
    with pytest.raises(UserError, match=r"norm_pre\.weight|ln_pre\.weight"):
        build("vit_base_patch16_224", weights=path, num_classes=0, **SMALL)


def vision_only(act: str) -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES, hidden_act=act))


def projected(act: str) -> Any:
    config = transformers.CLIPVisionConfig(**SIZES, hidden_act=act)
    return transformers.CLIPVisionModelWithProjection(config)


def both_towers(act: str) -> Any:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
            "intermediate_size": 16, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
    config = transformers.CLIPConfig(vision_config={**SIZES, "hidden_act": act}, text_config=text)
    return transformers.CLIPModel(config)


@pytest.mark.parametrize("model", [vision_only, projected, both_towers])
@pytest.mark.parametrize("act", ARCHS)
@pytest.mark.parametrize("file", ["model.safetensors", "state_dict.pth"])
def test_transformers(
    model: Callable[[str], Any], act: str, file: str, tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    source = disturb(model(act))
    source.save_pretrained(tmp_path)
    torch.save(source.state_dict(), tmp_path / "state_dict.pth")
    tower = getattr(source, "vision_model", source)

    class Pooled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return tower(images).pooler_output

    blocks = next(m for m in tower.modules() if isinstance(m, nn.ModuleList))
    _, report = agrees(Pooled(), blocks, ARCHS[act], tmp_path / file, **SMALL)
    assert report.format == "Hugging Face CLIP"
    assert (report.missing, report.unexpected) == ((), ())


def test_timm_in_open_clip(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    trunk = disturb(timm.create_model("vit_base_patch16_clip_224", num_classes=0, **SMALL))
    state = {f"visual.trunk.{k}": v for k, v in trunk.state_dict().items()}
    text = {f"text.{k}": v for k, v in beside().items() if k != "logit_scale"}
    heads = {"visual.head.proj.weight": torch.randn(2, 48), "logit_scale": torch.tensor(1.0)}
    torch.save(state | text | heads, tmp_path / "open_clip_pytorch_model.bin")
    _, report = agrees(
        trunk, trunk.blocks, "vit_base_patch16_clip_224", tmp_path / "open_clip_pytorch_model.bin",
        **SMALL,
    )  # fmt: skip
    assert report.format == "timm"
    assert len(report.leftover) == len(text) + len(heads)


def test_openai_s_torchscript_archive_is_refused(tmp_path: Path) -> None:
    """A program, not tensors: reading it would run it."""
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(UserError, match=r"TorchScript program.*model\.state_dict\(\)"):
        build("vit_base_patch32_clip_quickgelu_224", weights=tmp_path / "ViT-B-32.pt")
