"""Pretraining on the real Slurm: requeued, and still the same weights, bit for bit."""

from pathlib import Path

import numpy as np
import torch
from desk import Desk, ask, until
from PIL import Image
from safetensors.torch import load_file


def pictures(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for k in range(12):
        path = folder / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 80)).save(path)
    return folder


def test_a_requeued_pretraining_ends_with_the_same_weights(desk: Desk) -> None:
    images = pictures(desk.folder / "pictures")
    words = ["--method", "mae", "--arch", "test_vit", "--recipe", "smoke", "--data", str(images)]
    words += ["--decoder-dim", "32", "--decoder-depth", "1", "--decoder-heads", "2"]
    words += ["--workers", "1"]
    words += ["--epochs", "120", "--checkpoint-seconds", "0.2"]
    cluster = ["--cluster", "slurm", "--slurm", "mem=3500M"]
    first = desk.module("pretrain.run", *words, "--out", "moved", *cluster)
    assert first.returncode == 0, first.stderr
    assert "Submitted as Slurm job" in first.stdout
    (told,) = desk.folder.glob("moved/slurm/*.json")
    until(lambda: list(desk.folder.glob("moved/checkpoint-*")), 120, "a checkpoint")
    ask("scontrol", "requeue", told.stem)  # at once: another command takes as long as the training
    again = desk.module("pretrain.run", *words, "--out", "moved", *cluster)
    assert again.stdout.startswith("A job is queued or running already")
    ended = desk.module("bench.status", "--watch", "--work-dir", "moved", "--results", "moved")
    log = (desk.folder / "moved/slurm" / told.stem / f"{told.stem}_0_log.err").read_text()
    assert ended.returncode == 0, ended.stdout + log
    assert "1 done" in ended.stdout
    assert "DUE TO JOB REQUEUE" in log
    alone = desk.module("pretrain.run", *words, "--out", "alone")
    assert alone.returncode == 0, alone.stderr
    one, two = (load_file(desk.folder / n / "backbone.safetensors") for n in ("moved", "alone"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert "exists already" in desk.module("pretrain.run", *words, "--out", "moved", *cluster).stdout


def test_two_nodes_pretrain_as_one_process(desk: Desk) -> None:
    """Without masks, which each process draws for itself. The bound is that of tests/pretrain/test_run.py."""
    images = pictures(desk.folder / "pictures")
    words = ["--method", "supervised", "--arch", "test_vit", "--recipe", "smoke"]
    words += ["--data", str(images)]
    words += ["--workers", "1", "--epochs", "1", "--precision", "fp32"]
    cluster = ["--cluster", "slurm", "--slurm", "nodes=2", "mem=3500M"]
    assert desk.module("pretrain.run", *words, "--out", "shared", *cluster).returncode == 0
    ended = desk.module("bench.status", "--watch", "--work-dir", "shared", "--results", "shared")
    assert ended.returncode == 0, ended.stdout
    assert desk.module("pretrain.run", *words, "--out", "alone").returncode == 0
    one, two = (load_file(desk.folder / n / "backbone.safetensors") for n in ("shared", "alone"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=1e-2)


def test_what_a_pretraining_s_end_was(desk: Desk) -> None:
    """A folder without a picture is found out on the node."""
    (desk.folder / "empty").mkdir()
    words = ["--method", "mae", "--arch", "test_vit", "--recipe", "smoke", "--data", "empty"]
    cluster = ["--cluster", "slurm", "--slurm", "mem=3500M"]
    assert desk.module("pretrain.run", *words, "--out", "out", *cluster).returncode == 0
    ended = desk.module("bench.status", "--watch", "--work-dir", "out", "--results", "out")
    assert ended.returncode == 1
    assert "1 failed" in ended.stdout
    assert "UserError" in ended.stdout
