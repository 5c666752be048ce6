"""What a pretraining at work exports on its way."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import pictures

from bench.backbones.resolve import resolve
from pretrain import run

WORDS = ("--method", "mae", "--arch", "test_vit", "--recipe", "smoke", "--workers", "1")
DECODER = ("--decoder-dim", "32", "--decoder-depth", "1", "--decoder-heads", "2")


def test_a_snapshot_is_the_encoder_after_so_many_epochs(tmp_path: Path) -> None:
    words = [*WORDS, *DECODER, "--data", str(pictures(tmp_path / "pictures"))]
    words += ["--epochs", "5", "--snapshot-epochs", "2", "--out", str(tmp_path / "out")]
    assert run.main(words) == run.DONE
    snapshots = sorted(tmp_path.glob("out/snapshots/*"))
    assert [path.name for path in snapshots] == ["epoch-0002.safetensors", "epoch-0004.safetensors"]
    early, late, last = (load_file(path) for path in (*snapshots, tmp_path / "out/backbone.safetensors"))
    assert early.keys() == late.keys() == last.keys()
    assert not torch.equal(early["blocks.0.attn.qkv.weight"], late["blocks.0.attn.qkv.weight"])
    with safe_open(snapshots[1], "pt") as file:
        header = file.metadata()
    assert (header["name"], header["epochs"]) == ("out-epoch-4", "4")
    found = resolve(str(snapshots[1]), {})
    assert (found.name, found.arch, found.method) == ("out-epoch-4", "test_vit", "mae")


def test_simmims_mask_token_lies_beside_its_encoder(tmp_path: Path) -> None:
    words = ["--method", "simmim", *WORDS[2:], "--data", str(pictures(tmp_path / "pictures"))]
    words += ["--epochs", "5", "--snapshot-epochs", "3", "--out", str(tmp_path / "out")]
    assert run.main(words) == run.DONE
    (early,) = map(load_file, tmp_path.glob("out/snapshots/*"))
    last = load_file(tmp_path / "out/backbone.safetensors")
    assert early.keys() == last.keys()
    assert not torch.equal(early["mask_token"], last["mask_token"])  # it is learnt


def test_snapshots_change_no_weight(tmp_path: Path) -> None:
    words = [*WORDS, *DECODER, "--data", str(pictures(tmp_path / "pictures")), "--epochs", "3"]
    with_them = [*words, "--snapshot-epochs", "1", "--out", str(tmp_path / "with")]
    assert run.main(with_them) == run.DONE
    assert run.main([*words, "--out", str(tmp_path / "without")]) == run.DONE
    one, two = (load_file(tmp_path / n / "backbone.safetensors") for n in ("with", "without"))
    assert all(torch.equal(one[key], two[key]) for key in two)
