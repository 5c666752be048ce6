"""What hiding a part changes: hidden as said, and 1 where nothing is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_jobs import TRANSFORMERS, hooks, job, small
from contract_families import FAMILIES, images
from safetensors.torch import save_file
from torch import Tensor

from adapters.analysis import sample
from adapters.analysis.hiding import Hiding, mask_token, share, visible_cells
from adapters.analysis.layers import LayerReader
from adapters.analysis.occlusion import Curves
from adapters.analysis.similarity import CKA, centred_grams
from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.errors import UserError

RATIOS = (0.0, 0.3, 0.6, 0.9)
FEW: dict[str, Any] = {"ratios": RATIOS, "replicates": 50, "limit": 8, "gallery": 4, "neighbours": 2}
FEW |= {"batch_size": 4, "cell": 16, "img_size": 96}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """Ten images to look at, and others to vote."""
    (tmp_path / "folder").mkdir()
    for split in ("train", "val"):
        (tmp_path / "folder" / split).symlink_to(world / "species" / split)
    return tmp_path / "folder"


def hidden(images: Tensor, ratio: float, cells: tuple[int, int] = (7, 7)) -> Tensor:
    return visible_cells(ratio, images, cells, torch.arange(len(images)))


def test_as_many_cells_are_hidden_as_mae_counts_and_hidden_cells_stay_hidden() -> None:
    x = images(14, 14, count=5)
    shown = [hidden(x, ratio) for ratio in (0.1, 0.5, 0.9)]
    for visible, count in zip(shown, (44, 24, 4), strict=True):
        assert visible.sum((1, 2)).tolist() == [count] * 5
    assert (shown[0] >= shown[1]).all()
    assert (shown[1] >= shown[2]).all()
    assert not shown[1][0].equal(shown[1][1])  # each image its own
    assert hidden(x, 0.3, (10, 10)).sum((1, 2)).tolist() == [70] * 5  # 100 * (1 - 0.3) is 70


def make(name: str, by: str, model: Any, size: int, **changes: Any) -> Hiding:
    arch = FAMILIES[name].arch
    settings = {"by": by, "img_size": size, "cell": 16, **changes}
    work = job("occlusion", Path("nowhere"), arch, **settings)
    return Hiding(work, model)


def test_mean_colour_fills_hidden_cells_alone() -> None:
    model, size = small("ViT")
    x = images(*size)
    found = make("ViT", "mean-colour", model, 96)(x, 0.5, torch.arange(2))
    shown = found.visible[:, None].expand_as(x) == 1
    assert found.images[shown].equal(x[shown])
    assert found.images[~shown].abs().max() == 0
    assert found.visible.mean().item() == 0.5
    assert share(found.visible, (6, 6)).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["ViT", "DeiT", "ViT with registers"])
def test_token_dropping_is_a_model_run_on_what_is_left(name: str) -> None:
    """Embeddings and positions of the whole image, then the visible ones through the blocks, by hand."""
    model, size = small(name)
    x = images(*size)
    found = make(name, "token-drop", model, size[0], cell=0)(x, 0.6, torch.arange(2))
    layers, _ = LayerReader(model)(x, found.visible_patches)
    assert hooks(model) == 0
    prefix = model.num_prefix_tokens
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        visible = found.visible_patches
        assert visible is not None
        patches = torch.stack([t[prefix:][k] for t, k in zip(tokens, visible, strict=True)])
        expected = torch.cat((tokens[:, :prefix], patches), 1)
        for layer, block in zip(layers, model.blocks, strict=True):
            expected = block(expected)
            torch.testing.assert_close(layer.tokens, expected[:, prefix:])
            torch.testing.assert_close(layer.prefix, expected[:, :prefix])
    total = model.patch_embed.num_patches
    assert visible.shape == (2, int(total * 0.4))
    grid = tuple(model.patch_embed.grid_size)
    shown = share(found.visible, grid)
    assert all(shown[i, visible[i]].min() == 1 for i in range(2))


@pytest.mark.parametrize("name", ["BEiT", "EVA-02", "Swin", "SwinV2", "Hiera", "ResNet"])
def test_where_tokens_cannot_be_dropped_it_is_said(name: str) -> None:
    model, size = small(name)
    with pytest.raises(UserError, match=r"cannot be dropped.*--protocol frozen"):
        make(name, "token-drop", model, size[0])


def weights(folder: Path, width: int = 64) -> Backbone:
    """A ViT's file that contains its mask token."""
    torch.manual_seed(0)
    model, _ = build("test_vit", num_classes=0)
    state = {**model.state_dict(), "mask_token": torch.full((1, 1, width), 0.5)}
    path = folder / f"simmim-{width}.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, str(path))
    return Backbone(name="simmim", arch="test_vit", weights=path, sha256=f"{width}" * 32)


def test_the_mask_token_replaces_hidden_patches(tmp_path: Path) -> None:
    model, size = small("ViT")
    x = images(*size)
    work = job("occlusion", tmp_path, "test_vit", "frozen-mask-token", backbone=weights(tmp_path), **FEW)
    hide = Hiding(work, model)
    occluded = hide(x, 0.5, torch.arange(2))
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    LayerReader(model)(x)
    LayerReader(model)(x, watch=hide.masking(occluded))
    whole, masked = (tokens[:, 1:] for tokens in seen)
    shown = share(occluded.visible, (6, 6)) == 1
    assert masked[shown].equal(whole[shown])
    with torch.no_grad():
        alone = model.norm_pre(model._pos_embed(torch.full((2, 6, 6, 64), 0.5)))[:, 1:]
    torch.testing.assert_close(masked[~shown], alone[~shown])


def test_weights_without_a_mask_token_of_the_encoders_width(tmp_path: Path) -> None:
    model, _ = small("ViT")
    scratch = job("occlusion", tmp_path, "test_vit", "frozen-mask-token")
    with pytest.raises(UserError, match=r"test_vit holds no mask token.*frozen-token-drop"):
        mask_token(scratch, model)
    mae = job("occlusion", tmp_path, "test_vit", "frozen-mask-token", backbone=weights(tmp_path, 32))
    with pytest.raises(UserError, match="which is a decoder's"):
        mask_token(mae, model)


@pytest.mark.parametrize("name", [*sorted(TRANSFORMERS), "ResNet", "ConvNeXt"])
def test_every_family_and_nothing_hidden_is_exactly_1(name: str) -> None:
    model, size = small(name)
    x = images(*size, count=8)
    reader, curves = LayerReader(model), Curves((0.0, 0.5))
    for batch in x.split(4):
        layers, _ = reader(batch)
        curves.starts(layers)
        ones = torch.ones_like(batch[:, 0])
        curves.add(0.0, reader(batch)[0], ones, None)
        half = ones.clone()
        half[:, : size[0] // 2] = 0
        curves.add(0.5, reader(batch * half[:, None])[0], half, None)
    found = curves.finished(20)
    kinds = {"", "_visible"} if layers[0].class_token is None else {"", "_visible", "_class"}
    for what in {f"{name}{kind}" for name in ("CKA", "cosine") for kind in kinds}:
        lines = [found.curves[f"{what}/{layer}"] for layer in range(len(layers))]
        assert [line[0] for line in lines] == [1.0] * len(layers), what
        below = 1.0 if what.endswith("_visible") else 1 - 1e-9  # a window may see nothing of what is hidden
        assert all(line[1] <= below for line in lines), what
    assert ("CKA_class" in found.metrics) == ("_class" in kinds)
    assert found.metrics["CKA"] == pytest.approx(found.metrics["CKA/0.5"])


def test_curves_against_numpy() -> None:
    """CKA of pooled features is summed over minibatches, and cosine is the mean over images."""
    model, size = small("ViT")
    x = images(*size, count=12)
    hide = make("ViT", "mean-colour", model, 96)
    curves, expected, cosines = Curves((0.0, 0.6)), CKA(), []
    for batch in x.split(6):
        whole, _ = LayerReader(model)(batch)
        occluded = hide(batch, 0.6, torch.arange(6))
        layers, _ = LayerReader(model)(occluded.images)
        curves.starts(whole)
        curves.add(0.0, whole, torch.ones_like(batch[:, 0]), None)
        curves.add(0.6, layers, occluded.visible, None)
        one, two = whole[3].tokens.mean(1), layers[3].tokens.mean(1)
        expected.update(centred_grams([one]), centred_grams([two]))
        a, b = one.numpy().astype(float), two.numpy().astype(float)
        cosines += list((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        shown = occluded.visible[:, ::16, ::16].flatten(1).bool()
        tokens = (layer.tokens[shown].unflatten(0, (6, -1)) for layer in (whole[3], layers[3]))
        visible = torch.cosine_similarity(*tokens, dim=-1).mean().item()
    found = curves.finished(200)
    assert found.curves["CKA/3"][1] == pytest.approx(float(expected.value()), abs=1e-6)
    assert found.curves["cosine/3"][1] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found.curves["cosine_low/3"][1] < found.curves["cosine/3"][1]
    assert found.curves["cosine_high/3"][1] > found.curves["cosine/3"][1]
    assert found.curves["cosine_visible/3"][1] == pytest.approx(visible, abs=0.05)
    for what in ("CKA", "cosine"):
        lines = [found.curves[f"{what}/{layer}"][1] for layer in range(6)]
        assert found.metrics[what] == pytest.approx(np.mean(lines))
        assert found.metrics[f"{what}_low"] <= found.metrics[what] <= found.metrics[f"{what}_high"]
    half_width = (found.curves["cosine_high/3"][1] - found.curves["cosine_low/3"][1]) / 2
    assert half_width == pytest.approx(1.96 * np.std(cosines) / math.sqrt(12), rel=0.3)


def test_images_of_nothing_but_noise_have_no_similarity_left() -> None:
    """The unbiased estimator says 0 where what is seen has nothing to do with the whole."""
    model, size = small("ViT")
    curves = Curves((0.0, 0.5))
    for start in range(12):
        generator = torch.Generator().manual_seed(start)
        one, two = (torch.randn(16, 3, *size, generator=generator) for _ in range(2))
        curves.starts(LayerReader(model)(one)[0])
        curves.add(0.5, LayerReader(model)(two)[0], torch.ones_like(two[:, 0]), None)
    assert abs(curves.finished(10).metrics["CKA/layer0"]) < 0.1


@pytest.mark.parametrize("protocol", ["frozen", "frozen-token-drop"])
def test_a_record_has_curves_intervals_and_accuracy(folder: Path, protocol: str) -> None:
    work = job("occlusion-folder", folder, "test_vit", protocol, **FEW)
    outcome = work.task.evaluate(work)
    assert outcome.metrics.keys() >= {metric.name for metric in work.task.metrics}
    assert outcome.curves["hidden"] == list(RATIOS)
    for layer in range(6):
        low, middle, high = (outcome.curves[f"cosine{end}/{layer}"] for end in ("_low", "", "_high"))
        assert low <= middle <= high
        assert middle[0] == 1
    assert outcome.metrics["knn_whole"] == outcome.curves["knn"][0] == outcome.metrics["knn/0"]
    hidden = outcome.curves["knn"][1:]
    assert outcome.metrics["knn_occluded"] == pytest.approx(sum(hidden) / 3)
    assert outcome.metrics["images"] == 8
    assert (work.work_dir / "beside/occlusion.png").read_bytes().startswith(b"\x89PNG")


def test_images_without_classes_have_no_accuracy(world: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").symlink_to(world / "images" / "val")
    work = job("occlusion-imagenet-samples", tmp_path / "flat", "test_vit", **{**FEW, "limit": 8})
    outcome = work.task.evaluate(work)
    assert outcome.metrics["images"] == 8
    assert not any(name.startswith("knn") for name in outcome.metrics)


def test_a_ratio_that_leaves_nothing_to_see(scenes: Path) -> None:
    work = job("occlusion", scenes, "test_vit", cell=32, img_size=96, ratios=(0.0, 0.9))
    with pytest.raises(UserError, match=r"ratio of 0.9 leaves no token of the 3 x 3 cells"):
        work.task.evaluate(work)


def test_too_few_images(folder: Path) -> None:
    few = job("occlusion-folder", folder, "test_vit", **{**FEW, "limit": 4})
    with pytest.raises(UserError, match="4 images are too few"):
        few.task.evaluate(few)
    voters = job("occlusion-folder", folder, "test_vit", **{**FEW, "neighbours": 20})
    with pytest.raises(UserError, match=r"images to vote, fewer than the 20 neighbours"):
        voters.task.evaluate(voters)


def test_a_dropped_last_block_is_not_analysed(scenes: Path) -> None:
    work = job("occlusion", scenes, "test_vit", drop_blocks=2)
    model, _ = sample.load(work)
    assert len(LayerReader(model)) == 4
