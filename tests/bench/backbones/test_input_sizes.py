"""Rows and columns at any size: against transposed weights, and tables that tell what was resampled."""

from math import ceil

import pytest
import torch
from contract_families import FAMILIES, WIDE, Family, images, lively, load
from torch import Tensor, nn

from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def mirrored(parameter: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, prefix + L, C) of a grid, with its rows and columns swapped."""
    prefix = parameter.shape[1] - grid[0] * grid[1]
    patches = parameter[:, prefix:].unflatten(1, grid).transpose(1, 2).flatten(1, 2)
    return torch.cat((parameter[:, :prefix], patches), 1)


def of_rope(parameter: Tensor, attention: nn.Module) -> Tensor:
    """Queries' and keys' weights or biases with the channels of rows and of columns swapped.

    Within a head, half of the frequencies turn with the row and half with the column: in two blocks,
    or, for DINOv3, in such a pair of blocks for the sines and one for the cosines.
    """
    pairs = 2 if attention.rotate_half else 1
    shape = (-1, attention.num_heads, pairs, 2, attention.head_dim // pairs // 2)
    heads = parameter.unflatten(0, shape)
    return torch.cat((heads[:2].flip(3), heads[2:])).flatten(0, 4)  # the values, third, stay


def transposed(model: nn.Module, grid: tuple[int, int]) -> dict[str, Tensor]:
    """The weights with which a model sees the transposed image as `model` sees the image."""
    state = dict(model.state_dict())
    for key, value in state.items():
        owner = model.get_submodule(key.rpartition(".")[0])
        if key == "pos_embed" and value.ndim == 3:
            state[key] = mirrored(value, grid)
        elif value.ndim == 4:  # kernels, and position embeddings that are NCHW
            state[key] = value.mT
        elif key.endswith("relative_position_bias_table"):
            rows, columns = (2 * side - 1 for side in owner.window_size)
            table = value[: rows * columns].unflatten(0, (rows, columns))
            state[key] = torch.cat((table.transpose(0, 1).flatten(0, 1), value[rows * columns :]))
        elif key.endswith("cpb_mlp.0.weight"):  # SwinV2's biases, of (row, column) distances
            state[key] = value.flip(1)
        elif ".downsample." in key and "swin" in type(model).__module__:
            merging = model.get_submodule(key.partition(".downsample.")[0] + ".downsample")
            if value.shape[-1] == merging.reduction.in_features:  # the four neighbours of a 2 x 2
                state[key] = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].flatten(-2)
        elif key.endswith((".attn.q_bias", ".attn.qkv.weight")):
            attention = model.get_submodule(key.partition(".attn.")[0] + ".attn")
            if hasattr(attention, "rotate_half"):
                state[key] = of_rope(value, attention)
    return state


@torch.no_grad()
def test_rows_and_columns_are_never_swapped(family: Family) -> None:
    """A model with transposed kernels, positions and biases gives the transposed maps."""
    height, width = family.size
    extractor = load(family)
    other = load(family, img_size=family.img_size and family.img_size[::-1])
    lively(extractor.model)
    extractor.set_input_size(height, width)
    other.set_input_size(width, height)
    step = 4 if family.layout == "unrolled" else extractor.strides[0]
    grid = height // step, width // step
    other.model.load_state_dict(transposed(extractor.model, grid))
    x = images(height, width)
    for m, flipped in zip(extractor(x), other.eval()(x.mT), strict=True):
        assert (m - flipped.mT).norm() < 1e-4 * m.norm()
        assert (m - m.mean((2, 3), keepdim=True)).norm() > 0.1 * m.norm()


SIZES = {
    "BEiT": (64, 160),
    "ViT with registers": (70, 112),
    "EVA-02": (112, 70),
    "Swin": (448, 256),  # no map smaller than a window, at which windows shrink
    "SwinV2": (512, 288),
}


@torch.no_grad()
def test_a_new_input_size_leaves_what_needs_no_resampling_as_it_was(family: Family, family_name: str) -> None:
    extractor = load(family).eval()
    lively(extractor.model)
    height, width = SIZES.get(family_name, (128, 192))
    if family.layout == "unrolled":
        extractor.set_input_size(*WIDE)  # its own
        with pytest.raises(UserError, match=r"built for images of 96x128.*img_size=\(128, 192\)"):
            extractor.set_input_size(height, width)
        return
    x, home = images(height, width), images(*family.size)
    # BEiT takes one size at a time; Swin's last stage shifts only when told that it is large.
    as_it_goes = {"BEiT": 0, "Swin": 3, "SwinV2": 3}.get(family_name, 4)
    at_home, before = extractor(home), extractor(x)[:as_it_goes] if as_it_goes else ()
    trainable = {n for n, p in extractor.named_parameters() if p.requires_grad}
    extractor.set_input_size(height, width)
    after = extractor(x)
    assert {n for n, p in extractor.named_parameters() if p.requires_grad} == trainable
    assert [m.shape[2:] for m in after] == [(ceil(height / s), ceil(width / s)) for s in extractor.strides]
    for m, was in zip(after, before, strict=False):
        torch.testing.assert_close(m, was, rtol=1e-4, atol=1e-4)
    if getattr(extractor.model, "pos_embed", None) is None and family_name != "BEiT":
        extractor.set_input_size(*((256, 256) if family_name == "SwinV2" else (224, 224)))
        for m, was in zip(extractor(home), at_home, strict=True):
            torch.testing.assert_close(m, was, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "ViT with registers", "EVA-02"])
def test_position_embeddings_are_resampled_row_by_row(name: str) -> None:
    extractor = load(FAMILIES[name])
    model, stride = extractor.model, extractor.strides[0]
    prefix = model.num_prefix_tokens if not getattr(model, "no_embed_class", False) else 0
    rows, columns = model.patch_embed.grid_size
    ramp = torch.arange(rows).float()[:, None].expand(rows, columns).flatten()
    with torch.no_grad():
        model.pos_embed[:, prefix:] = ramp[None, :, None]
        model.pos_embed[:, :prefix] = -7
    extractor.set_input_size(3 * stride, 9 * stride)
    assert model.pos_embed.shape[1] == prefix + 27
    assert (model.pos_embed[:, :prefix] == -7).all()
    grid = model.pos_embed[0, prefix:, 0].unflatten(0, (3, 9))
    torch.testing.assert_close(grid, grid[:, :1].expand(3, 9))
    centres = (torch.arange(3) + 0.5) * rows / 3 - 0.5
    torch.testing.assert_close(grid[:, 0], centres, rtol=0, atol=0.2 * rows / 3)


def test_relative_position_biases_are_resampled_row_by_row() -> None:
    extractor = load(FAMILIES["BEiT"])  # of 6 x 8 patches
    tables = [block.attn.relative_position_bias_table for block in extractor.model.blocks]
    with torch.no_grad():
        for table in tables:
            distance = torch.arange(-5, 6).float()[:, None].expand(11, 15).flatten()
            table[:-3] = distance[:, None]
            table[-3:] = torch.tensor([100.0, 200.0, 300.0])[:, None]  # of the class token
    extractor.set_input_size(4 * 16, 11 * 16)
    for block in extractor.model.blocks:
        table = block.attn.relative_position_bias_table[:, 0]
        spread = table[:-3].unflatten(0, (7, 21))
        torch.testing.assert_close(spread, spread[:, :1].expand(7, 21), rtol=0, atol=1e-3)
        assert (spread.diff(dim=0) > 0).all()
        torch.testing.assert_close(spread, -spread.flip(0), rtol=0, atol=1e-3)
        assert table[-3:].tolist() == [100, 200, 300]


@torch.no_grad()
def test_swins_windows_keep_their_size_and_shift_where_maps_outgrow_them() -> None:
    extractor = load(FAMILIES["Swin"])
    block = extractor.model.layers[3].blocks[0]
    second = extractor.model.layers[2].blocks[1]
    table = second.attn.relative_position_bias_table.clone()
    assert (block.window_size, second.shift_size) == ((7, 7), (3, 3))
    extractor.set_input_size(512, 448)
    assert (block.window_size, second.window_size, second.shift_size) == ((7, 7), (7, 7), (3, 3))
    assert torch.equal(second.attn.relative_position_bias_table, table)


def test_a_fixed_size_model_refuses_a_larger_image() -> None:
    with pytest.raises(UserError, match=r"128x160 is larger than 96x128.*larger img_size"):
        load(FAMILIES["Hiera"])(images(128, 160))


@pytest.mark.parametrize("size", [(224, 224), (128, 128)])
def test_mvitv2_is_of_one_size_for_its_relative_positions_are(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        extractor = load(Family(arch="mvitv2_tiny", layers=0), img_size=size)
        assert extractor.fixed_size == size
        assert extractor(torch.zeros(1, 3, 90, 96))[-1].shape[2:] == (3, 3)
        with pytest.raises(UserError, match=f"256x256 is larger than {size[0]}x{size[1]}"):
            extractor(torch.zeros(1, 3, 256, 256))
