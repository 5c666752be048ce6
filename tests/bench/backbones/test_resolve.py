import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.backbones import checkpoints
from bench.backbones import resolve as backbones
from bench.backbones.architectures import architectures
from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.backbones.normalise import normalisation
from bench.backbones.resolve import resolve
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


def test_an_export_is_named_after_its_run_and_not_after_its_file(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "backbone.safetensors", arch="test_vit", name="r-mae-0.1")
    assert resolve(str(path)).name == "r-mae-0.1"


def test_entries_are_named_and_their_hash_is_held_to(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "a.safetensors")
    entry = Backbone(name="mine", arch="test_vit", weights=path, mean=(0.5, 0.5, 0.5))
    found = resolve("mine", {"mine": entry})
    assert found.weights8 != resolve(f"test_vit@{path}").weights8  # other mean, other numbers
    wrong = Backbone(name="mine", arch="test_vit", weights=path, sha256="0" * 64)
    with pytest.raises(UserError, match="its entry states 0000"):
        resolve("mine", {"mine": wrong})


def test_a_relative_path_is_looked_up_in_bench_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_export_of_rectangles_says_so_in_its_header(tmp_path: Path) -> None:
    """64 patches are a square to whoever counts them; these are 4 rows of 16."""
    source = vit(img_size=(64, 256), num_classes=0).eval()
    path = save(source, tmp_path / "w.safetensors", img_size="[64, 256]")
    same, report = build("test_vit", weights=path, img_size=(64, 256), num_classes=0)
    images = torch.randn(1, 3, 64, 256)
    assert report.resampled == ()
    with torch.inference_mode():
        assert torch.equal(same.eval()(images), source(images))

    wide, _ = build("test_vit", weights=path, img_size=(64, 512), num_classes=0)
    grids = [m.pos_embed[0, 1:].detach().reshape(4, -1, 64) for m in (source, wide)]
    between = torch.nn.functional.interpolate(
        grids[0].permute(2, 0, 1)[None], size=(4, 32), mode="bicubic", antialias=True
    )
    assert torch.allclose(grids[1], between[0].permute(1, 2, 0), atol=1e-5)


def test_half_precision_weights_become_single(tmp_path: Path) -> None:
    model, _ = build("test_vit", weights=save(vit().half(), tmp_path / "w.safetensors"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"does not fit test_convnext"):
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


MAE, AUGREG = (0.485, 0.456, 0.406), (0.5, 0.5, 0.5)


def test_the_tag_of_published_weights_says_how_their_images_were_normalised(tmp_path: Path) -> None:
    """The architecture's default tag was trained on 0.5 and 0.5, MAE's on ImageNet's."""
    arch = "vit_base_patch16_224"
    path = save(vit(), tmp_path / "mine.safetensors")
    assert normalisation(Backbone(name=arch, arch=arch))[0] == AUGREG
    assert normalisation(resolve(f"{arch}.mae@{path}"))[0] == MAE
    own = Backbone(name=arch, arch=arch, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert normalisation(own) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"Unknown backbone 'vit_base_patch16_224.mea'.*\.mae"):
        resolve(f"{arch}.mea@{path}")


def test_a_normalisation_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    path = save(vit(), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"does not state how its images .*ARCH\.TAG@mine") as caught:
        normalisation(resolve(f"vit_base_patch16_224@{path}"))
    assert "vit_base_patch16_224.mae has mean (0.485" in str(caught.value)
    assert normalisation(resolve(f"test_vit@{path}"))[0] == AUGREG  # timm has one of this name


def test_an_export_says_it_in_its_header(tmp_path: Path) -> None:
    header = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    path = save(vit(), tmp_path / "mine.safetensors", arch="vit_base_patch16_224", **header)
    assert normalisation(resolve(str(path))) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def hub(tmp_path: Path, repository: str, **files: str) -> Path:
    """A repository as the hub's client keeps it on a machine that once fetched it."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)
    for name, text in files.items():
        (snapshot / f"{name}.json").write_text(text)
    return snapshot


def test_a_repository_of_the_hub_is_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = '{"architecture": "test_vit", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}'
    save(vit(), hub(tmp_path, "me/mine", config=config) / "model.safetensors")

    found = resolve("hf-hub:me/mine")
    assert (found.name, found.arch) == ("mine", "test_vit")
    assert normalisation(found)[0] == (0.1, 0.2, 0.3)
    with pytest.raises(UserError, match=r"None of model\.safetensors.* of me/none is in"):
        resolve("hf-hub:me/none")
