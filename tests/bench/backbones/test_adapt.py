"""Tensors at other sizes, against oracles that share no code with timm: Pillow, numpy, hand-worked cases."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bench.backbones.adapt import adapt
from bench.backbones.build import build


def vit(**options: Any) -> Any:
    return timm.create_model("test_vit", num_classes=0, **options)


def adapted(key: str, tensor: Tensor, model: Any) -> Tensor:
    return adapt(key, tensor, model.state_dict()[key], model)


def pillow(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Each channel of [h, w, D] resized as a picture: bicubic, with a filter as wide as the reduction."""
    pictures = [Image.fromarray(channel.numpy()) for channel in grid.permute(2, 0, 1)]
    resized = [np.array(p.resize(size[::-1], Image.Resampling.BICUBIC)) for p in pictures]
    return torch.from_numpy(np.stack(resized, -1))


@pytest.mark.parametrize("size", [(160, 320), (320, 160), (96, 64), (64, 400)])
def test_positions_are_resampled_as_a_picture_is(size: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + 100, 64)
    model = vit(img_size=size)
    found = adapted("pos_embed", table, model)
    rows, columns = size[0] // 16, size[1] // 16
    expected = pillow(table[0, 1:].reshape(10, 10, 64), (rows, columns))
    assert torch.equal(found[:, 0], table[:, 0]), "the class token's stays"
    assert (found[0, 1:].reshape(rows, columns, 64) - expected).abs().max() < 1e-5


def test_rows_are_not_swapped_with_columns() -> None:
    """What depends on the row alone still does, and still grows downwards."""
    table = torch.arange(10.0).repeat_interleave(10)[None, :, None].expand(1, 100, 64)
    table = torch.cat([torch.zeros(1, 1, 64), table], 1)
    found = adapted("pos_embed", table, vit(img_size=(96, 320)))[0, 1:, 0].reshape(6, 20)
    assert (found - found[:, :1]).abs().max() < 1e-5
    assert (found[1:, 0] > found[:-1, 0]).all()


@pytest.mark.parametrize(
    ("arch", "options", "prefix"),
    [
        ("test_vit", {}, 1),
        ("test_vit", {"reg_tokens": 4}, 5),
        ("test_vit", {"reg_tokens": 4, "no_embed_class": True}, 0),
        ("test_vit", {"class_token": False, "global_pool": "avg"}, 0),
        ("deit_tiny_distilled_patch16_224", {}, 2),
    ],
)
def test_prefix_tokens_are_kept(arch: str, options: dict[str, Any], prefix: int) -> None:
    own = timm.create_model(arch, depth=1, num_classes=0, img_size=(48, 96), **options)
    table = torch.randn(1, prefix + 49, own.embed_dim)
    found = adapted("pos_embed", table, own)
    assert found.shape == (1, prefix + 18, own.embed_dim)
    assert torch.equal(found[:, :prefix], table[:, :prefix])
    expected = pillow(table[0, prefix:].reshape(7, 7, -1), (3, 6)).flatten(0, 1)
    assert (found[0, prefix:] - expected).abs().max() < 1e-5


def test_a_grid_of_as_many_patches_and_other_sides_is_resampled() -> None:
    """The same shape, other positions: 8 x 8 for 4 x 16."""
    table = torch.randn(1, 65, 64)
    model = vit(img_size=(64, 256))
    assert model.state_dict()["pos_embed"].shape == table.shape
    found = adapted("pos_embed", table, model)
    expected = pillow(table[0, 1:].reshape(8, 8, 64), (4, 16)).flatten(0, 1)
    assert (found[0, 1:] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("patches", [16 + 5, 4 * 16 - 1])
def test_a_grid_whose_sides_are_not_known_is_left_as_it_is(patches: int) -> None:
    table = torch.randn(1, 1 + patches, 64)
    assert adapted("pos_embed", table, vit(img_size=(64, 256))) is table


def test_a_rectangular_grid_of_the_model_s_own_length_is_its_own() -> None:
    table = torch.randn(1, 1 + 4 * 5, 64)
    assert adapted("pos_embed", table, vit(img_size=(64, 80))) is table


def test_hiera_s_positions_follow_its_own_grid() -> None:
    model = timm.create_model("hiera_tiny_224", img_size=(128, 256), num_classes=0)
    table = torch.randn(1, 56 * 56, 96)
    expected = pillow(table[0].reshape(56, 56, 96), (32, 64)).flatten(0, 1)
    assert (adapted("pos_embed", table, model)[0] - expected).abs().max() < 1e-5


def geometric(old: int, new: int) -> np.ndarray:
    """Where BEiT places `old` offsets along a line of `new`: distances 1, 1 + q, 1 + q + q^2, ... that end
    with the line. q is the root of a monotone function, found by Newton's method here."""
    half, q = old // 2, 1.2
    for _ in range(100):
        powers = np.arange(half)
        value, slope = (q**powers).sum() - new // 2, (powers * q ** np.maximum(powers - 1, 0)).sum()
        q -= value / slope
    distances = np.cumsum(q ** np.arange(half))
    return np.concatenate([-distances[::-1], [0.0], distances])


def interpolated(grid: np.ndarray, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear along columns, then along rows."""
    targets = [np.arange(n) - n // 2 for n in size]
    lines = np.stack([np.interp(targets[1], x, row) for row in grid])
    return np.stack([np.interp(targets[0], y, line) for line in lines.T], 1)


@pytest.mark.parametrize("size", [(224, 224), (384, 384), (256, 384)])
def test_tables_of_relative_positions_keep_what_is_near(size: tuple[int, int]) -> None:
    model = timm.create_model("beit_base_patch16_224", depth=1, num_classes=0, img_size=size)
    key = "blocks.0.attn.relative_position_bias_table"
    table = torch.randn(19 * 19 + 3, 12)  # of 10 x 10 patches, and the class token's three
    found = adapted(key, table, model)
    rows, columns = 2 * (size[0] // 16) - 1, 2 * (size[1] // 16) - 1
    assert torch.equal(found[-3:], table[-3:])
    y, x = geometric(19, rows), geometric(19, columns)
    for head in range(12):
        expected = interpolated(table[:-3, head].reshape(19, 19).numpy(), y, x, (rows, columns))
        np.testing.assert_allclose(found[:-3, head].reshape(rows, columns), expected, atol=1e-4)
    centre = found[:-3].reshape(rows, columns, 12)[rows // 2 - 1 : rows // 2 + 2, columns // 2]
    near = table[:-3].reshape(19, 19, 12)[8:11, 9]
    assert (centre - near).abs().max() < 1e-5, "a neighbour's bias stays the neighbour's"


def test_a_window_of_as_many_offsets_and_other_sides_is_resampled() -> None:
    """(2 * 2 - 1)(2 * 14 - 1) = 9^2: the table of a 5 x 5 window has the shape of a 2 x 14 window's."""
    options = {"img_size": (16, 112), "window_size": (2, 14), "num_classes": 0, "embed_dim": 24}
    model = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), **options)
    table = torch.randn(81, 3)
    found = adapted("layers.0.blocks.0.attn.relative_position_bias_table", table, model)
    assert found.shape == table.shape
    assert not torch.equal(found, table)
    assert torch.equal(found.reshape(3, 27, 3)[1, 13], table.reshape(9, 9, 3)[4, 4])


@pytest.mark.parametrize("shape", [(169, 5), (170, 3), (168, 3), (64, 3)])
def test_a_table_of_no_window_is_left_as_it_is(shape: tuple[int, int]) -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, window_size=4, img_size=128)
    table = torch.randn(shape)
    assert adapted("layers.0.blocks.0.attn.relative_position_bias_table", table, model) is table


@pytest.mark.parametrize("old", [8, 16])
def test_a_larger_patch_gives_what_the_patch_gave(old: int) -> None:
    """FlexiViT's definition: <enlarged patch, enlarged weight> = <patch, weight>."""
    weight = torch.randn(192, 3, old, old)
    model = timm.create_model("vit_tiny_patch16_224", depth=1, patch_size=32, num_classes=0)
    found = adapted("patch_embed.proj.weight", weight, model)
    patches = torch.randn(5, 3, old, old)
    enlarged = F.interpolate(patches, size=(32, 32), mode="bilinear", align_corners=False)
    ours = torch.einsum("bchw,dchw->bd", enlarged, found)
    theirs = torch.einsum("bchw,dchw->bd", patches, weight)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4


def test_a_smaller_patch_gives_the_least_squares_solution() -> None:
    """For patches of white noise, no weight of half the size comes nearer."""
    weight = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    small = {"embed_dim": 4, "num_heads": 1, "depth": 1, "patch_size": 8}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **small)
    found = adapted("patch_embed.proj.weight", weight, model)
    basis = torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    resize = F.interpolate(basis, size=(8, 8), mode="bilinear", antialias=True).reshape(256, 64)
    expected = torch.linalg.lstsq(resize, weight.reshape(12, 256).T).solution.T.reshape(4, 3, 8, 8)
    assert (found - expected).abs().max() < 1e-4  # timm computes in float32


@pytest.mark.parametrize("number", [1, 2, 4, 6])
@pytest.mark.parametrize(("arch", "key"), [("test_vit", "patch_embed.proj"), ("test_convnext", "stem.0")])
def test_a_gray_image_gives_what_it_gave_whatever_the_number_of_channels(number: int, arch: str, key: str) -> None:
    model = timm.create_model(arch, in_chans=number, num_classes=0)
    own = model.state_dict()[f"{key}.weight"]
    weight = torch.randn(len(own), 3, *own.shape[2:])
    found = adapted(f"{key}.weight", weight, model)
    assert found.shape == own.shape
    if number in (1, 6):
        assert (found.sum(1) - weight.sum(1)).abs().max() < 1e-5
    if number > 1:
        repeated = weight[:, [i % 3 for i in range(number)]] * 3 / number
        assert torch.allclose(found, repeated, atol=1e-6)


def test_channels_of_which_nothing_is_known_are_left_as_they_are() -> None:
    weight = torch.randn(64, 5, 16, 16)
    assert adapted("patch_embed.proj.weight", weight, vit(in_chans=4)) is weight


def test_channels_and_patches_at_once() -> None:
    model = timm.create_model("vit_tiny_patch16_224", patch_size=32, in_chans=1, depth=1)
    found = adapted("patch_embed.proj.weight", torch.randn(192, 3, 16, 16), model)
    assert found.shape == (192, 1, 32, 32)


def test_sam_s_offsets_are_resampled_linearly() -> None:
    """Three offsets on five: the ends and the centre where they were, by hand."""
    model = timm.create_model("samvit_base_patch16", img_size=48, depth=1, embed_dim=8, num_heads=1,
                              global_attn_indexes=(0,), num_classes=0)  # fmt: skip
    table = torch.tensor([0.0, 1.0, 3.0])[:, None].expand(3, 8)
    found = adapted("blocks.0.attn.rel_pos_h", table, model)
    assert torch.allclose(found[:, 0], torch.tensor([0.0, 0.4, 1.0, 2.2, 3.0]))
    grid = torch.randn(1, 6, 6, 8)
    expected = pillow(grid[0], (3, 3))
    assert (adapted("pos_embed", grid, model)[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("arch", "trained"), [("swinv2_tiny_window8_256", 8), ("swinv2_base_window12to16_192to256", 12)]
)
def test_swin_v2_divides_its_coordinates_by_the_window_of_the_pretraining(
    arch: str, trained: int, weights: bool, tmp_path: Path
) -> None:
    """At any size: at 128 pixels the last stage has 4 x 4 tokens, of which timm would make the unit."""
    small = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 1, 1), "num_classes": 0}
    path = tmp_path / "w.pth"
    torch.save(timm.create_model(arch, **small).state_dict(), path)
    model, _ = build(arch, weights=path if weights else None, img_size=128, **small)
    last: Any = model.layers[3].blocks[0].attn
    assert last.window_size == (4, 4)
    largest = 8 * (4 - 1) / ((trained if trained == 8 else trained // 2) - 1)
    assert float(last.relative_coords_table.max()) == pytest.approx(math.log2(1 + largest) / 3)
    model.set_input_size((64, 64))  # and at every later one
    largest = 8 * (2 - 1) / ((trained if trained == 8 else trained // 2) - 1)
    assert float(last.relative_coords_table.max()) == pytest.approx(math.log2(1 + largest) / 3)


def test_what_fits_comes_back_the_very_object() -> None:
    model = vit()
    for key, tensor in model.state_dict().items():
        assert adapted(key, tensor, model) is tensor
    assert math.isqrt(model.pos_embed.shape[1] - 1) == 10
