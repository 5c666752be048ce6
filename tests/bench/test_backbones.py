import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from bench import backbones, checkpoints
from bench.backbones import Backbone, architectures, build, normalisation, resolve
from bench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def vit(**arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", **arguments)


def save(model: torch.nn.Module, path: Path, **header: str) -> Path:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, header or None)
    return path


def test_the_names_read_from_the_source_are_those_that_timm_registers() -> None:
    assert architectures() == set(timm.list_models())


def test_a_name_is_scratch_and_a_file_knows_its_hash(tmp_path: Path) -> None:
    assert resolve("test_vit") == Backbone(name="test_vit", arch="test_vit", method="scratch")
    path = save(vit(), tmp_path / "mae-800.safetensors", arch="test_vit", method="mae")
    named = resolve(f"test_vit@{path}")
    alone = resolve(str(path))
    assert named == alone
    assert (alone.name, alone.arch, alone.method) == ("mae-800", "test_vit", "mae")
    assert alone.weights8 == os.popen(f"sha256sum {path}").read()[:8]


def test_entries_are_named_and_their_hash_is_held_to(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "a.safetensors")
    entry = Backbone(name="mine", arch="test_vit", weights=path, mean=(0.5, 0.5, 0.5))
    found = resolve("mine", {"mine": entry})
    assert found.weights8 != resolve(f"test_vit@{path}").weights8  # other mean, other numbers
    wrong = Backbone(name="mine", arch="test_vit", weights=path, sha256="0" * 64)
    with pytest.raises(UserError, match="its entry says 0000"):
        resolve("mine", {"mine": wrong})


def test_a_relative_path_is_looked_up_in_bench_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(vit(), tmp_path / "a.safetensors")
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    assert resolve("test_vit@a.safetensors").weights == (tmp_path / "a.safetensors").resolve()
    with pytest.raises(UserError, match=r"no weights file b\.safetensors"):
        resolve("test_vit@b.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_arrive_whole(tmp_path: Path, suffix: str) -> None:
    source = vit(num_classes=10)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save(source, path)
    torch.manual_seed(1)
    model, report = build("test_vit", weights=path, num_classes=0)
    assert report.matched == len(model.state_dict())
    wrapper = "module." if suffix == ".pth" else ""
    assert set(report.leftover) == {f"{wrapper}head.weight", f"{wrapper}head.bias"}
    image = torch.randn(2, 3, 160, 160)
    assert torch.equal(model.eval()(image), source.eval().forward_head(
        source.forward_features(image), pre_logits=True
    ))  # fmt: skip


def test_position_embeddings_are_resampled_and_reported(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "w.safetensors")
    model, report = build("test_vit", weights=path, img_size=(96, 128), num_classes=0)
    assert report.resampled == ("pos_embed 1x101x64 -> 1x49x64",)
    assert report.missing == ()
    assert model(torch.randn(1, 3, 96, 128)).isfinite().all()


def test_half_precision_weights_become_single(tmp_path: Path) -> None:
    model, _ = build("test_vit", weights=save(vit().half(), tmp_path / "w.safetensors"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"are not those of test_convnext"):
        build("test_convnext", weights=path)
    wide = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(UserError, match="of another shape"):
        build("test_vit", weights=save(wide, tmp_path / "wide.safetensors"))


def test_one_missing_key_is_enough_to_refuse(tmp_path: Path) -> None:
    state = vit().state_dict()
    del state["blocks.1.attn.qkv.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(blocks.1.attn.qkv.bias\)"):
        build("test_vit", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_said_to_be(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(vit().state_dict(), path) if suffix == ".pth" else save(vit(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"w\.\w+ \([\d,]+ bytes\) cannot be read.*truncated"):
        build("test_vit", weights=path)


def test_code_in_a_pickle_is_refused_and_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "exploded",)

    for name, dump in (("zip.pth", torch.save), ("plain.pth", None)):
        path = tmp_path / name
        if dump:
            dump({"model": Bomb()}, path)
        else:
            path.write_bytes(pickle.dumps({"model": Bomb()}))
        with pytest.raises(UserError, match="nothing in it was executed") as caught:
            build("test_vit", weights=path)
        assert "weights_only" not in str(caught.value), "torch's advice to load it all the same"
    assert not (tmp_path / "exploded").exists()


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "args": "x"}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no state dict of tensors"):
        checkpoints.read(tmp_path / "w.pth")


def test_a_safetensors_header_that_lies_is_caught(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(np.array([1 << 60], "<u8").tobytes() + b"{}")
    with pytest.raises(UserError, match="header is longer than the file"):
        resolve(str(tmp_path / "w.safetensors"))


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean resnet18\.a1_in1k"):
        backbones.resolve("resnet18.a1_in1kk")


def test_weights_bring_their_own_normalisation() -> None:
    """The architecture's default tag was trained on 0.5 and 0.5, MAE's on ImageNet's."""
    arch = "vit_base_patch16_224"
    assert normalisation(Backbone(name=arch, arch=arch))[0] == (0.5, 0.5, 0.5)
    mae = Backbone(name=f"{arch}.mae", arch=arch)
    assert normalisation(mae)[0] == (0.485, 0.456, 0.406)
    file = Backbone(name="a-file-of-mine", arch=arch)
    assert normalisation(file)[0] == (0.5, 0.5, 0.5)
    own = Backbone(name=arch, arch=arch, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert normalisation(own) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
