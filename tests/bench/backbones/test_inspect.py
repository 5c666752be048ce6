"""`python -m bench.backbones inspect FILE`: what a file is, from the file alone."""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.backbones import __main__, build, resolve
from bench.backbones.inspect import inspect
from bench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def save(arch: str, path: Path, **arguments: object) -> Path:
    torch.manual_seed(0)
    state = timm.create_model(arch, **arguments).state_dict()
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"model": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "arch", ["resnet26d", "test_efficientnet", "convnext_atto", "hiera_tiny_224", "vit_pe_core_tiny_patch16_384"]
)
def test_timms_own_names_tell_the_architecture(tmp_path: Path, arch: str, suffix: str) -> None:
    found = inspect(save(arch, tmp_path / f"w{suffix}"))
    assert arch in found.archs
    assert found.sha256 == os.popen(f"sha256sum {tmp_path}/w{suffix}").read().split()[0]


def test_a_file_whose_shapes_are_one_architectures_needs_no_name(tmp_path: Path) -> None:
    path = save("test_vit", tmp_path / "mine.pth", img_size=96, num_classes=0)
    backbone = resolve.resolve(str(path))
    assert (backbone.name, backbone.arch) == ("mine", "test_vit")

    found = inspect(path)
    assert found.img_size == (96, 96)
    assert found.patch_size == (16, 16)
    assert found.part == "model"
    assert found.parameters == sum(
        p.numel() for p in timm.create_model("test_vit", img_size=96, num_classes=0).parameters()
    )


def test_an_encoders_own_head_counts_and_its_classifier_does_not(tmp_path: Path) -> None:
    """EfficientNet's `conv_head` is a layer like others."""
    found = inspect(save("test_efficientnet", tmp_path / "mine.pth"))
    bare = timm.create_model("test_efficientnet", num_classes=0)
    assert found.parameters == sum(v.numel() for v in bare.state_dict().values() if v.is_floating_point())


def test_several_architectures_of_the_same_shapes_are_named(tmp_path: Path) -> None:
    path = save("resnet18", tmp_path / "mine.pth")
    same = inspect(path).archs
    assert "resnet18" in same
    if len(same) > 1:
        with pytest.raises(UserError, match=r"it may be .*resnet18.*Give it as ARCH@"):
            resolve.resolve(str(path))


def test_a_file_of_nothing_known_says_its_keys(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "b": torch.ones(3)}, tmp_path / "w.pth")
    assert "not known; keys: a.weight, b" in str(inspect(tmp_path / "w.pth"))
    with pytest.raises(UserError, match="its shapes match no timm model"):
        resolve.resolve(str(tmp_path / "w.pth"))


def test_one_of_several_sets_of_weights_is_chosen(tmp_path: Path) -> None:
    """timm's average over training by default, any by name; each is a backbone of its own."""
    states = {}
    for seed, part in enumerate(("state_dict", "state_dict_ema")):
        torch.manual_seed(seed)
        states[part] = timm.create_model("test_vit", num_classes=0).state_dict()
    path = tmp_path / "last.pth.tar"
    torch.save({**states, "optimizer": {"state": {}}}, path)

    assert inspect(path).part == "state_dict_ema"
    assert inspect(path).parts == ("state_dict_ema", "state_dict")
    plain, named = (resolve.resolve(f"test_vit@{path}{part}") for part in ("", "#state_dict"))
    assert plain.weights8 != named.weights8
    assert named.name == "last.pth#state_dict"
    for backbone, part in ((plain, "state_dict_ema"), (named, "state_dict")):
        model, _ = build.build("test_vit", weights=path, part=backbone.part, num_classes=0)
        assert model.state_dict()["norm.bias"].equal(states[part]["norm.bias"])
        assert model.state_dict()["pos_embed"].equal(states[part]["pos_embed"])
    with pytest.raises(UserError, match=r"Unknown set of weights.*'teacher'.*state_dict"):
        inspect(path, "teacher")


def test_the_command_prints_a_block_a_file_and_a_paragraph_for_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save("test_vit", tmp_path / "mine.pth")
    assert __main__.main(["inspect", str(path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"file", "format", "architecture", "pretraining", "sha256"} <= lines.keys()
    assert lines["architecture"] == "test_vit"

    assert __main__.main(["inspect", str(tmp_path / "none.pth")]) == 2
    assert "There is no weights file" in capsys.readouterr().err
    assert __main__.main(["inspekt", str(path)]) == 2
