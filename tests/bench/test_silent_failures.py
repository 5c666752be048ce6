"""Backbones that loaded almost right: what users of other systems found out late is refused here, or right.

One test for each kind in the field's own issue lists. Elsewhere: a decay that matches no layer
(tests/adapters/openmmlab/test_layer_decay.py), a norm behind the pooling or before it (test_loading.py),
windows of SwinV2 (test_adaptation.py), heads of MoCo v3 (formats/test_vit.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.backbones.extract import load_backbone
from bench.errors import UserError

ARCH = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def vit(**options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(ARCH, **{**SMALL, **options})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def saved(state: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save({"model": dict(state)}, folder / "w.pth")
    return folder / "w.pth"


def test_positions_of_another_length_are_resampled_never_skipped(tmp_path: Path) -> None:
    """Skipped, they would be random: here they are one vector, and stay that vector."""
    state = vit().state_dict()
    state["pos_embed"] = torch.arange(48.0).expand(1, 197, 48).clone()
    model, report = build(ARCH, weights=saved(state, tmp_path), img_size=128, **SMALL)
    assert report.resampled == ("pos_embed 1x197x48 -> 1x65x48",)
    assert torch.allclose(model.pos_embed, torch.arange(48.0).expand(1, 65, 48), atol=1e-4)


@pytest.mark.parametrize("length", [785, 578, 196, 198])
def test_positions_of_no_grid_are_refused_by_name(length: int, tmp_path: Path) -> None:
    """785 = 28^2 + 1 is a grid; 578 has one token more, 196 one less, than a square and a class token."""
    state = vit().state_dict() | {"pos_embed": torch.randn(1, length, 48)}
    path = saved(state, tmp_path)
    if length == 785:
        assert build(ARCH, weights=path, **SMALL)[1].resampled
        return
    with pytest.raises(UserError, match=f"pos_embed 1x{length}x48"):
        build(ARCH, weights=path, **SMALL)


@pytest.mark.parametrize("size", [(64, 256), (96, 320)])
def test_a_rectangular_input_has_its_rows_where_the_rows_are(size: tuple[int, int], tmp_path: Path) -> None:
    """Positions that know only their row give tokens that know only their row.

    At 64 x 256 there are as many patches as in the 8 x 8 of the file: the shape shows nothing.
    """
    state = vit(img_size=128).state_dict()
    rows = torch.randn(8, 1, 48).expand(8, 8, 48).flatten(0, 1)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], rows[None]], 1)
    weights = saved(state, tmp_path)
    model, report = build(ARCH, weights=weights, img_size=size, global_pool="", **SMALL)
    assert report.resampled[0].startswith("pos_embed 1x65x48")
    with torch.inference_mode():
        tokens = model.eval()(torch.ones(1, 3, *size))[0, 1:]
    grid = tokens.unflatten(0, (size[0] // 16, size[1] // 16))
    assert (grid - grid[:, :1]).abs().max() < 1e-4
    assert (grid[1:, 0] - grid[:-1, 0]).abs().amax(-1).min() > 1e-2


def test_layer_scale_is_not_dropped(tmp_path: Path) -> None:
    """DINOv2's went lost in ports to detectors, and the features with it."""
    scaled = vit(init_values=1e-5).state_dict()
    path = saved(scaled, tmp_path)
    with pytest.raises(UserError, match=r"4 unexpected .*blocks\.0\.ls1\.gamma"):
        build(ARCH, weights=path, **SMALL)
    model, report = build(ARCH, weights=path, init_values=1.0, **SMALL)
    assert (report.missing, report.unexpected) == ((), ())
    assert torch.equal(model.blocks[1].ls2.gamma, scaled["blocks.1.ls2.gamma"])


def test_layer_scale_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4 missing .*blocks\.0\.ls1\.gamma"):
        build(ARCH, weights=saved(vit().state_dict(), tmp_path), init_values=1e-5, **SMALL)


@pytest.mark.parametrize(("file", "model"), [(4, 0), (0, 4), (4, 8)])
def test_register_tokens_are_neither_dropped_nor_made_up(file: int, model: int, tmp_path: Path) -> None:
    options = {"no_embed_class": True}
    path = saved(vit(reg_tokens=file, **options).state_dict(), tmp_path)
    with pytest.raises(UserError, match="reg_token"):
        build(ARCH, weights=path, reg_tokens=model, **options, **SMALL)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    """Under a wrapper that nobody knows, a lenient loader matches nothing and trains from scratch."""
    state = {f"my_wrapper.of.{key}": value for key, value in vit().state_dict().items()}
    with pytest.raises(UserError, match="no known format"):
        build(ARCH, weights=saved(state, tmp_path), **SMALL)


@pytest.mark.parametrize("arch", ["test_convnext", "hiera_tiny_224"])
def test_half_a_norm_before_the_classifier_is_missing(arch: str, tmp_path: Path) -> None:
    """timm's own filter takes ConvNeXt's `head.norm.bias` for a classifier's once the weight is gone."""
    state = timm.create_model(arch, num_classes=5).state_dict()
    weight = state.pop("head.norm.weight")
    with pytest.raises(UserError, match=r"1 missing \(head\.norm\.weight\)"):
        build(arch, weights=saved(state, tmp_path), num_classes=0)
    state["head.norm.weight"] = weight[1:]
    with pytest.raises(UserError, match=r"1 of another shape \(head\.norm\.weight"):
        build(arch, weights=saved(state, tmp_path), num_classes=0)


@pytest.mark.parametrize("arch", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_maps_of_swin_are_channels_first_and_upright(arch: str, tmp_path: Path) -> None:
    """timm's own are channels last. A bright upper left quarter moves the features there most."""
    options = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 1, 1)}
    torch.manual_seed(0)
    path = saved(timm.create_model(arch, num_classes=0, **options).state_dict(), tmp_path)
    settings = {"img_size": (128, 256), "timm_options": options}
    extractor = load_backbone(Backbone(name="w", arch=arch, weights=path), frozen=True, **settings)
    dark = torch.zeros(1, 3, 128, 256)
    bright = dark.clone()
    bright[..., :64, :128] = 2.0
    before, after = extractor(dark), extractor(bright)
    assert [tuple(m.shape[1:]) for m in after] == [(12 * 2**i, 32 >> i, 64 >> i) for i in range(4)]
    moved = (after[0] - before[0]).abs().sum(1)[0]
    assert moved[:16, :32].mean() > 10 * max(moved[16:].mean(), moved[:, 32:].mean())


def test_class_token_and_mean_are_told_apart_by_the_norm_of_the_file(tmp_path: Path) -> None:
    """A fine-tuned MAE averages its patches: read by its class token, it is another backbone."""
    source = vit(global_pool="avg")
    model, report = build(ARCH, weights=saved(source.state_dict(), tmp_path), **SMALL)
    images = torch.randn(2, 3, 224, 224)
    assert (report.missing, report.unexpected) == ((), ())
    with torch.inference_mode():
        tokens = source.forward_features(images)
        assert torch.allclose(model.eval()(images), source.fc_norm(tokens[:, 1:].mean(1)), atol=1e-5)
