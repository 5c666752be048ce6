"""The encoder on masked images."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from bench.errors import UserError
from pretrain.encoder import build, choose_attention, encode, sincos_positions
from pretrain.methods import method
from pretrain.views import View

VITS = ("test_vit", "test_vit2", "test_vit4")  # a class token; with registers and LayerScale; none
SMALL_SWIN = {"embed_dim": 24, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 3, 6)}
REPLACED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("test_vit", {}),
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 3, "use_shared_rel_pos_bias": True}),
    ("swin_tiny_patch4_window7_224", SMALL_SWIN),
    ("swinv2_tiny_window8_256", SMALL_SWIN),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def split(number: int, patches: int, shown: int) -> tuple[Tensor, Tensor]:
    order = torch.rand(number, patches).argsort(1)
    return order[:, :shown].sort(1).values, order[:, shown:].sort(1).values


@pytest.mark.parametrize("arch", VITS)
@pytest.mark.parametrize("name", ["mae", "simsiam-mask"])
def test_all_patches_shown_are_the_whole_image(arch: str, name: str) -> None:
    encoder = build(method(name), arch, (64, 96)).eval()
    images = torch.randn(2, 3, 64, 96)
    everything = torch.arange(24).expand(2, -1)
    view = View(images=images, shown=everything, hidden=everything[:, :0])
    torch.testing.assert_close(encode(encoder, view, None), encoder.forward_features(images))


@pytest.mark.parametrize("arch", VITS)
def test_only_shown_patches_are_computed(arch: str) -> None:
    encoder = build(method("mae"), arch, 64).eval()
    images, (shown, hidden) = torch.randn(3, 3, 64, 64), split(3, 16, 4)
    seen: list[int] = []
    encoder.blocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    encoder.patch_embed.register_forward_hook(lambda *_: pytest.fail("all patches were embedded"))
    features = encode(encoder, View(images=images, shown=shown, hidden=hidden), None)
    assert seen == [encoder.num_prefix_tokens + 4]
    assert features.shape == (3, encoder.num_prefix_tokens + 4, encoder.embed_dim)
    changed = images.clone()
    for image, positions in zip(changed, hidden, strict=True):
        for position in positions.tolist():
            row, column = divmod(position, 4)
            image[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 9.0
    again = encode(encoder, View(images=changed, shown=shown, hidden=hidden), None)
    assert torch.equal(features, again)
    moved = encode(encoder, View(images=images, shown=hidden[:, :4], hidden=hidden), None)
    assert not torch.allclose(features, moved)


@pytest.mark.parametrize(("arch", "options"), REPLACED)
def test_a_mask_token_stands_for_hidden_embeddings(arch: str, options: dict[str, Any]) -> None:
    encoder = build(method("simmim"), arch, 64, **options).eval()
    rows, columns = encoder.patch_embed.grid_size
    images, (shown, hidden) = torch.randn(2, 3, 64, 64), split(2, rows * columns, rows)
    token = torch.randn(1, 1, encoder.patch_embed.proj.out_channels)
    view = View(images=images, shown=shown, hidden=hidden, replaced=True)
    features = encode(encoder, view, token)

    # The same from a patch embedding whose output is put together by hand.
    embedded = encoder.patch_embed(images).detach()
    expected = embedded.clone().flatten(1, -2)
    for image, positions in zip(expected, hidden, strict=True):
        image[positions] = token[0, 0]
    encoder.patch_embed.forward = lambda _: expected.view_as(embedded)
    torch.testing.assert_close(features, encoder.forward_features(torch.zeros_like(images)))
    torch.testing.assert_close(encode(encoder, view, token), features)


def test_positions_are_sin_and_cos_of_column_and_row() -> None:
    positions = sincos_positions((3, 5), 16)
    for row in range(3):
        for column in range(5):
            expected = []
            for place in (column, row):
                for function in (math.sin, math.cos):
                    expected += [function(place / 10000 ** (i / 4)) for i in range(4)]
            assert positions[5 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_mae_s_positions_are_fixed_and_the_class_token_has_none() -> None:
    encoder = build(method("mae"), "test_vit", 64)
    assert not encoder.pos_embed.requires_grad
    assert encoder.pos_embed[0, 0].abs().max() == 0
    assert torch.equal(encoder.pos_embed[0, 1:], sincos_positions((4, 4), 64))
    registers = build(method("mae"), "test_vit2", 64)
    assert torch.equal(registers.pos_embed[0, -16:], sincos_positions((4, 4), 64))
    assert build(method("simmim"), "test_vit", 64).pos_embed.requires_grad
    moco = build(method("moco"), "test_vit", 64)
    assert not any(p.requires_grad for p in moco.patch_embed.parameters())


@pytest.mark.parametrize(
    ("name", "arch", "size", "message"),
    [
        ("mae", "test_resnet", 64, "only a plain ViT can do, and test_resnet is not"),
        ("mae", "swin_tiny_patch4_window7_224", 64, "only a plain ViT can do"),
        ("c-mae", "test_convnext", 64, "only a plain ViT"),
        ("simmim", "test_resnet", 64, "for ViT, BEiT, Swin and SwinV2"),
        ("mae", "test_vit", 100, "Images of 100 x 100 do not divide into test_vit's patches of 16 x 16.*such as 96"),
        ("moco", "test_vit", 8, "do not divide into .* such as 16"),
    ],
)  # fmt: skip
def test_an_encoder_that_cannot_is_refused(name: str, arch: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(method(name), arch, size)


def test_attention_is_plain_in_bf16_on_a_cpu_alone_and_gives_the_same() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0).eval()
    images = torch.randn(2, 3, 160, 160)
    before = vit(images)
    choose_attention(vit, torch.device("cpu"), bf16=False)
    assert all(block.attn.fused_attn for block in vit.blocks)
    choose_attention(vit, torch.device("cuda"), bf16=True)
    assert all(block.attn.fused_attn for block in vit.blocks)
    choose_attention(vit, torch.device("cpu"), bf16=True)
    assert not any(block.attn.fused_attn for block in vit.blocks)
    torch.testing.assert_close(vit(images), before, rtol=0, atol=1e-5)
