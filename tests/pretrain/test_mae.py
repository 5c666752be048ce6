"""MAE against an independent statement of it, loss and gradients."""

import math
from collections.abc import Mapping

import pytest
import torch
from small_methods import eight, small, total
from torch import Tensor
from torch.nn import functional as F

from pretrain.data import Batch

# MAE, stated from its equations: nothing below uses the modules, only their weights.


def layer_norm(x: Tensor, p: Mapping[str, Tensor], name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean) ** 2).mean(-1, keepdim=True).add(1e-6) ** 0.5
    return (x - mean) / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(x: Tensor, p: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def transformer(x: Tensor, p: Mapping[str, Tensor], name: str, depth: int, heads: int) -> Tensor:
    for i in range(depth):
        block = f"{name}.{i}"
        normed = linear(layer_norm(x, p, f"{block}.norm1"), p, f"{block}.attn.qkv")
        n, length, _ = normed.shape
        q, k, v = normed.view(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(n, length, -1)
        x = x + linear(mixed, p, f"{block}.attn.proj")
        inner = linear(layer_norm(x, p, f"{block}.norm2"), p, f"{block}.mlp.fc1")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + linear(inner, p, f"{block}.mlp.fc2")
    return x


def positions(rows: int, columns: int, dim: int) -> Tensor:
    table = torch.zeros(rows * columns, dim, dtype=torch.float64)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        for i in range(dim // 4):
            rate = 10000 ** (-4 * i / dim)
            for quarter, angle in enumerate((column, column, row, row)):
                value = math.cos(angle * rate) if quarter % 2 else math.sin(angle * rate)
                table[index, quarter * dim // 4 + i] = value
    return table


def mae_loss(p: Mapping[str, Tensor], images: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Loss of MAE on 64 x 64 images in patches of 16, for bool masks [N, 16]."""
    patches = F.unfold(images, 16, stride=16).transpose(1, 2)
    weight = p["encoder.patch_embed.proj.weight"]
    tokens = patches @ weight.reshape(len(weight), -1).T + p["encoder.patch_embed.proj.bias"]
    tokens = tokens + positions(4, 4, len(weight))
    visible = torch.stack([t[~m] for t, m in zip(tokens, mask, strict=True)])
    x = torch.cat([p["encoder.cls_token"].expand(len(images), -1, -1), visible], 1)
    x = layer_norm(transformer(x, p, "encoder.blocks", 6, heads), p, "encoder.norm")

    decoder = "embedding.decoder"
    x = linear(x, p, f"{decoder}.embed")
    full = []
    for latent, hidden in zip(x, mask, strict=True):
        seen = iter(latent[1:])
        rows = [p[f"{decoder}.mask_token"][0, 0] if h else next(seen) for h in hidden]
        full.append(torch.cat([latent[:1], torch.stack(rows) + positions(4, 4, 64)]))
    y = transformer(torch.stack(full), p, f"{decoder}.blocks", 1, 4)
    said = linear(layer_norm(y, p, f"{decoder}.norm")[:, 1:], p, "embedding.head")

    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    target = (patches - mean) / (variance + 1e-6) ** 0.5
    each = ((said - target) ** 2).mean(-1)
    return (each * mask).sum() / mask.sum()


def test_mae_is_its_equations() -> None:
    siamese = small("mae").double()
    batch = eight()
    images = batch.images.double()
    torch.manual_seed(5)
    losses = siamese(Batch(images=images))
    total(losses).backward()
    torch.manual_seed(5)
    assert siamese.masking is not None
    _, hidden = siamese.masking(8, images.device)
    mask = torch.zeros(8, 16, dtype=torch.bool).scatter(1, hidden, True)
    assert int(mask.sum()) == 8 * 12

    stated = {k: v.detach().clone().requires_grad_() for k, v in siamese.named_parameters()}
    heads = siamese.encoder.blocks[0].attn.num_heads
    loss = mae_loss(stated, images, mask, heads)
    loss.backward()
    assert loss.item() == pytest.approx(losses["loss_reconstruction"].item(), rel=1e-5)
    trained = {k: p for k, p in siamese.named_parameters() if p.requires_grad}
    assert set(stated) - set(trained) == {"encoder.pos_embed"}
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, stated[name].grad, rtol=1e-5, atol=1e-7, msg=name)
