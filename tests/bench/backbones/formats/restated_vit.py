"""The module tree that the authors of plain ViTs share, restated, and how each of them saves it."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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
        *("decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_blocks.0.attn.qkv.weight"),
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
    heads = some("dino_head.mlp.0.weight", "dino_head.last_layer.weight_g", "ibot_head.mlp.0.weight")
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
