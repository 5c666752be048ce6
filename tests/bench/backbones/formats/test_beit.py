"""BEiT and SimMIM's ViT against a re-statement of the module tree that both have."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.backbones.build import build
from bench.backbones.formats import IMAGENET, INCEPTION, recognise
from bench.errors import UserError

State = dict[str, Tensor]
SMALL = {"embed_dim": 48, "depth": 3, "patch_size": 8, "img_size": 32, "num_heads": 3}


class Bias(nn.Module):
    """A number per head for each offset between two patches, and three for the class token."""

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        rows = (2 * side - 1) ** 2 + 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        self.register_buffer("relative_position_index", positions(side))

    def forward(self) -> Tensor:
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def positions(side: int) -> Tensor:
    last = (2 * side - 1) ** 2 + 2
    index = torch.empty(side**2 + 1, side**2 + 1, dtype=torch.long)
    index[0], index[:, 0] = last - 2, last - 1
    index[0, 0] = last
    for query in range(side**2):
        for key in range(side**2):
            down = query // side - key // side + side - 1
            right = query % side - key % side + side - 1
            index[1 + query, 1 + key] = down * (2 * side - 1) + right
    return index


class Attention(Bias):
    def __init__(self, dim: int, heads: int, side: int, own_bias: bool) -> None:
        if own_bias:
            super().__init__(side, heads)
        else:
            nn.Module.__init__(self)
        self.heads, self.own_bias = heads, own_bias
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        heads = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in
                 (query + self.q_bias, key, value + self.v_bias)]  # fmt: skip
        scores = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
        scores = scores + (super().forward() if self.own_bias else shared)
        return self.proj((scores.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, own_bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads, side, own_bias), Mlp(dim)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), shared)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)


class Beit(nn.Module):
    def __init__(
        self, *, dim: int = 48, depth: int = 3, heads: int = 3, patch: int = 8, size: int = 32,
        shared: bool = False, mean: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        side = size // patch
        self.patch_embed = Patches(dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.rel_pos_bias = Bias(side, heads) if shared else None
        self.blocks = nn.ModuleList(Block(dim, heads, side, not shared) for _ in range(depth))
        self.add_module("fc_norm" if mean else "norm", nn.LayerNorm(dim, eps=1e-6))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed.proj(images).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        shared = self.rel_pos_bias() if self.rel_pos_bias else None
        for block in self.blocks:
            x = block(x, shared)
        return self.fc_norm(x[:, 1:].mean(1)) if hasattr(self, "fc_norm") else self.norm(x)[:, 0]


def some(*names: str) -> State:
    return {name: torch.randn(3, 2) for name in names}


def as_beit(state: State) -> object:
    beside = some("mask_token", "lm_head.weight", "lm_head.bias")
    args = argparse.Namespace(model="beit_base_patch16_224_8k_vocab", drop_path=0.1)
    return {"model": state | beside, "optimizer": {"state": {}, "param_groups": []}, "args": args}


def as_beit_v2(state: State) -> object:
    layers = {f"cls_pt_layers.0.{k.removeprefix('blocks.0.')}": torch.randn(v.shape)
              for k, v in state.items() if k.startswith("blocks.0.")}  # fmt: skip
    return {"model": state | layers | some("mask_token", "lm_head.weight", "lm_head.bias")}


def as_simmim(state: State) -> object:
    encoder = {f"encoder.{k}": v for k, v in (state | some("mask_token")).items()}
    beside = some("decoder.0.weight", "decoder.0.bias")
    return {"model": encoder | beside, "epoch": 799, "max_accuracy": 0.0, "lr_scheduler": {"t": 1}}


def as_finetuned(state: State) -> object:
    return {"module": state | some("head.weight", "head.bias")}


PRETRAINED = {
    "BEiT": (as_beit, "BEiT, pretraining", "beit", INCEPTION, "beit_large_patch16_224", 4),
    "BEiT v2": (as_beit_v2, "BEiT v2, pretraining", "beitv2", IMAGENET, "beitv2_large_patch16_224", 19),
    "SimMIM": (as_simmim, "SimMIM, ViT pretraining", "simmim", IMAGENET, "beit_large_patch16_224", 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", PRETRAINED)
def test_pretraining_with_one_table_for_all_blocks(kind: str, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    wrap, name, method, normalisation, found, leftover = PRETRAINED[kind]
    reference = disturb(Beit(shared=True))
    torch.save(wrap(reference.state_dict()), tmp_path / "beit.pth")
    _, report = agrees(reference, reference.blocks, "beit_base_patch16_224", tmp_path / "beit.pth", **SMALL)
    assert (report.format, report.missing, report.unexpected) == (name, (), ())
    assert len(report.leftover) == leftover  # mask token, head or decoder, position index

    with torch.device("meta"):
        content = wrap(full(shared=True))
    assert isinstance(content, dict)
    encoder = recognise(content["model"], lambda _: False)
    assert encoder is not None
    assert (encoder.format, encoder.method, encoder.arch) == (name, method, found)
    assert encoder.normalisation == normalisation


def full(**how: Any) -> State:
    """Shapes of BEiT-L."""
    state = Beit(depth=2, dim=64, heads=16, patch=16, size=224, **how).state_dict()
    table = "relative_position_bias_table"
    wide = {k: v if table in k else torch.empty([1024 if n == 64 else n for n in v.shape])
            for k, v in state.items()}  # fmt: skip
    more = {k.replace("blocks.0.", f"blocks.{i}."): v for k, v in wide.items() for i in range(24)
            if k.startswith("blocks.0.")}  # fmt: skip
    return wide | more


@pytest.mark.parametrize("mean", [True, False])
def test_finetuned_with_a_table_for_each_block(mean: bool, tmp_path: Path, disturb: Any, agrees: Any) -> None:
    reference = disturb(Beit(mean=mean))
    torch.save(as_finetuned(reference.state_dict()), tmp_path / "beit.pth")
    _, report = agrees(reference, reference.blocks, "beit_base_patch16_224", tmp_path / "beit.pth", **SMALL)
    assert report.format == "BEiT or SimMIM, fine-tuned ViT"
    assert (report.missing, report.unexpected) == ((), ())
    encoder = recognise(full(mean=mean), lambda _: False)
    assert encoder is not None
    assert (encoder.arch, encoder.normalisation) == ("beit_large_patch16_224", None)


DAMAGED = {
    "pretrained": ("rel_pos_bias.relative_position_bias_table", "blocks.1.attn.q_bias"),
    "finetuned": ("blocks.2.attn.relative_position_bias_table", "blocks.0.gamma_1", "cls_token"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("damage", ["dropped", "renamed", "cut"])
def test_a_damaged_key_is_named(kind: str, damage: str, tmp_path: Path, disturb: Any) -> None:
    """Above all a lost table: BEiT without one would run, blind to positions."""
    whole = disturb(Beit(shared=kind == "pretrained")).state_dict()
    for key in DAMAGED[kind]:
        state = dict(whole)
        tensor = state.pop(key)
        if damage == "renamed":
            state[f"{key}_x"] = tensor
        elif damage == "cut":
            state[key] = tensor[..., :-1]
        content = as_beit(state) if kind == "pretrained" else as_finetuned(state)
        torch.save(content, tmp_path / "beit.pth")
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            build("beit_base_patch16_224", weights=tmp_path / "beit.pth", num_classes=0, **SMALL)
