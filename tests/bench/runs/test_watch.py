"""Weights that appear while the command watches: real files, real runs."""

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file
from toy_desk import Desk

TASK = ("--task", "toy/line")


def weights(path: Path, seed: float) -> None:
    """Write weights as a pretraining exports them."""
    model = timm.create_model("test_vit", num_classes=0)
    state = {key: value + seed for key, value in model.state_dict().items()}
    header = {"name": f"epoch-{seed}", "arch": "test_vit", "method": "mae"}
    header |= {"mean": json.dumps([0.5] * 3), "std": json.dumps([0.5] * 3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    save_file(state, temporary, metadata=header)
    temporary.replace(path)


def backbones(desk: Desk, count: int) -> set[str]:
    """The backbones of the records, once there are `count`."""
    desk.until(lambda: len(desk.records()) >= count, f"not {count} records")
    return {record["backbone"]["name"] for record in desk.records()}


@pytest.mark.long
def test_each_snapshot_is_evaluated_once_until_the_last(desk: Desk) -> None:
    out = desk.folder / "mae"
    weights(out / "snapshots/epoch-0001.safetensors", 1)
    (out / "snapshots/.epoch-0002.safetensors").write_bytes(b"half of it")
    watching = desk.start(*TASK, "--watch", "mae")
    assert backbones(desk, 1) == {"epoch-1"}
    weights(out / "snapshots/epoch-0002.safetensors", 2)
    backbones(desk, 2)
    weights(out / "backbone.safetensors", 3)
    printed, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0, errors
    assert backbones(desk, 3) == {"epoch-1", "epoch-2", "epoch-3"}
    assert printed.count("1 of 1 done") == 3
    assert "3 of 3 done" in desk.run(*TASK, "--watch", "mae").stdout
    assert [p.read_text() for p in desk.folder.glob("runs/**/started")] == ["x"] * 3


def test_what_cannot_be_watched(desk: Desk) -> None:
    nowhere = desk.run(*TASK, "--watch", "nowhere")
    assert "--watch nowhere is not a folder" in nowhere.stderr
    both = desk.run(*TASK, "--watch", ".", "--backbone", "test_vit")
    assert "Leave --backbone and --suite out" in both.stderr
    assert nowhere.returncode == both.returncode == 2
