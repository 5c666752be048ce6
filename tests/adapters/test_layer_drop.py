"""Protocols without the backbone's last blocks, in every downstream family."""

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from coloured_noise import coloured_noise
from family_jobs import FAMILIES, build, job

from adapters import classification
from adapters.classification import data, probe, train
from adapters.openmmlab.backbone import maps_of
from bench import run
from bench.backbones.backbone import Backbone
from bench.datasets.images import read
from bench.tasks import Job

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("protocol", ["finetune-drop1", "frozen-drop1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_builds_a_shorter_backbone(scenes: Path, family: str, protocol: str) -> None:
    built = build(job(family, scenes, "test_vit", protocol))
    whole = maps_of(job(family, scenes, "test_vit", protocol.removesuffix("-drop1")))

    assert len(built.model.backbone.model.blocks) == len(whole.model.blocks) - 1
    assert built.model.backbone.channels[-1] == whole.channels[-1]


def test_the_last_block_that_is_left_learns_the_fastest(scenes: Path) -> None:
    built = build(job("depth", scenes, "test_vit", "finetune-drop2", lr=1e-2, layer_decay=0.5))
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper).optimizer
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = built.model.backbone.model.blocks

    assert [rates[id(block.attn.qkv.weight)] for block in blocks] == pytest.approx(
        [1e-2 / 2**above for above in (4, 3, 2, 1)]
    )


def frozen_job(scenes: Path, protocol: str, backbone: Backbone) -> Job:
    task = classification.TASKS[0]
    small = {"img_size": 32, "limit": 20}
    return Job(
        backbone=backbone,
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **small),
        seed=0,
        data=scenes,
        train_data=scenes,
        work_dir=scenes.parent / "work",
        cache=scenes.parent / "cache",
        device="cpu",
        num_workers=0,
    )


@pytest.mark.parametrize("protocol", ["frozen-drop1", "frozen-knn-drop1"])
def test_frozen_features_are_those_of_the_truncated_model(
    scenes: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(scenes.parent / "cache"))
    backbone = Backbone(name="test_vit", arch="test_vit")
    work = frozen_job(scenes, protocol, backbone)
    frozen = probe.frozen_backbone(work, scenes / "species")
    found = frozen.features("val").features

    torch.manual_seed(0)
    whole = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    whole.blocks = whole.blocks[:-1]
    seen = data.eval_transform(backbone, img_size=32, crop_pct=1.0)
    batch = torch.stack([seen(read(path)) for path in frozen.splits["val"].paths])
    with torch.inference_mode():
        assert torch.equal(found, whole(batch))


def test_fine_tuned_classification_is_shorter(scenes: Path) -> None:
    task = classification.TASKS[0]
    config = task.upstream(task, task.protocol("finetune-drop3"))
    model = train.TimmClassifier({"arch": "test_vit", "weights": None, **config["model"]["backbone"]}, num_classes=10)

    assert len(model.backbone.model.blocks) == len(timm.create_model("test_vit").blocks) - 3
    assert model.eval()(torch.zeros(1, 3, 64, 64), torch.zeros(1)).shape == (1, 10)


def test_a_record_bears_the_protocols_name_and_a_convolution_a_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coloured_noise(tmp_path / "data", contrast=90)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    asked = ["--backbone", "test_vit", "test_resnet", "--task", "classification/folder", "--smoke"]
    asked += ["--protocol", "frozen-knn-drop2", "--data-root", str(tmp_path / "data")]
    asked += ["--results", str(tmp_path / "results"), "--work-dir", str(tmp_path / "runs")]

    assert run.main(asked) == run.FAILED
    (done,) = (tmp_path / "results/classification/folder").glob("test_vit@scratch/*.json")
    record = json.loads(done.read_text())
    assert record["status"] == "done", record["error"]
    assert record["protocol"]["name"] == "frozen-knn-drop2-smoke"
    assert record["protocol"]["drop_blocks"] == 2
    assert "The last blocks of test_resnet cannot be dropped" in capsys.readouterr().out
