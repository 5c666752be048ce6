import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records import Result, RunKey, Store

sys.path.insert(0, str(Path(__file__).parent))  # what tests share here

TRIALS = [{"lr": 0.1, "top1": 48.0}, {"lr": 0.01, "top1": 50.0}]
Write = Callable[..., Path]


def make(**changes: Any) -> Result:
    """A finished run of `vit` on classification/scenes, top1 = 50, less the changes."""
    name, weights = changes.pop("backbone", "vit"), changes.pop("weights", "a1" * 32)
    protocol = changes.pop("protocol", "frozen")
    method, header = changes.pop("method", "mae"), changes.pop("pretraining", {})
    backbone = {"name": name, "arch": name, "method": method, "weights": None}
    fields: dict[str, Any] = {
        "status": "done",
        "error": None,
        "backbone": {**backbone, "weights_sha256": weights, "pretraining": header},
        "load_report": {"matched": 1, "missing": [], "unexpected": [], "resampled": []},
        "task": "classification/scenes",
        "task_version": 1,
        "protocol": {
            "name": protocol,
            "frozen": protocol.startswith("frozen"),
            "source": "a linear head",
            "expected": "none published",
        },
        "digest": "d1" * 32,
        "data": {"name": "scenes", "fingerprint": "f" * 64, "splits": {"train": 2, "val": 2}},
        "selection": {"selected_on": "train-part", "reported_on": "val", "trials": TRIALS, "epoch": 5},
        "seed": 0,
        "metrics": {"top1": 50.0},
        "primary": "top1",
        "higher_is_better": True,
        "cost": {"device_hours": 0.25, "images_per_second": 100.0, "device": "CPU, 2 cores"},
        "environment": {},
        "git": {"commit": "0" * 40, "dirty": False},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T01:00:00+00:00",
    }
    return Result(**{**fields, **changes})


@pytest.fixture
def result() -> Callable[..., Result]:
    return make


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def write(results_dir: Path) -> Write:
    """Write a record where `bench.run` would; returns its path."""

    def write_one(**changes: Any) -> Path:
        made = make(**changes)
        sha = made.backbone["weights_sha256"]
        key = RunKey(
            task=made.task,
            backbone=made.backbone["name"],
            weights8=sha[:8] if sha else "scratch",
            digest=made.digest,
            seed=made.seed,
        )
        return Store(results_dir).write(key, made)

    return write_one
