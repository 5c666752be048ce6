"""The whole contract over a small representative of every family, with random weights.

What timm computes by another path (`forward_features`, hooks on its blocks) and what transposing image
and weights must give are the oracles.
"""

import copy
import dataclasses
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from bench.backbones import Backbone, normalisation
from bench.errors import UserError
from bench.feature_extractor import FeatureExtractor, create, load_backbone

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SMALL_HIERA = {"embed_dim": 24, "stages": (1, 1, 2, 1)}
WIDE, WIDE_14 = (96, 128), (84, 112)  # of patches: 6 x 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A representative, and what is true of it.

    layers: how many layers learn at rates of their own, stem and blocks.
    end: what `forward_features` does behind the last map, on it.
    layout: of what its blocks give.
    """

    arch: str
    layers: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    img_size: tuple[int, int] | None = None
    size: tuple[int, int] = WIDE
    plain: bool = False
    prefix: int = 0
    normed: bool = False
    layout: str = "NCHW"
    end: Callable[[nn.Module, Tensor], Tensor] = lambda model, last: last


def swin_end(model: nn.Module, last: Tensor) -> Tensor:
    return model.norm(last.permute(0, 2, 3, 1))


FAMILIES = {
    "ViT": Family(arch="test_vit", layers=7, plain=True, prefix=1, normed=True),
    "ViT, pooled": Family(arch="test_vit2", layers=9, plain=True, prefix=1),
    "DeiT": Family(
        arch="deit_tiny_distilled_patch16_224",
        options=SMALL_VIT,
        layers=5,
        plain=True,
        prefix=2,
        normed=True,
    ),
    "ViT with registers": Family(
        arch="vit_small_patch14_reg4_dinov2",
        options=SMALL_VIT,
        img_size=(56, 56),
        size=WIDE_14,
        layers=5,
        plain=True,
        prefix=5,
        normed=True,
    ),
    "EVA-02": Family(
        arch="eva02_tiny_patch14_224",
        options=SMALL_VIT,
        size=WIDE_14,
        layers=5,
        plain=True,
        prefix=1,
    ),
    "DINOv3": Family(
        arch="vit_small_patch16_dinov3",
        options=SMALL_VIT,
        layers=5,
        plain=True,
        prefix=5,
        normed=True,
    ),
    "BEiT": Family(
        arch="beit_base_patch16_224",
        options=SMALL_VIT,
        img_size=WIDE,
        layers=5,
        plain=True,
        prefix=1,
    ),
    "Swin": Family(arch="swin_tiny_patch4_window7_224", options=SMALL_SWIN, layers=6, layout="NHWC", end=swin_end),
    "SwinV2": Family(arch="swinv2_tiny_window8_256", options=SMALL_SWIN, layers=6, layout="NHWC", end=swin_end),
    "ConvNeXt": Family(arch="test_convnext", layers=10),
    "ConvNeXt V2": Family(
        arch="convnextv2_atto",
        options={"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
        layers=6,
    ),
    "ResNet": Family(arch="test_resnet", layers=5),
    "EfficientNet": Family(
        arch="test_efficientnet",
        layers=6,
        end=lambda model, last: model.bn2(model.conv_head(last)),
    ),
    "Hiera": Family(
        arch="hiera_tiny_224",
        options=SMALL_HIERA,
        img_size=WIDE,
        layers=6,
        layout="unrolled",
        end=lambda model, last: last.flatten(2).mT,
    ),
    "Hiera, windowed positions": Family(
        arch="hiera_small_abswin_256",
        options=SMALL_HIERA,
        img_size=WIDE,
        layers=6,
        layout="unrolled",
        end=lambda model, last: last.flatten(2).mT,
    ),
    "SAM 2": Family(
        arch="sam2_hiera_tiny",
        options={**SMALL_HIERA, "global_att_blocks": (3,)},
        layers=6,
        layout="NHWC",
        end=lambda model, last: last.permute(0, 2, 3, 1),
    ),
}



@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(name: str) -> Family:
    return FAMILIES[name]


def load(family: Family, **changes: Any) -> FeatureExtractor:
    settings = {"img_size": family.img_size, "timm_options": family.options, "seed": 0, **changes}
    return load_backbone(Backbone(name=family.arch, arch=family.arch), **settings)


def lively(model: nn.Module) -> nn.Module:
    """No parameter at a constant such as 0 or 1e-5 any more: nothing is left without effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.std() < 0.05:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def every_layer(family: Family) -> tuple[FeatureExtractor, nn.Module]:
    """An extractor of all stages (blocks), and the unpruned timm model of the same weights."""
    options = {"img_size": family.img_size, "timm_options": family.options, "seed": 0}
    model = lively(create(family.arch, **options)[0])
    indices = range(len(model.feature_info))
    pruned = FeatureExtractor(copy.deepcopy(model), arch=family.arch, out_indices=indices)
    return pruned.eval(), model


def as_map(family: Family, model: nn.Module, output: Tensor, shape: torch.Size) -> Tensor:
    """What a block gives, as the NCHW map of that shape."""
    if family.plain:
        return model.norm(output)[:, family.prefix :].mT.reshape(shape)
    if family.layout != "unrolled":
        return output.permute(0, 3, 1, 2) if family.layout == "NHWC" else output
    rows, columns = model.tokens_spatial_shape
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    cells = model.unroll(cells[None].float())  # where Hiera puts each token
    while cells.shape[1] > output.shape[1]:  # after each pooling of 2 x 2
        cells = cells.unflatten(1, (4, -1))[:, 0] // 2
    row, column = cells[0].long().T
    found = torch.empty(shape)
    found[:, :, row, column] = output.mT
    return found


@torch.no_grad()
def test_every_map_is_the_output_of_its_block_in_timms_plain_forward(family: Family) -> None:
    """`forward_features`, which makes no maps, and what hooks catch of its blocks."""
    extractor, model = every_layer(family)
    caught: dict[str, Tensor] = {}
    blocks = [info["module"] for info in model.feature_info]
    for block in blocks:
        hook = lambda _, __, output, block=block: caught.update({block: output})  # noqa: E731
        model.get_submodule(block).register_forward_hook(hook)
    x = images(*family.size)
    found, last = extractor(x), model.forward_features(x)
    if family.plain:
        torch.testing.assert_close(extractor.tokens(x), last)
    else:
        torch.testing.assert_close(family.end(model, found[-1]), last)
    for block, ours in zip(blocks, found, strict=True):
        torch.testing.assert_close(ours, as_map(family, model, caught[block], ours.shape))
    assert all(m.std() > 1e-3 for m in found)


@torch.no_grad()
def test_maps_of_any_size_are_nchw_at_the_stated_strides_and_channels(family: Family) -> None:
    extractor = load(family)
    chosen = [extractor.model.feature_info[i] for i in extractor.out_indices]
    assert len(chosen) == 4 or family.arch == "test_resnet"
    assert extractor.plain == family.plain
    for height, width in (family.size, (70, 45), (33, 61)):
        for m, channels, stride in zip(
            extractor(images(height, width)), extractor.channels, extractor.strides, strict=True
        ):
            assert m.shape == (2, channels, ceil(height / stride), ceil(width / stride))
            assert m.isfinite().all()


@torch.no_grad()
def test_tokens_are_the_prefix_and_the_last_map_row_by_row(family: Family) -> None:
    extractor = load(family).eval()
    assert extractor.num_prefix_tokens == family.prefix
    assert extractor.normed == family.normed
    for height, width in (family.size, (33, 61)):
        x = images(height, width)
        tokens, last = extractor.tokens(x), extractor(x)[-1]
        rows, columns = last.shape[2:]
        assert tokens.shape == (2, family.prefix + rows * columns, extractor.channels[-1])
        torch.testing.assert_close(tokens[:, family.prefix + columns], last[:, :, 1, 0])


@torch.no_grad()
def test_a_mark_in_a_corner_of_the_image_shows_in_that_corner_of_every_map(family: Family) -> None:
    extractor = load(family).eval()
    height, width = family.size
    x = images(height, width, count=1)
    before = extractor(x)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        marked = x.clone()
        marked[..., row, column] += 50  # one pixel
        for m, was in zip(extractor(marked), before, strict=True):
            change = (m - was).norm(dim=1)[0]
            rows, columns = change.shape
            most = divmod(int(change.argmax()), columns)
            assert (most[0] >= rows / 2, most[1] >= columns / 2) == (row < 0, column < 0)


@torch.no_grad()
def test_images_of_a_batch_do_not_touch_each_other(family: Family) -> None:
    extractor = load(family).eval()
    x = images(*family.size, count=3)
    for one, of_three in zip(extractor(x[1:2]), extractor(x), strict=True):
        torch.testing.assert_close(one, of_three[1:2])
    torch.testing.assert_close(extractor.tokens(x[:1]), extractor.tokens(x)[:1])


@torch.no_grad()
def test_bf16_autocast_gives_the_same_to_its_precision(family: Family) -> None:
    extractor = load(family).eval()
    x = images(*family.size)
    exact = extractor(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(x)
    for m, was in zip(found, exact, strict=True):
        assert (m.float() - was).norm() < 0.05 * was.norm()


def test_frozen_has_no_gradient_and_stays_in_evaluation_mode(family: Family) -> None:
    extractor = load(family, frozen=True, drop_path_rate=0.5)
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    wrapped = nn.Sequential(extractor).train()
    first, second = wrapped(images(*family.size)), wrapped(images(*family.size))
    assert not any(m.requires_grad for m in first)
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not any(m.training for m in extractor.modules())
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)  # no dropped path
    assert all(torch.equal(before[k], value) for k, value in extractor.state_dict().items())


def test_every_parameter_that_is_left_is_trained(family: Family) -> None:
    extractor = load(family)
    sum(m.square().mean() for m in extractor(images(*family.size))).backward()
    assert [n for n, p in extractor.named_parameters() if p.grad is None] == []


def test_drop_path_reaches_the_blocks(family: Family) -> None:
    def rates(rate: float) -> set[float]:
        modules = load(family, drop_path_rate=rate).modules()
        return {m.drop_prob for m in modules if type(m).__name__ == "DropPath"}

    assert max(rates(0.3)) == pytest.approx(0.3, abs=0.12)  # EfficientNet divides by all its blocks
    assert rates(0.0) <= {0.0}


def test_layer_groups_go_from_the_stem_to_the_last_block(family: Family) -> None:
    extractor = load(family)
    layers, number = extractor.layer_groups()
    assert list(layers) == [name for name, _ in extractor.model.named_parameters()]
    assert set(layers.values()) == set(range(number))
    assert number == family.layers
    order = list(layers.values())  # timm registers a model's parameters from the stem on
    assert order[0] == 0
    blocks = [layer for key, layer in layers.items() if "blocks." in key or "layer1" in key]
    assert blocks == sorted(blocks)
    assert max(layers.values()) == number - 1
    if family.normed:
        assert layers["norm.weight"] == number - 1


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ({"name": "vit_base_patch16_224", "arch": "vit_base_patch16_224"}, (0.5, 0.5, 0.5)),
        (
            {"name": "vit_base_patch16_224.mae", "arch": "vit_base_patch16_224", "tag": "mae"},
            (0.485, 0.456, 0.406),
        ),
        (
            {"name": "mine", "arch": "test_vit", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
            (0.1, 0.2, 0.3),
        ),
    ],
)
def test_images_are_normalised_as_the_weights_ask(
    backbone: dict[str, Any], expected: tuple[float, ...]
) -> None:
    entry = Backbone(**backbone)
    with torch.device("meta"):
        extractor = load_backbone(entry)
    assert (extractor.mean, extractor.std) == normalisation(entry)
    assert extractor.mean == expected


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
def test_a_new_input_size_leaves_what_needs_no_resampling_as_it_was(
    family: Family, name: str
) -> None:
    extractor = load(family).eval()
    lively(extractor.model)
    height, width = SIZES.get(name, (128, 192))
    if family.layout == "unrolled":
        extractor.set_input_size(*WIDE)  # its own
        with pytest.raises(UserError, match=r"built for images of 96x128.*img_size=\(128, 192\)"):
            extractor.set_input_size(height, width)
        return
    x, home = images(height, width), images(*family.size)
    # BEiT takes one size at a time; Swin's last stage shifts only when told that it is large.
    as_it_goes = {"BEiT": 0, "Swin": 3, "SwinV2": 3}.get(name, 4)
    at_home, before = extractor(home), extractor(x)[:as_it_goes] if as_it_goes else ()
    trainable = {n for n, p in extractor.named_parameters() if p.requires_grad}
    extractor.set_input_size(height, width)
    after = extractor(x)
    assert {n for n, p in extractor.named_parameters() if p.requires_grad} == trainable
    assert [m.shape[2:] for m in after] == [
        (ceil(height / s), ceil(width / s)) for s in extractor.strides
    ]
    for m, was in zip(after, before, strict=False):
        torch.testing.assert_close(m, was, rtol=1e-4, atol=1e-4)
    if getattr(extractor.model, "pos_embed", None) is None and name != "BEiT":
        extractor.set_input_size(*((256, 256) if name == "SwinV2" else (224, 224)))
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


def test_a_class_token_is_appended_to_every_pixel() -> None:
    family = FAMILIES["ViT with registers"]
    plain, both = load(family).eval(), load(family, class_token=True).eval()
    x = images(*family.size)
    assert both.channels == tuple(2 * c for c in plain.channels)
    for m, tokens, wide in zip(plain(x)[-1:], [plain.tokens(x)], both(x)[-1:], strict=True):
        class_tokens = tokens[:, 0, :, None, None].expand_as(m)
        torch.testing.assert_close(wide, torch.cat((m, class_tokens), 1))
    torch.testing.assert_close(both.tokens(x), plain.tokens(x))
    assert not load(FAMILIES["ResNet"], class_token=True).class_token
    assert not load(FAMILIES["ViT, pooled"], class_token=True).class_token  # a register, no class


@pytest.mark.parametrize(
    ("depth", "taps"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (1, (0,))]
)
def test_default_taps_of_a_plain_vit(depth: int, taps: tuple[int, ...]) -> None:
    assert vit(timm_options={"depth": depth}).out_indices == taps


def vit(**settings: Any) -> FeatureExtractor:
    weights = settings.pop("weights", None)
    return load_backbone(Backbone(name="v", arch="test_vit", weights=weights), **settings)


def test_chosen_taps_drop_what_comes_behind() -> None:
    extractor = vit(out_indices=[2])
    assert len(extractor.model.blocks) == 3
    assert len(extractor(images(32, 32))) == 1
    assert load(FAMILIES["ResNet"], out_indices=[-1]).strides == (32,)


def test_the_seed_decides_the_initialisation_and_disturbs_nothing() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (vit(seed=s).model for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    weights = [m.blocks[0].attn.qkv.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_are_loaded_at_the_asked_size_and_reported(tmp_path: Path) -> None:
    source, file = timm.create_model("test_vit"), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    extractor = vit(weights=file)
    state = extractor.model.state_dict()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in state.items())
    assert extractor.load_report.matched >= len(state)
    assert extractor.load_report.missing == ()
    wide = vit(weights=file, img_size=(96, 64))
    assert wide.model.pos_embed.shape[1] == 6 * 4 + 1
    assert len(wide.load_report.resampled) == 1
    extractor.set_input_size(96, 64)
    torch.testing.assert_close(wide.model.pos_embed, extractor.model.pos_embed)


def test_unfrozen_batch_statistics_move() -> None:
    extractor = load(FAMILIES["ResNet"]).train()
    before = extractor.model.bn1.running_mean.clone()
    extractor(images(64, 64))
    assert not torch.equal(before, extractor.model.bn1.running_mean)


@pytest.mark.parametrize(
    ("arch", "settings", "message"),
    [
        ("test_vit", {"out_indices": [6]}, "6 blocks"),
        ("test_resnet", {"out_indices": []}, "5 stages"),
        ("test_maxvit", {}, "test_maxvit cannot be used here"),
        ("vgg11", {"drop_path_rate": 0.1}, "no drop path"),
    ],
)
def test_what_cannot_be_used_is_refused(arch: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(Backbone(name=arch, arch=arch), **settings)


def test_layers_that_timm_does_not_group_are_refused() -> None:
    with torch.device("meta"):
        extractor = load_backbone(Backbone(name="p", arch="poolformer_s12"))
    with pytest.raises(UserError, match="timm groups no layers of it"):
        extractor.layer_groups()


def test_a_fixed_size_model_refuses_a_larger_image() -> None:
    with pytest.raises(UserError, match=r"128x160 is larger than 96x128.*larger img_size"):
        load(FAMILIES["Hiera"])(images(128, 160))
