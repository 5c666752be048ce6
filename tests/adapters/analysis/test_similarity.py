"""Similarity of layers: a pass that attention shares, two backbones, and what cannot be compared."""

import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_jobs import TRANSFORMERS, job, small
from contract_families import images

from adapters.analysis import pair, sample, whole_images
from adapters.analysis.layers import LayerReader
from adapters.analysis.protocol import SCENES_LAYOUT
from adapters.analysis.similarity import CKA, centred_grams, metrics
from bench.backbones.backbone import Backbone
from bench.backbones.resolve import resolve
from bench.errors import UserError
from bench.run import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenes(world: Path, tmp_path: Path) -> Path:
    (tmp_path / "scenes").symlink_to(world)
    return tmp_path / "scenes"


def features(work: Any) -> list[list[torch.Tensor]]:
    """Every minibatch's mean patches by block, from the blocks' own outputs."""
    model, _ = sample.load(work)
    means: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *given: means.append(given[2][:, 1:].mean(1)))
    for batch, _ in sample.batches(sample.draw(work, SCENES_LAYOUT).images, work, ""):
        with torch.no_grad():
            model(batch)
    depth = len(model.blocks)
    return [means[start : start + depth] for start in range(0, len(means), depth)]


def test_the_matrix_is_cka_of_the_blocks_own_outputs(scenes: Path) -> None:
    work = job("similarity", scenes, "test_vit")
    outcome = work.task.evaluate(work)
    expected = CKA()
    for layers in features(work):
        expected.update(centred_grams(layers))
    matrix = np.array([outcome.curves[f"CKA/{k}"] for k in range(6)])
    np.testing.assert_allclose(matrix, expected.value().numpy(), atol=1e-6)
    assert np.diag(matrix).tolist() == [1.0] * 6
    assert 0 < outcome.metrics["CKA_neighbours"] <= 1
    assert outcome.metrics["CKA_first_last"] == matrix[0, -1]
    assert (work.work_dir / "beside/similarity.png").read_bytes().startswith(b"\x89PNG")


def test_headlines_by_hand() -> None:
    found = metrics(np.array([[1, 0.9, 0.3], [0.9, 1, 0.6], [0.3, 0.6, 1]]))
    assert found == pytest.approx(
        {"CKA": 0.6, "CKA_neighbours": 0.75, "CKA_first_last": 0.3} | {"CKA/0": 0.6, "CKA/1": 0.75, "CKA/2": 0.45}
    )


def test_attention_and_similarity_share_a_pass(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    measure = whole_images._pass
    monkeypatch.setattr(whole_images, "_pass", lambda *a: passes.append(1) or measure(*a))
    first, second = (job(name, scenes, "test_vit") for name in ("attention", "similarity"))
    first.task.evaluate(first)
    shared = second.task.evaluate(second)
    assert len(passes) == 1
    tokens = job("similarity", scenes, "test_vit", "frozen-tokens")
    other = job("similarity", scenes, "test_vit", seed=1)
    found = [work.task.evaluate(work).metrics["CKA"] for work in (tokens, other)]
    assert len(passes) == 3
    assert shared.metrics["CKA"] not in found


@pytest.mark.parametrize("protocol", ["frozen", "frozen-tokens", "frozen-class"])
@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_every_family(name: str, protocol: str) -> None:
    model, size = small(name)
    layers, _ = LayerReader(model)(images(*size, count=6))
    kind = protocol.partition("-")[2] or "pooled"
    if kind == "class" and layers[0].class_token is None:
        with pytest.raises(UserError, match="this architecture has none"):
            whole_images._vectors(layers[0], kind)
        return
    found = CKA()
    found.update(centred_grams([whole_images._vectors(layer, kind) for layer in layers]))
    assert found.value().isfinite().all()
    assert found.value().diagonal().eq(1).all()


def test_registers_are_no_class_token() -> None:
    without, size = small("ViT with registers", class_token=False, global_pool="avg")
    with_one, _ = small("ViT with registers")
    x = images(*size)
    assert LayerReader(without)(x)[0][0].prefix.shape[1] == 4
    assert LayerReader(without)(x)[0][0].class_token is None
    (layer, *_), _ = LayerReader(with_one)(x)
    assert layer.class_token is not None
    assert layer.class_token.equal(layer.prefix[:, 0])


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, world: Path) -> None:
    """By a process of the loader's, too."""
    shutil.copytree(world / "images" / "val", tmp_path / "flat")
    (tmp_path / "flat" / "000003.png").write_bytes(b"no image")
    work = job("similarity-imagenet-samples", tmp_path / "flat", "test_vit")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"^The image .*000003.png .* cannot be read"):
            work.task.evaluate(dataclasses.replace(work, num_workers=workers))


def test_hieras_map_is_in_the_order_of_the_image() -> None:
    """What one corner of the image changes in the first stage is that corner of the map."""
    model, size = small("Hiera")
    x = images(*size)
    changed = x.clone()
    changed[..., :8, :8] += 3
    one, two = (LayerReader(model)(each)[0][0] for each in (x, changed))
    assert one.grid == (size[0] // 4, size[1] // 4)
    moved = (one.tokens - two.tokens).abs().sum(2).unflatten(1, one.grid)[0] > 1e-4
    rows, columns = moved.nonzero().amax(0)
    assert moved[0, 0]
    assert max(rows, columns) < 8  # its mask unit


def test_two_backbones_on_the_command_line(world: Path, tmp_path: Path, capsys: Any) -> None:
    """From their records alone; a backbone with itself is its own matrix."""
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(world / "species" / split)
    asked = ["--data-root", str(tmp_path / "data"), "--task", "analysis/similarity-folder"]
    asked += ["--results", str(tmp_path / "results"), "--work-dir", str(tmp_path / "runs")]
    assert main([*asked, "--backbone", "test_vit", "test_resnet", "--smoke"]) == 0
    resnet, vit = sorted((tmp_path / "results").glob("analysis/*/*/*.json"))
    matrix = pair.between(vit, resnet)
    assert matrix.shape == (6, 5)
    np.testing.assert_allclose(matrix, pair.between(resnet, vit).T, atol=1e-12)
    assert np.diag(pair.between(vit, vit)).tolist() == pytest.approx([1.0] * 6)
    capsys.readouterr()
    assert pair.main([str(vit), str(resnet), "--out", str(tmp_path / "two.png")]) == 0
    assert f"{matrix[0, 0]:5.2f}" in capsys.readouterr().out
    assert (tmp_path / "two.png").is_file()

    assert main([*asked, "--backbone", "test_vit", "--smoke", "--seeds", "2"]) == 0
    other = vit.with_name(vit.name.replace("seed0", "seed1"))
    with pytest.raises(UserError, match="are not of the same images"):
        pair.between(other, resnet)

    grams = pair.sidecar(vit, pair.GRAMS)
    grams.unlink()
    assert pair.main([str(vit), str(resnet)]) == 2
    assert f"{grams} are not there" in capsys.readouterr().err


def test_a_layer_that_says_the_same_of_all_images(scenes: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from bench.backbones.build import build

    model, _ = build("test_vit", num_classes=0)
    state = {k: torch.zeros_like(v) if k.startswith("patch_embed") else v for k, v in model.state_dict().items()}
    save_file(state, str(tmp_path / "blind.safetensors"))
    blind = Backbone(name="blind", arch="test_vit", weights=tmp_path / "blind.safetensors", sha256="0" * 64)
    work = job("similarity", scenes, "test_vit", backbone=blind)
    with pytest.raises(UserError, match=r"layer 0 are the same for all images.*0 / 0"):
        work.task.evaluate(work)


@pytest.mark.data
def test_a_pretrained_backbone_on_photographs(tmp_path: Path) -> None:
    """Stages next to each other say more alike than the first and the last."""
    shared = Path(__file__).parents[4] / "shared"
    data = Path(os.environ.get("BENCH_DATA", shared / "data")) / "imagenet-samples"
    weights = Path(os.environ.get("BENCH_WEIGHTS", shared / "weights"))
    file = weights / "tf_efficientnet_lite0.timm.safetensors"
    if not (data.is_dir() and file.is_file()):
        pytest.skip(f"no real images or weights: {data} or {file} does not exist (set BENCH_DATA, BENCH_WEIGHTS)")
    backbone = resolve(f"tf_efficientnet_lite0@{file}")
    given = {"backbone": backbone, "img_size": 128, "limit": 32, "batch_size": 16}
    work = job("similarity-imagenet-samples", data, backbone.arch, **given)
    work = dataclasses.replace(work, work_dir=tmp_path / "work", cache=tmp_path / "cache")
    found = work.task.evaluate(work).metrics
    assert found["CKA_neighbours"] > found["CKA_first_last"] + 0.2
    assert found["CKA_neighbours"] < 1


def test_an_interrupted_write_leaves_no_cache(scenes: Path) -> None:
    work = job("similarity", scenes, "test_vit")
    before = work.task.evaluate(work).metrics
    assert {p.suffix for p in (work.cache / "analysis").iterdir()} == {".pt"}
    shutil.rmtree(work.cache)
    assert all(math.isclose(v, before[k]) for k, v in work.task.evaluate(work).metrics.items())
