"""Every family by two processes over gloo: the numbers of one process, each of a prime number of images once."""

import dataclasses
import functools
from pathlib import Path

import pytest
from family_jobs import FAMILIES, bind, job

from adapters.openmmlab import runner
from bench.runs import ranks

IMAGES = 7  # of train and of val: two ranks test eight, one of them twice
# SILog is not a mean over images: each rank computes its own, as in MIM-Depth. A small rate makes that negligible.
CHANGES = {"depth": {"lr": 1e-5}}

Metrics = dict[str, dict[str, float]]


def evaluate(folder: Path, world_size: int, rank: int) -> Metrics:
    import torch

    torch.set_num_threads(1)
    found = {}
    for family in FAMILIES:
        changes = {"limit": IMAGES, "drop_path": 0.0, **CHANGES.get(family, {})}
        work = job(family, folder, "test_resnet", "finetune", **changes)
        work_dir = work.work_dir / f"{family}-{world_size}"
        work = dataclasses.replace(work, world_size=world_size, work_dir=work_dir)
        config = bind(work)
        if family == "segmentation":  # dropout is drawn by rank
            for head in ("decode_head", "auxiliary_head"):
                config["model"][head]["dropout_ratio"] = 0.0
        found[family] = dict(runner.run(config, work).metrics)
    return found


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_find_what_one_process_finds(world: Path, tmp_path: Path) -> None:
    (tmp_path / "scenes").symlink_to(world)
    alone = evaluate(tmp_path / "scenes", 1, 0)
    shared: Metrics = ranks.call(functools.partial(evaluate, tmp_path / "scenes", 2), 2)
    for family, metrics in alone.items():
        primary = FAMILIES[family].TASKS[0].metrics[0].name
        assert any(metrics.values()), family
        assert shared[family][primary] == pytest.approx(metrics[primary], abs=1e-4), family
        # A pixel of 28,672 with two classes as good as equal may be of either.
        sure = {name: value for name, value in metrics.items() if name != "FPS"}
        assert {name: shared[family][name] for name in sure} == pytest.approx(sure, abs=5e-3, nan_ok=True), family
