"""The family on short videos written here: what it trains, what it follows, what it records."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import red_targets
from family_jobs import real_data

from adapters import tracking
from adapters.openmmlab import runner
from adapters.tracking import TASKS, TrackingProtocol, train
from adapters.tracking.datasets import Videos
from bench.backbones.backbone import Backbone
from bench.tasks import UNPUBLISHED, Job, Task

PROTOCOLS = [(task, protocol) for task in TASKS for protocol in task.protocols]
PUBLISHED = {f"tracking/{name}" for name in ("lasot", "got10k", "trackingnet", "otb")}
OWN = Videos(
    name="mine",
    source="you",
    licence="its own",
    root=".",
    splits={"train": ("training_set.txt",), "test": ("testing_set.txt",)},
    layout="lasot",
    definitions=("lasot", "got10k"),
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    red_targets.write(tmp_path / "videos", ("box-1", "box-2", "box-3"), frames=10)
    return red_targets.write(tmp_path / "videos", ("ball-1", "ball-2"), "testing", frames=10)


def job(folder: Path, arch: str, protocol: str, **changes: Any) -> Job:
    task = tracking.task(OWN, TASKS[0].protocols)
    small = {"pairs": 8, "batch_size": 4, "template_size": 32, "img_size": 64}
    return Job(
        backbone=Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **{**small, **changes}),
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


FAMILIES = [
    ("test_vit", "finetune"),
    ("test_vit", "one-stream"),
    ("test_resnet", "frozen"),
    ("swinv2_tiny_window8_256", "finetune"),
    ("hiera_tiny_224", "frozen"),
]


@pytest.mark.long
@pytest.mark.parametrize(("arch", "protocol"), FAMILIES)
def test_every_family_trains_and_follows_frames_that_are_not_square(folder: Path, arch: str, protocol: str) -> None:
    work = job(folder, arch, protocol)
    outcome = work.task.evaluate(work)

    assert set(outcome.metrics) >= {metric.name for metric in work.task.metrics}
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert outcome.metrics["sequences"] == 2
    assert outcome.metrics["sequences_left_out"] == 0
    assert outcome.selection.reported_on == "test"


@pytest.mark.long
def test_trained_on_red_it_follows_red(folder: Path) -> None:
    """Of the same kind but other videos; standing still scores below 30."""
    plain = {"scale": 0.1, "translation": 2.0, "grey": 0.0, "colour": 0.1}
    work = job(folder, "test_vit", "finetune", pairs=1200, batch_size=8, **plain)
    still = dataclasses.replace(work, backbone=Backbone(name="constant-position", arch="", method="baseline"))
    found, baseline = (j.task.evaluate(j).metrics for j in (work, still))

    assert baseline["AO"] < 30
    assert found["AO"] > 55


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_backbone_learns_at_a_part_of_the_heads_rate(folder: Path, factor: float) -> None:
    work = job(folder, "test_vit", "finetune", lr=1e-2, layer_decay=0.5, backbone_lr=factor)
    built = runner.JobRunner.from_cfg(runner.bind(train.bind(work), work))
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper).optimizer
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    of = {name: rates[id(p)] for name, p in built.model.named_parameters()}
    depth = len(built.model.backbone.model.blocks)

    assert of["head.box.0.weight"] == of["fusion.decoder.out.bias"] == 1e-2
    assert of["backbone.model.norm.weight"] == pytest.approx(1e-2 * factor / 2)
    assert of["backbone.model.patch_embed.proj.weight"] == pytest.approx(1e-2 * factor / 2 ** (depth + 1))
    decays = {g["weight_decay"] for g in optimizer.param_groups}
    assert decays == {0.0, work.protocol.weight_decay}


def test_rate_rises_and_falls_once_to_a_tenth(folder: Path) -> None:
    from family_jobs import rates

    work = job(folder, "test_vit", "finetune", pairs=80, epochs=5, warmup=0.1, lr=1e-3)
    found = rates(runner.JobRunner.from_cfg(runner.bind(train.bind(work), work)))

    assert len(found) == 100
    assert found[0] == pytest.approx(1e-6)
    assert all(a < b for a, b in itertools.pairwise(found[:10]))
    assert found[10:70] == pytest.approx([1e-3] * 60)
    assert found[70:] == pytest.approx([1e-4] * 30)


STRIDES = {"test_vit": 5, "test_resnet": 3, "swinv2_tiny_window8_256": 2, "hiera_tiny_224": 2}


@pytest.mark.parametrize("arch", STRIDES)
def test_map_of_stride_16_is_taken(folder: Path, arch: str) -> None:
    config = train.bind(job(folder, arch, "finetune"))

    assert config["model"]["backbone"]["out_indices"] == [STRIDES[arch]]


@pytest.mark.parametrize(("task", "protocol"), PROTOCOLS, ids=lambda x: x.name)
def test_every_protocol_names_its_source_and_a_command_for_what_is_published(
    task: Task, protocol: TrackingProtocol
) -> None:
    assert "arXiv" in protocol.source
    assert (protocol.expected == UNPUBLISHED) == (protocol.command == "")
    if protocol.command:
        full = task.name if task.name in PUBLISHED else "tracking/got10k"
        assert f"--task {full} " in protocol.command
        at_full_scale = protocol.name.removesuffix("-long").removesuffix("-large")
        assert protocol.command.endswith(f"--protocol {at_full_scale}")
    assert protocol.frozen == ("frozen" in protocol.name)
    assert protocol.one_stream == ("one-stream" in protocol.name)


def test_full_scale_trains_on_four_data_sets_and_got10k_on_itself() -> None:
    by_name = {task.name: task for task in TASKS}
    lasot = by_name["tracking/lasot"]
    parts = [source.name for source in lasot.sources(lasot.protocol("finetune"))]
    got10k = by_name["tracking/got10k"]
    (own,) = got10k.sources(got10k.protocol("finetune"))

    assert parts == ["lasot+trackingnet+got10k+coco", "lasot"]
    assert own.name == "got10k"
    assert set(own.splits) == {"train", "test"}


@pytest.mark.data
@pytest.mark.parametrize(("dataset", "folder", "primary"), [("otb", "otb100", "SUC"), ("got10k", "got10k", "AO")])
def test_trained_on_scenes_it_follows_real_videos(
    world: Path, tmp_path: Path, dataset: str, folder: str, primary: str
) -> None:
    root = real_data(folder)
    task = next(task for task in TASKS if task.name == f"tracking/{dataset}")
    protocol = dataclasses.replace(
        task.protocol("from-scenes"), pairs=16, batch_size=8, limit=1, img_size=64, template_size=32
    )
    work = Job(
        backbone=Backbone(name="test_vit", arch="test_vit"),
        task=task,
        protocol=protocol,
        seed=0,
        data=root / folder,
        train_data=world,
        work_dir=tmp_path / "work",
        cache=tmp_path / "cache",
        device="cpu",
        num_workers=0,
    )
    metrics = task.evaluate(work).metrics

    assert 0 < metrics[primary] < 100
    assert metrics["sequences"] == 1
