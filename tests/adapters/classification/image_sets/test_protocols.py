"""The protocols of the real data sets, on miniatures of them: what is chosen on what, and reported on what."""

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured_noise import SHORT, SMALL, coloured_noise, evaluate
from labelled_miniatures import MINIATURES

from adapters.classification import TASKS
from adapters.classification.probe import few_of_each
from adapters.classification.protocol import FewShot, LinearProbe
from bench.backbones.backbone import Backbone
from bench.runs import ranks
from bench.tasks import Job, Outcome

TASK = {task.name: task for task in TASKS}
GRID = {"lrs": (1.0, 10.0), "weight_decays": (0.0, 1e-4), "epochs": 10, **SHORT}
PROBE = {**SHORT, "batch_size": 6, "epochs": 8, "warmup_epochs": 1, "blr": 10.0, "trust_coefficient": 1.0}
CHANGES = {
    "frozen": GRID,
    "frozen-few-shot-2": GRID,
    "frozen-knn": {**SHORT, "neighbours": 3},
    "frozen-linear-probe": PROBE,
    "finetune": {
        **SHORT,
        "batch_size": 4,
        "epochs": 8,
        "warmup_epochs": 1,
        "blr": 0.1,
        "scale_min": 0.6,
        "randaug": "",
    },
}
pytestmark = pytest.mark.usefixtures("unpublished")


def run(tmp_path: Path, name: str, protocol: str, *, seed: int = 0, world_size: int = 1, **changes: object) -> Outcome:
    entry, write = MINIATURES[name]
    if not (tmp_path / entry.root).exists():
        write(tmp_path / entry.root)
    task = TASK[f"classification/{name}"]
    folder = entry.locate(tmp_path)
    job = Job(
        backbone=Backbone(name="test_convnext", arch="test_convnext"),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **{**CHANGES[protocol], **changes}),
        seed=seed,
        data=folder,
        train_data=folder,
        work_dir=tmp_path / f"{name}-{protocol}-{seed}-{world_size}",
        cache=tmp_path / "features",
        device="cpu",
        world_size=world_size,
        num_workers=0,
    )
    return task.evaluate(job)


def on_rank(tmp_path: Path, world_size: int, rank: int) -> Outcome:
    torch.set_num_threads(1)
    return run(tmp_path, "imagenet", "frozen-linear-probe", world_size=world_size)


def test_there_is_no_official_validation_split_so_a_part_of_train_is_held_out(tmp_path: Path) -> None:
    outcome = run(tmp_path, "cub", "frozen")
    assert outcome.metrics == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.selection.selected_on == "train (20 % held out)"
    assert outcome.selection.reported_on == "test"
    assert [sorted(t) for t in outcome.selection.trials] == [["loss", "lr", "top1", "weight_decay"]] * 4


def test_the_official_validation_split_selects_and_test_is_reported(tmp_path: Path) -> None:
    """Every test label wrong: the choice stays as it was. Every val label wrong: it does not."""
    right = run(tmp_path / "a", "dtd", "frozen")
    assert right.selection.selected_on == "val"
    assert right.selection.reported_on == "test"
    assert right.selection.trials[0]["top1"] == right.metrics["top1"] == 100.0
    for part in ("test", "val"):
        entry, write = MINIATURES["dtd"]
        folder = tmp_path / part / entry.root
        write(folder)
        turned = {"banded": "blotchy", "blotchy": "zigzagged", "zigzagged": "banded"}
        text = (folder / f"labels/{part}1.txt").read_text()
        for old in set(text.split()):
            (a, name) = old.split("/")
            (folder / "images" / turned[a] / f"x{name}").write_bytes((folder / "images" / old).read_bytes())
        rows = [line.split("/") for line in text.split()]
        moved = "".join(f"{turned[a]}/x{name}\n" for a, name in rows)
        (folder / f"labels/{part}1.txt").write_text(moved)
    assert (wrong := run(tmp_path / "test", "dtd", "frozen")).metrics["top1"] == 0
    assert wrong.selection == right.selection
    assert run(tmp_path / "val", "dtd", "frozen").selection.trials[0]["top1"] < 50


def test_several_classes_an_image(tmp_path: Path) -> None:
    """The images' noise shows one class of the two or three; chance is about the classes' shares."""
    outcome = run(tmp_path, "voc2007", "frozen")
    assert outcome.selection.selected_on == "val"
    assert set(outcome.metrics) == {"mAP"}
    assert set(outcome.selection.trials[0]) == {"lr", "weight_decay", "mAP", "loss"}
    assert outcome.metrics["mAP"] > 90
    tuned = run(tmp_path, "voc2007", "finetune")
    assert set(tuned.metrics) == {"mAP"}
    assert tuned.selection.reported_on == "test"


@pytest.mark.long
@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_pixels_and_folders_go_through_every_protocol(tmp_path: Path, name: str) -> None:
    for protocol in ("frozen", "frozen-knn"):
        outcome = run(tmp_path, name, protocol)
        assert outcome.metrics["top1"] == 100.0
        assert outcome.selection.reported_on == ("val" if name == "imagenet" else "test")
    tuned = run(tmp_path, name, "finetune", mixup=0.0, cutmix=0.0)
    assert tuned.metrics["top1"] > 60


def test_few_shots_are_drawn_by_the_seed_and_chosen_on_the_same_images(tmp_path: Path) -> None:
    one, two = (run(tmp_path, "imagenet", "frozen-few-shot-2", seed=0) for _ in range(2))
    assert one.metrics == two.metrics
    assert one.selection == two.selection
    assert one.selection.selected_on == "train (20 % held out)"


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_few_of_each_draws_that_many(shots: int) -> None:
    labels = torch.tensor([0] * 4 + [1] * 7 + [3] * 2)[torch.randperm(13)]
    among = torch.ones(13, dtype=torch.bool)
    among[(labels == 1).nonzero()[:3, 0]] = False
    chosen = few_of_each(labels, among, shots=shots, seed=0)
    assert labels[chosen].bincount(minlength=4).tolist() == [min(shots, n) for n in (4, 4, 0, 2)]
    assert not chosen[~among].any()
    assert torch.equal(chosen, few_of_each(labels, among, shots=shots, seed=0))


def test_another_seed_draws_other_images() -> None:
    labels, among = torch.arange(40) % 4, torch.ones(40, dtype=torch.bool)
    drawn = {tuple(few_of_each(labels, among, shots=1, seed=s).nonzero()[:, 0].tolist()) for s in range(9)}
    assert len(drawn) > 5


def test_the_linear_probe_of_mae_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured_noise(tmp_path / "data")
    task = TASK["classification/folder"]
    probe = next(p for p in TASK["classification/imagenet"].protocols if isinstance(p, LinearProbe))
    probing = dataclasses.replace(task, protocols=(*task.protocols, probe))
    monkeypatch.setitem(SMALL, "frozen-linear-probe", PROBE)
    outcome = evaluate(data, tmp_path, "frozen-linear-probe", arch="test_resnet", task=probing)
    assert outcome.metrics["top1"] > 80
    losses = [float(v) for v in re.findall(r"loss: (\S+)", (tmp_path / "run/run.log").read_text())]
    assert losses[-1] < losses[0]


@pytest.mark.long
def test_two_ranks_probe_as_one(tmp_path: Path) -> None:
    """With the head's batch normalisation over all six images of a batch, three to a rank."""
    alone = on_rank(tmp_path, 1, 0)
    shared = ranks.call(functools.partial(on_rank, tmp_path, 2), 2)
    assert shared.metrics == pytest.approx(alone.metrics, abs=1e-4)


def test_the_probe_s_head_alone_is_trained_by_lars() -> None:
    """One step against the algorithm: a matrix learns by its norm over its gradient's, a vector plainly."""
    from adapters.openmmlab import runner

    assert runner
    from adapters.classification.train import AugmentedProbe, LarsConstructor

    torch.manual_seed(0)
    backbone = {"arch": "test_resnet", "weights": None, "img_size": 32, "drop_path_rate": 0.0}
    model = AugmentedProbe(backbone, num_classes=3).train()
    assert not any(m.training for m in model.backbone.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"type": "Lars", "lr": 2.0, "momentum": 0.9, "weight_decay": 0.0, "trust_coeff": 0.001}
    optimizer = LarsConstructor({"optimizer": settings})(model).optimizer
    loss = model.loss(torch.rand(6, 3, 32, 32), torch.arange(6) % 3)["loss"]
    loss.backward()
    layer = model.head[1]
    weight, bias = layer.weight.grad.clone(), layer.bias.grad.clone()
    optimizer.step()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    statistics = {"head.0.running_mean", "head.0.running_var", "head.0.num_batches_tracked"}
    assert changed == {"head.1.weight", "head.1.bias"} | statistics
    trust = 0.001 * before["head.1.weight"].norm() / weight.norm()
    expected = before["head.1.weight"] - 2.0 * trust * weight
    torch.testing.assert_close(after["head.1.weight"], expected)
    torch.testing.assert_close(after["head.1.bias"], -2.0 * bias)
    assert before["head.1.weight"].std() == pytest.approx(0.01, rel=0.1)


def test_the_probe_is_mae_s() -> None:
    probe = TASK["classification/imagenet"].protocol("frozen-linear-probe")
    assert isinstance(probe, LinearProbe)
    assert probe.lr == pytest.approx(0.1 * 16384 / 256)
    assert (probe.epochs, probe.warmup_epochs, probe.weight_decay) == (90, 10, 0.0)
    config = TASK["classification/imagenet"].upstream(TASK["classification/imagenet"], probe)
    assert config["train_dataloader"]["dataset"]["augment"]["auto_augment"] is None


def test_shots_are_those_of_cog() -> None:
    few = [p for p in TASK["classification/cog-3"].protocols if isinstance(p, FewShot)]
    assert [p.shots for p in few] == [1, 2, 4, 8, 16, 32, 64, 128]


def test_mean_per_class_by_hand(tmp_path: Path) -> None:
    """The labels of one class of the test split turned to another: 6 of 9 right, and classes of 3, 0 and none."""
    entry, write = MINIATURES["pets"]
    write(tmp_path / entry.root)
    path = tmp_path / entry.root / "annotations/test.txt"
    text = path.read_text()
    lines = [line.split() for line in text.splitlines()[1:]]
    folder = tmp_path / entry.root / "images"
    rows = []
    for name, label, *rest in lines:
        new = name
        if label == "6" and len(rows) % 3 != 0:  # two of Bengal's three become Abyssinians
            new, label = f"Abyssinian_9{len(rows)}", "1"
            (folder / f"{new}.jpg").write_bytes((folder / f"{name}.jpg").read_bytes())
        rows.append(" ".join([new, label, *rest]))
    path.write_text("\n".join(rows))
    metrics = run(tmp_path, "pets", "frozen").metrics
    assert metrics["top1"] == pytest.approx(100 * 7 / 9)
    assert metrics["mean_class_accuracy"] == pytest.approx(100 * np.mean([3 / 5, 3 / 3, 1 / 1]))
