"""JAX's ViTs against a re-statement of their module tree in numpy's spelling: kernels have inputs first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.formats import INCEPTION, recognise
from bench.errors import UserError

Arrays = dict[str, np.ndarray]
SMALL = {"embed_dim": 48, "depth": 3, "patch_size": 8, "img_size": 32}
DIM, HEADS, DEPTH, PATCH, SIDE = 48, 6, 3, 8, 4  # heads unlike timm's vit_tiny


def arrays(style: str) -> Arrays:
    """A random file, as `vit` (vision_transformer, AugReg) or `big_vision` names it."""
    attention, mlp, norm2 = (1, 3, 2) if style == "vit" else (0, 0, 1)
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, DIM),
        "embedding/kernel": (PATCH, PATCH, 3, DIM),
        "embedding/bias": (DIM,),
        ("Transformer/posembed_input/" if style == "vit" else "") + "pos_embedding": (1, 17, DIM),
        "Transformer/encoder_norm/scale": (DIM,),
        "Transformer/encoder_norm/bias": (DIM,),
        "pre_logits/kernel": (DIM, DIM),
        "pre_logits/bias": (DIM,),
        "head/kernel": (DIM, 10),
        "head/bias": (10,),
    }
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}/"
        for norm in (0, norm2):
            shapes |= {f"{block}LayerNorm_{norm}/{kind}": (DIM,) for kind in ("scale", "bias")}
        for part in ("query", "key", "value"):
            name = f"{block}MultiHeadDotProductAttention_{attention}/{part}/"
            shapes |= {f"{name}kernel": (DIM, HEADS, 8), f"{name}bias": (HEADS, 8)}
        name = f"{block}MultiHeadDotProductAttention_{attention}/out/"
        shapes |= {f"{name}kernel": (HEADS, 8, DIM), f"{name}bias": (DIM,)}
        for layer, (wide, out) in enumerate(((DIM, 4 * DIM), (4 * DIM, DIM))):
            name = f"{block}MlpBlock_{mlp}/Dense_{layer}/"
            shapes |= {f"{name}kernel": (wide, out), f"{name}bias": (out,)}
    rng = np.random.default_rng(5)
    return {key: (0.15 * rng.normal(size=shape) + ("scale" in key)).astype(np.float32) for key, shape in shapes.items()}


class Output(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Jax(nn.Module):
    """flax's arithmetic: einsum over a heads axis, GELU by its tanh approximation, eps 1e-6."""

    def __init__(self, file: Arrays, style: str) -> None:
        super().__init__()
        self.file = {key: torch.from_numpy(value) for key, value in file.items()}
        self.vit = style == "vit"
        self.outputs = nn.ModuleList(Output() for _ in range(DEPTH))

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        scale, bias = self.file[f"{name}/scale"], self.file[f"{name}/bias"]
        return (x - mean) / (var + 1e-6).sqrt() * scale + bias

    def attention(self, x: Tensor, name: str) -> Tensor:
        q, k, v = (
            torch.einsum("bnc,chd->bhnd", x, self.file[f"{name}/{part}/kernel"])
            + self.file[f"{name}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        weights = torch.einsum("bhqd,bhkd->bhqk", q / 8**0.5, k).softmax(-1)
        mixed = torch.einsum("bhqk,bhkd->bqhd", weights, v)
        out = torch.einsum("bqhd,hdc->bqc", mixed, self.file[f"{name}/out/kernel"])
        return out + self.file[f"{name}/out/bias"]

    def dense(self, x: Tensor, name: str) -> Tensor:
        return x @ self.file[f"{name}/kernel"] + self.file[f"{name}/bias"]

    def forward(self, images: Tensor) -> Tensor:
        n = len(images)
        squares = images.unflatten(3, (SIDE, PATCH)).unflatten(2, (SIDE, PATCH))
        kernel = self.file["embedding/kernel"]
        x = torch.einsum("bcyhxw,hwco->byxo", squares, kernel) + self.file["embedding/bias"]
        x = torch.cat([self.file["cls"].expand(n, -1, -1), x.flatten(1, 2)], 1)
        where = "Transformer/posembed_input/pos_embedding" if self.vit else "pos_embedding"
        x = x + self.file[where]
        attention, mlp, norm2 = (1, 3, 2) if self.vit else (0, 0, 1)
        for i, output in enumerate(self.outputs):
            block = f"Transformer/encoderblock_{i}"
            name = f"{block}/MultiHeadDotProductAttention_{attention}"
            x = x + self.attention(self.norm(x, f"{block}/LayerNorm_0"), name)
            y = self.dense(self.norm(x, f"{block}/LayerNorm_{norm2}"), f"{block}/MlpBlock_{mlp}/Dense_0")
            y = nn.functional.gelu(y, approximate="tanh")
            x = output(x + self.dense(y, f"{block}/MlpBlock_{mlp}/Dense_1"))
        return self.norm(x, "Transformer/encoder_norm")[:, 0]


@pytest.mark.parametrize("style", ["vit", "big_vision"])
@pytest.mark.parametrize("top", ["", "opt/target/", "params/"])
def test_every_block_gives_what_jax_gives(style: str, top: str, tmp_path: Path, agrees: Any) -> None:
    file = arrays(style)
    np.savez(tmp_path / "Ti_16.npz", **{top + key: value for key, value in file.items()})
    reference = Jax(file, style)
    model, report = agrees(reference, reference.outputs, "vit_tiny_patch16_224", tmp_path / "Ti_16.npz", **SMALL)
    assert model.blocks[0].attn.num_heads == HEADS
    assert report.format == "ViT of JAX"
    assert (report.missing, report.unexpected, report.resampled) == ((), (), ())
    assert {key.removeprefix(top) for key in report.leftover} == {
        "pre_logits/kernel", "pre_logits/bias", "head/kernel", "head/bias",
    }  # fmt: skip


def test_the_file_alone_tells_architecture_and_normalisation() -> None:
    blocks = {
        key.replace("encoderblock_0", f"encoderblock_{i}"): value
        for key, value in arrays("vit").items()
        for i in range(12)
    }
    sizes = {48: 192, 6: 3, 8: 64, 17: 577, 192: 768}
    state = {key: torch.empty([sizes.get(n, n) for n in value.shape], device="meta") for key, value in blocks.items()}
    state["embedding/kernel"] = torch.empty(16, 16, 3, 192, device="meta")
    encoder = recognise(state, lambda _: False)
    assert encoder is not None
    assert (encoder.arch, encoder.method) == ("vit_tiny_patch16_384", "supervised")
    assert encoder.options["num_heads"] == 3
    assert encoder.normalisation == INCEPTION


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel", "blocks.1.attn.qkv"),
        ("Transformer/encoderblock_2/MlpBlock_3/Dense_0/kernel", r"blocks.2.mlp.fc1.weight"),
        ("embedding/kernel", "patch_embed.proj.weight|embedding/kernel"),
        ("Transformer/posembed_input/pos_embedding", "pos_embed"),
    ],
)
def test_a_dropped_key_is_named(key: str, named: str, tmp_path: Path) -> None:
    file = arrays("vit")
    del file[key]
    np.savez(tmp_path / "Ti_16.npz", **file)
    with pytest.raises(UserError, match=named):
        build("vit_tiny_patch16_224", weights=tmp_path / "Ti_16.npz", num_classes=0, **SMALL)


def test_a_truncated_archive_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "Ti_16.npz"
    np.savez(path, **arrays("vit"))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="truncated"):
        build("vit_tiny_patch16_224", weights=path)


def test_an_archive_of_objects_is_refused(tmp_path: Path) -> None:
    """numpy would unpickle them."""
    np.savez(tmp_path / "Ti_16.npz", cls=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        build("vit_tiny_patch16_224", weights=tmp_path / "Ti_16.npz")
