"""The whole contract over a small representative of every family, with random weights.

What timm computes by another path (`forward_features`, hooks on its blocks) is the oracle.
"""

import copy
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from contract_families import FAMILIES, Family, images, lively, load
from torch import Tensor, nn

from bench.backbones.backbone import Backbone
from bench.backbones.extract import FeatureExtractor, load_backbone
from bench.backbones.normalise import normalisation
from bench.backbones.timm_models import create
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


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
def test_an_image_of_another_size_is_padded_right_and_below_with_zeros(family: Family) -> None:
    extractor = load(family).eval()
    height, width = family.size[0] - 9, family.size[1] - 5
    x = images(height, width)
    right, below = torch.zeros(2, 3, height, 5), torch.zeros(2, 3, 9, family.size[1])
    whole = torch.cat((torch.cat((x, right), 3), below), 2)
    for m, padded, s in zip(extractor(x), extractor(whole), extractor.strides, strict=True):
        torch.testing.assert_close(m, padded[..., : ceil(height / s), : ceil(width / s)])


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
        ({"name": "vit_base_patch16_224.mae", "arch": "vit_base_patch16_224", "tag": "mae"}, (0.485, 0.456, 0.406)),
        ({"name": "mine", "arch": "test_vit", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, (0.1, 0.2, 0.3)),
    ],
)
def test_images_are_normalised_as_the_weights_ask(backbone: dict[str, Any], expected: tuple[float, ...]) -> None:
    entry = Backbone(**backbone)
    with torch.device("meta"):
        extractor = load_backbone(entry)
    assert (extractor.mean, extractor.std) == normalisation(entry)
    assert extractor.mean == expected


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


@pytest.mark.parametrize(("depth", "taps"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (1, (0,))])
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
