"""Attention read exactly, at its places, and what is said of it, against closed forms."""

import math
from typing import Any

import pytest
import torch
from analysis_jobs import TRANSFORMERS, hooks, small
from contract_families import images
from torch import Tensor
from torch.nn import functional as F

from adapters.analysis import ATTENTION
from adapters.analysis.attention import (
    Attention,
    AttentionReader,
    AttentionStatistics,
    HeadStatistics,
    Places,
    grid,
    of_window,
)
from adapters.analysis.layers import LayerReader
from bench.backbones.build import build
from bench.errors import UserError

SHIFTED = {"depths": (2, 2), "num_heads": (1, 2)}

pytestmark = pytest.mark.usefixtures("one_thread")


def patches(rows: int, stride: int, prefix: int = 0) -> Places:
    centres = grid(rows, rows, (rows * stride, rows * stride)).flatten(0, 1)
    tokens = torch.cat((torch.full((prefix, 2), torch.nan), centres))[None]
    return Places(queries=tokens, keys=tokens)


def measured(weights: Tensor, places: Places, **settings: Any) -> HeadStatistics:
    """Of weights [h, q, k]."""
    found = HeadStatistics(**settings)
    found.update(Attention(block=0, weights=weights[None, None], places=places))
    return found


def softmax(heads: int, tokens: int) -> Tensor:
    scores = torch.randn(heads, tokens, tokens, generator=torch.Generator().manual_seed(0))
    return (3 * scores).softmax(-1)


@pytest.mark.parametrize(("rows", "distance"), [(14, 116.5), (7, 57.8)])
def test_uniform_attention(rows: int, distance: float) -> None:
    found = measured(torch.full((2, rows**2, rows**2), rows**-2.0), patches(rows, 16))
    assert found.distances().tolist() == pytest.approx([distance] * 2, abs=0.05)
    assert found.entropies().tolist() == pytest.approx([math.log(rows**2)] * 2, abs=1e-5)
    assert found.diversities().tolist() == pytest.approx([0, 0], abs=1e-6)


def test_identity_attention_stays_where_it_is() -> None:
    found = measured(torch.eye(49)[None], patches(7, 16))
    assert found.distances().tolist() == [0.0]
    assert found.entropies().tolist() == pytest.approx([0], abs=1e-6)
    assert found.diversities().tolist() == [0.0]


def test_identical_heads_diverge_by_0() -> None:
    found = measured(softmax(1, 49).expand(3, -1, -1), patches(7, 16))
    assert found.diversities().tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_divergence_is_its_definition() -> None:
    heads = softmax(3, 16)
    given = measured(heads, patches(4, 16))
    a = heads.double()
    logarithms = (a + 1e-8).log()
    expected = (a[:, None] * (logarithms[:, None] - logarithms[None])).sum(-1).mean(-1)
    torch.testing.assert_close(given.divergences(), expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(given.diversities(), expected.sum(1) / 2, atol=1e-5, rtol=1e-6)
    entropies = -(a * logarithms).sum(-1).mean(-1)
    torch.testing.assert_close(given.entropies(), entropies, atol=1e-5, rtol=1e-6)


def test_the_class_token_is_no_query_and_its_column_is_renormalised() -> None:
    """Two patches 16 pixels apart and a class token, by hand."""
    weights = torch.tensor([[[0.0, 0.0, 1.0], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1]]])
    places = patches(1, 16, prefix=1)
    tokens = torch.cat((places.keys, torch.tensor([[[8.0, 24.0]]])), 1)
    places = Places(queries=tokens, keys=tokens)
    assert measured(weights, places).distances().item() == pytest.approx((16 * 0.2 / 0.5 + 16 * 0.1 / 0.2) / 2)
    rows = [-sum(p * math.log(p) for p in row if p) for row in weights[0].tolist()]
    assert measured(weights, places).entropies().item() == pytest.approx(sum(rows[1:]) / 2)
    with_prefix = measured(weights, places, prefix_queries=True)
    assert with_prefix.entropies().item() == pytest.approx(sum(rows) / 3)
    assert with_prefix.distances() == measured(weights, places).distances()


def read(model: Any, x: Tensor) -> tuple[list[Attention], Tensor]:
    found: list[Attention] = []
    with torch.no_grad(), AttentionReader(model, "it", found.append):
        output = model(x)
    return found, output


@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_rows_sum_to_1_and_the_output_keeps_every_bit(name: str) -> None:
    model, size = small(name)
    x = images(*size)
    with torch.no_grad():
        expected = model(x)
    found, output = read(model, x)
    assert output.equal(expected)
    assert [each.block for each in found] == list(range(len(LayerReader(model))))
    assert hooks(model) == 0
    for each in found:
        b, w, _, q, k = each.weights.shape
        assert (b, w, q) == (2, *each.places.queries.shape[:2])
        assert (w, k) == each.places.keys.shape[:2]
        torch.testing.assert_close(each.weights.sum(-1), torch.ones(each.weights.shape[:-1]))


def given_to(model: Any, attention: Any, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The input of an attention module."""
    inputs: list[Any] = []
    handle = attention.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.append((args[0], kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    tokens, kwargs = inputs[0]
    return tokens, kwargs


def queries_and_keys(attention: Any, x: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """[2, b, h, n, c]."""
    qkv = F.linear(x, attention.qkv.weight, bias)
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)[:2]


def by_hand(name: str, model: Any, block: Any, x: Tensor) -> Tensor:
    """softmax(QK) from a block's own weights, as its paper has it: [b * w, h, q, k]."""
    attention = block.attn
    tokens, kwargs = given_to(model, attention, x)
    heads = getattr(attention, "num_heads", getattr(attention, "heads", 0))
    bias = attention.qkv.bias
    if bias is None:
        bias = torch.cat((attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias))
    if tokens.ndim == 4:
        tokens = tokens.flatten(1, 2)
    q, k = queries_and_keys(attention, tokens, heads, bias)
    if name == "SwinV2":
        scale = attention.logit_scale.clamp(max=math.log(100)).exp()
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale
        table = 16 * attention.cpb_mlp(attention.relative_coords_table).view(-1, heads).sigmoid()
    else:
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        table = getattr(attention, "relative_position_bias_table", None)
    if table is not None:
        scores = scores + table[attention.relative_position_index].permute(2, 0, 1)
    if kwargs.get("mask") is not None:
        mask = kwargs["mask"]
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    return scores.softmax(-1)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "ViT with registers", "BEiT", "Swin", "SwinV2"])
def test_weights_are_those_of_the_blocks_own_parameters(name: str) -> None:
    model, size = small(name, **(SHIFTED if name.startswith("Swin") else {}))
    x = images(*size)
    found, _ = read(model, x)
    blocks = LayerReader(model).blocks
    for each, block in zip(found, blocks, strict=True):
        expected = by_hand(name, model, block, x)
        torch.testing.assert_close(each.weights.flatten(0, 1), expected, atol=1e-5, rtol=0)
    if name.startswith("Swin"):
        assert any(any(block.shift_size) for block in blocks)


def test_hieras_weights_are_those_of_pooled_queries_in_mask_units() -> None:
    """Stage 2's first block pools 2 x 2 queries by their largest, inside mask units."""
    model, size = small("Hiera")
    x = images(*size)
    found, _ = read(model, x)
    for each, block in zip(found, model.blocks, strict=True):
        attention = block.attn
        tokens, _ = given_to(model, attention, x)
        units = len(each.places.keys)
        q, k = queries_and_keys(attention, tokens, attention.heads, attention.qkv.bias)
        q, k = (t.unflatten(2, (-1, units)).transpose(2, 3) for t in (q, k))  # b, h, w, n, c
        q = q.unflatten(3, (attention.q_stride, -1)).amax(3)
        expected = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).transpose(1, 2)
        torch.testing.assert_close(each.weights, expected, atol=1e-5, rtol=0)
    assert [len(each.places.keys) for each in found] == [12, 12, 12, 1, 1]
    assert model.blocks[1].attn.q_stride == 4


def test_places_in_shifted_windows() -> None:
    """A 4 x 4 map at stride 8 in windows of 2, shifted by 1: the last window holds all four corners."""

    class Block:
        window_size, shift_size = (2, 2), (1, 1)

    places = of_window(Block(), (4, 4), (32, 32))
    assert places.keys[0].tolist() == [[12, 12], [12, 20], [20, 12], [20, 20]]
    assert places.keys[3].tolist() == [[28, 28], [28, 4], [4, 28], [4, 4]]
    padded = of_window(Block(), (3, 3), (24, 24))
    assert padded.known_keys.sum() == 9
    assert padded.keys.nan_to_num(0)[3].tolist() == [[0, 0], [0, 0], [0, 0], [4, 4]]


@pytest.mark.parametrize(("name", "size"), [("Swin", (112, 112)), ("SwinV2", (64, 64)), ("SwinV2", (96, 96))])
def test_no_attention_across_the_edge_of_a_shifted_window(name: str, size: tuple[int, int]) -> None:
    """Tokens that meet only by the circular shift have a mask; 12 x 12 does not fill windows of 8."""
    model, _ = small(name, img_size=size, **SHIFTED)
    found, _ = read(model, images(*size))
    shifted = [e for e, b in zip(found, LayerReader(model).blocks, strict=True) if any(b.shift_size)]
    met = False
    for each in shifted:
        block = LayerReader(model).blocks[each.block]
        rows, _ = block.window_size
        stride = size[0] / block.input_resolution[0]
        far = each.places.distances > 2**0.5 * (rows - 1) * stride + 1e-3
        met |= bool(far.any())
        assert (each.weights * far[:, None]).sum(-1).max() < 1e-6
    assert met


def test_places_of_hieras_mask_units_and_pooled_queries() -> None:
    model, size = small("Hiera")
    found, _ = read(model, images(*size))
    for each in found[:3]:
        reach = each.places.keys.amax(1) - each.places.keys.amin(1)
        assert (reach < 32).all()  # a mask unit is 8 x 8 patches of 4 pixels
        inside = (each.places.queries - each.places.keys.mean(1, keepdim=True)).abs() < 16
        assert inside.all()
    for each in found:
        assert each.places.queries.flatten(0, 1).mean(0).tolist() == [size[0] / 2, size[1] / 2]
    pooled = found[1].places
    assert (len(pooled.queries[0]), len(pooled.keys[0])) == (16, 64)


def test_sam2s_places_follow_its_pooling() -> None:
    model, size = small("SAM 2")
    found, _ = read(model, images(*size))
    sides = [(e.places.queries.shape[1], e.places.keys.shape[1]) for e in found]
    assert sides[0] == (64, 64)
    assert sides[1] == (16, 64)
    for each in found:
        known = each.places.queries[each.places.known_queries]
        assert known.min() > 0
        assert known.max() < max(size)


def test_sam2s_global_blocks_are_no_windows() -> None:
    model, _ = small("SAM 2", stages=(1, 1, 3, 1))
    found, _ = read(model, images(448, 448, count=1))
    assert [len(each.places.keys) for each in found[3:5]] == [1, 4]
    assert found[3].weights.shape[-1] == 4 * found[4].weights.shape[-1]


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "xcit_nano_12_p16_224"])
def test_a_backbone_without_such_attention_is_refused(arch: str) -> None:
    model, _ = build(arch, num_classes=0)
    with pytest.raises(UserError, match=r"has no attention that can be measured.*receptive-field"):
        AttentionReader(model, arch, lambda _: None)
    layers, _ = LayerReader(model)(images(96, 96))
    assert len(layers) == len(LayerReader(model)) >= 4


@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_every_family_is_within_its_bounds(name: str) -> None:
    model, size = small(name)
    statistics = AttentionStatistics(ATTENTION)
    layers, _ = LayerReader(model)(images(*size), watch=AttentionReader(model, name, statistics.see))
    found = statistics.by_head()
    diagonal = math.dist((0, 0), size)
    assert len(found["distance"]) == len(layers)
    for what, most in (("distance", diagonal), ("entropy", math.log(4096)), ("KL", 20)):
        values = [value for block in found[what] for value in block]
        assert all(-1e-5 <= value < most for value in values), what
    assert sum(found["distance"][0]) > 0
