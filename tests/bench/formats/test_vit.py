"""Plain ViTs against a re-statement of the module trees that their authors share."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.backbones import build
from bench.checkpoints import PARTS
from bench.errors import UserError
from bench.formats import IMAGENET, Encoder, recognise

State = dict[str, Tensor]


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """DINOv2's: one matrix gives gate and value, in this order."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, scale: str, mlp: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), mlp(dim)
        if scale == "gamma":
            self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(dim)) for _ in range(2))
        if scale == "ls":
            self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        first = self.ls1 if hasattr(self, "ls1") else lambda y: y * getattr(self, "gamma_1", 1.0)
        second = self.ls2 if hasattr(self, "ls2") else lambda y: y * getattr(self, "gamma_2", 1.0)
        x = x + first(self.attn(self.norm1(x)))
        return x + second(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class ViT(nn.Module):
    """The tree that MAE, MoCo v3, DINO, iBOT, DINOv2, DeiT and DeiT III have in common.

    `positions` is "all" where prefix tokens have one, "patches" where they have none (DeiT III).
    """

    def __init__(
        self,
        *,
        dim: int = 48,
        depth: int = 3,
        heads: int = 3,
        patch: int = 8,
        size: int = 32,
        scale: str = "",
        mlp: type[nn.Module] = Mlp,
        positions: str = "all",
        registers: int = 0,
        distilled: bool = False,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        prefix = (1 + distilled) if positions == "all" else 0
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + (size // patch) ** 2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, scale, mlp) for _ in range(depth))
        norm = "fc_norm" if mean else "norm"
        self.add_module(norm, nn.LayerNorm(dim, eps=1e-6))

    def forward(self, images: Tensor) -> Tensor:
        patches, n = self.patch_embed(images), len(images)
        prefix = [self.cls_token, *([self.dist_token] if hasattr(self, "dist_token") else [])]
        tokens = [token.expand(n, -1, -1) for token in prefix]
        if self.pos_embed.shape[1] == patches.shape[1]:
            x = torch.cat([*tokens, patches + self.pos_embed], 1)
        else:
            x = torch.cat([*tokens, patches], 1) + self.pos_embed
        if hasattr(self, "register_tokens"):  # after the positions, behind the class token
            x = torch.cat([x[:, :1], self.register_tokens.expand(n, -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        if hasattr(self, "fc_norm"):
            return self.fc_norm(x[:, 1:].mean(1))
        x = self.norm(x)
        return (x[:, 0] + x[:, 1]) / 2 if hasattr(self, "dist_token") else x[:, 0]


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def some(*names: str) -> State:
    return {name: torch.randn(3, 2) for name in names}


def as_mae(state: State) -> object:
    decoder = some(
        *(
            "decoder_embed.weight",
            "decoder_blocks.0.norm1.weight",
            "decoder_blocks.0.attn.qkv.weight",
        ),
        *("decoder_norm.weight", "decoder_pred.weight", "mask_token", "decoder_pos_embed"),
    )
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
    args = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3, output_dir=Path("out"))
    return {"model": state | decoder, "optimizer": optimizer, "epoch": 799, "args": args}


def as_finetuned(state: State) -> object:
    return {"model": state | some("head.weight", "head.bias"), "epoch": 99}


def as_mocov3(state: State) -> object:
    mlps = some("head.0.weight", "head.1.running_mean", "head.1.num_batches_tracked")
    towers = under("base_encoder.", state | mlps) | under(
        "momentum_encoder.", {k: torch.zeros_like(v) for k, v in (state | mlps).items()}
    )
    return {
        "epoch": 300,
        "arch": "vit_small",
        "state_dict": under("module.", towers | some("predictor.0.weight")),
        "optimizer": {"state": {}, "param_groups": [{"momentum": 0.9}]},
    }


def as_mocov3_linear(state: State) -> object:
    content = state | some("head.weight", "head.bias")
    return {"arch": "vit_small", "state_dict": under("module.", content), "best_acc1": 73.2}


DINO_HEAD = ("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")


def as_dino(state: State) -> object:
    teacher = under("backbone.", state) | some(*DINO_HEAD)
    student = under("module.", {k: torch.zeros_like(v) for k, v in teacher.items()})
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": some("center"),
    }


def as_ibot(state: State) -> object:
    heads = some(*DINO_HEAD, "head.last_layer2.weight_g", "head.last_layer2.weight_v")
    student = under("module.backbone.", state | some("masked_embed"))
    teacher = under("backbone.", state) | heads
    return {"student": student, "teacher": teacher, "ibot_loss": some("center", "center2")}


def as_ibot_student(state: State) -> object:
    student = under("module.backbone.", state | some("masked_embed"))
    return {"student": student | under("module.", some(*DINO_HEAD)), "epoch": 1}


def as_dinov2(state: State) -> object:
    return state | {"mask_token": torch.randn(1, 48)}


def as_dinov2_training(state: State) -> object:
    chunked = {
        f"blocks.{int(key.split('.')[1]) // 2}.{key.removeprefix('blocks.')}"
        if key.startswith("blocks.")
        else key: value
        for key, value in state.items()
    }
    heads = some(
        "dino_head.mlp.0.weight", "dino_head.last_layer.weight_g", "ibot_head.mlp.0.weight"
    )
    return {"teacher": under("backbone.", chunked | {"mask_token": torch.randn(1, 48)}) | heads}


def as_deit_distilled(state: State) -> object:
    return {"model": state | some("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")}


def as_lightning(state: State) -> object:
    return {
        "state_dict": under("model.", state) | some("criterion.weight"),
        "hyper_parameters": {"lr": 1.0},
        "global_step": np.float64(3),
    }


def as_compiled(state: State) -> object:
    return {"state_dict": under("module._orig_mod.", state), "epoch": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of file: how its authors save it, and what recognising it should tell.

    `full` is the size of a published one, `found` the architecture it should be recognised as.
    """

    wrap: Callable[[State], object]
    name: str
    method: str | None
    arch: str = "vit_tiny_patch16_224"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    full: dict[str, Any]
    found: str
    leftover: int

    def state(self, model: nn.Module) -> State:
        return {k: v.clone() for k, v in model.state_dict().items()}


B16 = {"dim": 768, "depth": 12, "patch": 16, "size": 224}
CASES = {
    "mae": Case(
        wrap=as_mae, name="MAE, pretraining", method="mae", leftover=7,
        full={"dim": 1280, "depth": 32, "patch": 14, "size": 224}, found="vit_huge_patch14_224",
    ),
    "mae finetuned": Case(
        wrap=as_finetuned, name="ViT", method=None, leftover=2, model={"mean": True},
        full=B16, found="vit_base_patch16_224",
    ),
    "dino": Case(
        wrap=as_dino, name="DINO", method="dino", leftover=3,
        full={**B16, "patch": 8}, found="vit_base_patch8_224",
    ),
    "dino's backbone": Case(
        wrap=lambda state: state, name="ViT", method=None, leftover=0,
        full={**B16, "patch": 8}, found="vit_base_patch8_224",
    ),
    "ibot": Case(
        wrap=as_ibot, name="iBOT", method="ibot", leftover=5,
        full={**B16, "dim": 1024, "depth": 24}, found="vit_large_patch16_224",
    ),
    "ibot's student": Case(
        wrap=as_ibot_student, name="iBOT, backbone", method="ibot", leftover=4,
        full=B16, found="vit_base_patch16_224",
    ),
    "dinov2": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_base_patch14_dinov2", model={"scale": "ls"},
        full={**B16, "patch": 14, "size": 518}, found="vit_base_patch14_dinov2",
    ),
    "dinov2, registers": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_small_patch14_reg4_dinov2", model={"scale": "ls", "registers": 4},
        full={**B16, "dim": 1024, "depth": 24, "patch": 14, "size": 518},
        found="vit_large_patch14_reg4_dinov2",
    ),
    "dinov2, SwiGLU": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        arch="vit_giant_patch14_dinov2", model={"scale": "ls", "mlp": SwiGLU},
        full={"dim": 1536, "depth": 40, "patch": 14, "size": 518}, found="vit_giant_patch14_dinov2",
    ),
    "dinov2, registers and SwiGLU into a plain name": Case(
        wrap=as_dinov2, name="DINOv2", method="dinov2", leftover=1,
        model={"scale": "ls", "mlp": SwiGLU, "registers": 4},
        full={"dim": 1536, "depth": 40, "patch": 14, "size": 518},
        found="vit_giant_patch14_reg4_dinov2",
    ),
    "dinov2, training": Case(
        wrap=as_dinov2_training, name="DINOv2", method="dinov2", leftover=4,
        arch="vit_base_patch14_dinov2", model={"scale": "ls"},
        full=B16, found="vit_base_patch16_224",
    ),
    "deit": Case(
        wrap=as_finetuned, name="ViT", method=None, leftover=2, arch="deit_tiny_patch16_224",
        full={**B16, "size": 384}, found="vit_base_patch16_384",
    ),
    "deit, distilled": Case(
        wrap=as_deit_distilled, name="DeiT, distilled", method="deit", leftover=4,
        arch="deit_tiny_distilled_patch16_224", model={"distilled": True},
        full={**B16, "dim": 192, "distilled": True}, found="deit_tiny_distilled_patch16_224",
    ),
    "deit3": Case(
        wrap=as_finetuned, name="DeiT III", method="deit3", leftover=2,
        arch="deit3_small_patch16_224", model={"scale": "gamma", "positions": "patches"},
        full={**B16, "size": 384}, found="deit3_base_patch16_384",
    ),
    "lightning": Case(
        wrap=as_lightning, name="ViT", method=None, leftover=1,
        full=B16, found="vit_base_patch16_224",
    ),
    "compiled": Case(
        wrap=as_compiled, name="ViT", method=None, leftover=0,
        full=B16, found="vit_base_patch16_224",
    ),
}  # fmt: skip
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_block_gives_what_the_authors_code_gives(
    case: Case, tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    reference = disturb(ViT(**case.model))
    path = tmp_path / "checkpoint.pth"
    torch.save(case.wrap(case.state(reference)), path)
    _, report = agrees(reference, reference.blocks, case.arch, path, **SMALL)
    assert report.format == case.name
    assert report.matched == len(reference.state_dict())
    assert (report.missing, report.unexpected, report.resampled) == ((), (), ())
    assert len(report.leftover) == case.leftover


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_file_alone_tells_what_it_is(case: Case) -> None:
    with torch.device("meta"):
        content = case.wrap(case.state(ViT(**{**case.model, **case.full})))
    assert isinstance(content, dict)
    part = next((p for p in PARTS if p in content), None)
    encoder = recognise(content[part] if part else content, lambda _: False)
    assert encoder is not None
    assert (encoder.format, encoder.method, encoder.arch) == (case.name, case.method, case.found)
    assert encoder.normalisation == (IMAGENET if case.method else None)


def sines(rows: int, dim: int) -> Tensor:
    """MoCo v3's position embedding, by its definition: row and column, sine and cosine."""
    table = np.zeros((rows, rows, dim))
    for i, j, k in np.ndindex(rows, rows, dim // 4):
        by_row, by_column = i / 10000 ** (k / (dim // 4)), j / 10000 ** (k / (dim // 4))
        table[i, j, k :: dim // 4] = (
            np.sin(by_row),
            np.cos(by_row),
            np.sin(by_column),
            np.cos(by_column),
        )
    flat = torch.from_numpy(table.reshape(1, rows * rows, dim)).float()
    return torch.cat([torch.zeros(1, 1, dim), flat], 1)


@pytest.mark.parametrize("wrap", [as_mocov3, as_mocov3_linear])
def test_moco_v3_small_has_twelve_heads(
    wrap: Callable[[State], object], tmp_path: Path, disturb: Any, agrees: Any
) -> None:
    """Nothing in the weights' shapes tells them from timm's vit_small, which has 6."""
    reference = disturb(ViT(dim=384, heads=12, depth=2))
    reference.pos_embed.data = sines(4, 384)
    path = tmp_path / "vit-s-300ep.pth.tar"
    torch.save(wrap(reference.state_dict()), path)
    small = {"depth": 2, "patch_size": 8, "img_size": 32}
    model, report = agrees(reference, reference.blocks, "vit_small_patch16_224", path, **small)
    assert model.blocks[0].attn.num_heads == 12
    assert not report.missing
    assert not report.unexpected
    torch.save({"model": disturb(reference).state_dict()}, path)  # learnt positions: not MoCo v3's
    model, _ = build("vit_small_patch16_224", weights=path, **small)
    assert model.blocks[0].attn.num_heads == 6


def test_fixed_positions_tell_mae_from_moco_v3() -> None:
    """Both give out encoders alone, under the same names; MoCo v3's sines begin with the row."""
    state = ViT(dim=384, heads=6, depth=12).state_dict()
    assert recognised(state).format == "ViT"
    moco = recognised(state | {"pos_embed": sines(4, 384)})
    assert (moco.method, moco.options) == ("mocov3", {"num_heads": 12})
    swapped = sines(4, 384)[:, 1:].reshape(1, 4, 4, 384).transpose(1, 2).reshape(1, 16, 384)
    mae = recognised(state | {"pos_embed": torch.cat([torch.zeros(1, 1, 384), swapped], 1)})
    assert (mae.format, mae.method, mae.options) == ("MAE, encoder", "mae", {})
    assert mae.normalisation == moco.normalisation == IMAGENET


def recognised(state: State) -> Encoder:
    encoder = recognise(state, lambda _: False)
    assert encoder is not None
    return encoder


def test_student_and_teacher_are_told_apart(tmp_path: Path, disturb: Any, agrees: Any) -> None:
    teacher, student = disturb(ViT()), ViT()
    content = as_dino(teacher.state_dict())
    assert isinstance(content, dict)
    content["student"] = under("module.backbone.", student.state_dict()) | under(
        "module.", some(*DINO_HEAD)
    )
    torch.save(content, tmp_path / "checkpoint.pth")
    for part, reference in (("teacher", teacher), ("student", student), (None, teacher)):
        agrees(
            reference, reference.blocks, "vit_tiny_patch16_224", tmp_path / "checkpoint.pth",
            part=part, **SMALL,
        )  # fmt: skip


@pytest.mark.parametrize("case", ["mae", "dinov2, registers", "deit, distilled", "deit3"])
@pytest.mark.parametrize("damage", ["dropped", "renamed", "transposed", "cut"])
def test_any_damaged_key_is_named(case: str, damage: str, tmp_path: Path, disturb: Any) -> None:
    kind = CASES[case]
    reference = disturb(ViT(**kind.model))
    path = tmp_path / "checkpoint.pth"
    for key in ("cls_token", "pos_embed", "blocks.1.attn.qkv.weight", "blocks.2.norm1.bias"):
        state = kind.state(reference)
        tensor = state.pop(key)
        if damage == "renamed":
            state[f"{key}_x"] = tensor
        elif damage == "transposed":
            state[key] = tensor.mT if tensor.ndim > 1 else tensor[:, None]
        elif damage == "cut":
            state[key] = tensor[..., :-1]
        torch.save(kind.wrap(state), path)
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            build(kind.arch, weights=path, num_classes=0, **SMALL)
