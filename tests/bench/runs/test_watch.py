"""Weights that appear while the command watches: real files, real runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import timm
from safetensors.torch import save_file

ROOT = Path(__file__).parents[3]


def weights(path: Path, seed: float) -> None:
    """An export such as a pretraining leaves."""
    model = timm.create_model("test_vit", num_classes=0)
    state = {key: value + seed for key, value in model.state_dict().items()}
    header = {"name": f"epoch-{seed}", "arch": "test_vit", "method": "mae"}
    header |= {"mean": json.dumps([0.5] * 3), "std": json.dumps([0.5] * 3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    save_file(state, temporary, metadata=header)
    temporary.replace(path)


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    (folder / "data/line").mkdir(parents=True, exist_ok=True)
    (folder / "data/line/points.txt").write_text("0 0\n1 1\n2 4\n3 9\n")
    entries = ("--include", str(Path(__file__).parents[1] / "toy_entries.py"))
    places = {"PYTHONPATH": str(ROOT), "BENCH_DATA": "data", "BENCH_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "bench.run", *entries, "--task", "toy/line", *words],
        cwd=folder,
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_records(folder: Path, count: int) -> list[str]:
    """The backbones that there are records of, once there are so many."""
    deadline = time.monotonic() + 120
    while len(found := sorted(folder.glob("results/**/*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [json.loads(path.read_text())["backbone"]["name"] for path in found]


def test_each_snapshot_is_evaluated_once_until_the_last(tmp_path: Path) -> None:
    out = tmp_path / "mae"
    weights(out / "snapshots/epoch-0001.safetensors", 1)
    (out / "snapshots/.epoch-0002.safetensors").write_bytes(b"half of it")
    watching = start(tmp_path, "--watch", "mae")
    assert await_records(tmp_path, 1) == ["epoch-1"]
    weights(out / "snapshots/epoch-0002.safetensors", 2)
    await_records(tmp_path, 2)
    weights(out / "backbone.safetensors", 3)
    said, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0, errors
    assert set(await_records(tmp_path, 3)) == {"epoch-1", "epoch-2", "epoch-3"}
    assert said.count("1 of 1 done") == 3
    said, _ = start(tmp_path, "--watch", "mae").communicate(timeout=120)
    assert "3 of 3 done" in said
    assert [p.read_text() for p in tmp_path.glob("runs/**/started")] == ["x"] * 3


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    nowhere = start(tmp_path, "--watch", "nowhere")
    assert "--watch nowhere is not a folder" in nowhere.communicate(timeout=60)[1]
    both = start(tmp_path, "--watch", ".", "--backbone", "test_vit")
    assert "Leave --backbone and --suite out" in both.communicate(timeout=60)[1]
    assert nowhere.returncode == both.returncode == 2
