"""A linear head and nearest neighbours on frozen features, end to end, and that they share them."""

import dataclasses
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from coloured_noise import NAMES, TASK, coloured_noise, evaluate

from adapters.classification import data, probe
from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.backbones.resolve import resolve
from bench.datasets.images import read
from bench.errors import UserError


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    return coloured_noise(tmp_path_factory.mktemp("easy"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory) -> Path:
    return coloured_noise(tmp_path_factory.mktemp("hard"), contrast=2)


@pytest.fixture(autouse=True)
def another_cache(tmp_path, monkeypatch):
    """Gives the runs that follow a cache of their own; a first one is given to begin with."""

    def change(name):
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / name))

    change("cache")
    return change


def entries(tmp_path) -> list[Path]:
    return sorted((tmp_path / "cache" / "features").glob("*.npy"))


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_resnet"])
def test_a_linear_head_separates_the_colours(easy, tmp_path, arch):
    outcome = evaluate(easy, tmp_path, "frozen", arch=arch)
    assert outcome.metrics == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.selection.selected_on == "train (20 % held out)"
    assert outcome.selection.reported_on == "val"
    assert len(outcome.selection.trials) == 6
    assert outcome.train_seconds > 0
    assert outcome.images_per_second > 0


def test_the_same_seed_gives_the_same_frozen_numbers(hard, tmp_path, another_cache):
    one = evaluate(hard, tmp_path, "frozen", seed=1)
    another_cache("second")
    two = evaluate(hard, tmp_path, "frozen", seed=1)
    assert one.metrics == two.metrics
    assert one.selection == two.selection
    other = evaluate(hard, tmp_path, "frozen", seed=2)
    assert other.selection.trials != one.selection.trials  # scratch: the seed draws the backbone


def test_of_given_weights_the_seed_never_moves_the_selection(hard, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model, _ = build("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = resolve(f"test_vit@{tmp_path / 'w.safetensors'}")
    one, two = (evaluate(hard, tmp_path, "frozen", backbone=backbone, seed=seed) for seed in (0, 1))
    assert one.selection == two.selection
    assert len(entries(tmp_path)) == 2  # one a split
    assert two.train_seconds < one.train_seconds


def test_val_takes_no_part_in_the_selection(tmp_path):
    """Every val image gets another class: the trials and the choice stay, the number does not."""
    right = coloured_noise(tmp_path / "right", contrast=40)
    wrong = coloured_noise(tmp_path / "wrong", contrast=40)
    val = wrong / "val"
    for old, new in zip(NAMES, ("x-bee", "x-cat", "x-ant"), strict=True):
        (val / old).rename(val / new)
    for name in NAMES:
        (val / f"x-{name}").rename(val / name)
    one = evaluate(right, tmp_path, "frozen")
    two = evaluate(wrong, tmp_path, "frozen")
    assert one.selection == two.selection
    assert one.metrics["top1"] > 90
    assert two.metrics["top1"] < 10


def test_a_small_golden_run(tmp_path):
    """Changes only when what a number means has changed: then raise the task's version."""
    outcome = evaluate(coloured_noise(tmp_path / "data", contrast=20), tmp_path, "frozen")
    loss = {t["lr"]: t["loss"] for t in outcome.selection.trials if t["weight_decay"] == 0}
    assert loss[1.0] == pytest.approx(0.16633, rel=1e-2)
    assert outcome.metrics["top1"] == pytest.approx(100 * 16 / 18, abs=100 / 18 + 0.1)  # an image


def test_a_frozen_backbone_stays_as_it_was(easy, tmp_path):
    """Batch statistics included: the features of a second, fresh model are the same."""
    from adapters.classification import data
    from bench.features import extract

    model, _ = build("test_resnet", num_classes=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = Backbone(name="test_resnet", arch="test_resnet")
    transform = data.eval_transform(backbone, img_size=32, crop_pct=1.0)
    train, _ = data.splits(easy)
    extract(model, data.Images(train, transform), key={}, cache=tmp_path, device="cpu")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_resnet"])
def test_the_probe_reads_what_the_model_says(easy, tmp_path, arch):
    """The cached features are the output of timm's own model on timm's own transform, bit for bit."""
    evaluate(easy, tmp_path, "frozen", arch=arch, seed=3)
    torch.manual_seed(3)
    size = data.size_argument(arch, 32)
    model = timm.create_model(arch, num_classes=0, **size).eval()
    mean, std = model.default_cfg["mean"], model.default_cfg["std"]
    seen = {"interpolation": "bicubic", "crop_pct": 1.0, "mean": mean, "std": std}
    transform = timm.data.create_transform((3, 32, 32), **seen)
    _, val = data.splits(easy)
    with torch.inference_mode():
        batch = torch.stack([transform(read(path)) for path in val.paths])
        expected = model(batch).numpy()
    arrays = [np.load(path) for path in entries(tmp_path)]
    (found,) = [array for array in arrays if len(array) == len(val.paths)]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_resnet"])
def test_nearest_neighbours_separate_the_colours(easy, tmp_path, arch):
    outcome = evaluate(easy, tmp_path, "frozen-knn", arch=arch)
    assert outcome.metrics == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.selection.selected_on is None
    assert outcome.selection.reported_on == "val"
    assert outcome.selection.trials == ()


@pytest.mark.parametrize(("first", "second"), [("frozen", "frozen-knn"), ("frozen-knn", "frozen")])
def test_the_second_frozen_protocol_extracts_nothing(hard, tmp_path, another_cache, first, second):
    another_cache("alone")
    alone = evaluate(hard, tmp_path, second)
    another_cache("cache")
    assert evaluate(hard, tmp_path, first).images_per_second > 0
    made = {path: path.stat().st_ino for path in entries(tmp_path)}
    assert len(made) == 2
    shared = evaluate(hard, tmp_path, second)
    assert {path: path.stat().st_ino for path in entries(tmp_path)} == made
    assert shared.metrics == alone.metrics
    assert shared.selection == alone.selection


def by_hand(queries, features, labels, neighbours, temperature):
    """DINO's votes in plain Python and double precision: a dictionary of classes for each query."""
    votes = []
    for q in queries.double().tolist():
        cosines = []
        for f, label in zip(features.double().tolist(), labels.tolist(), strict=True):
            product = sum(a * b for a, b in zip(q, f, strict=True))
            cosines.append((product / math.hypot(*q) / math.hypot(*f), label))
        count = Counter()
        for cosine, label in sorted(cosines, reverse=True)[:neighbours]:
            count[label] += math.exp(cosine / temperature)
        votes.append(count)
    return votes


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (20, 0.07), (20, 10.0), (50, 1.0)])
@pytest.mark.parametrize("block", [1, 7 * 60, probe.BLOCK])
def test_votes_are_dinos(monkeypatch, neighbours, temperature, block):
    """Whatever the number of queries that are looked at together."""
    monkeypatch.setattr(probe, "BLOCK", block)
    rng = torch.Generator().manual_seed(0)
    queries, features = (3 * torch.randn(n, 8, generator=rng) + 1 for n in (11, 60))
    labels = torch.randint(0, 6, (60,), generator=rng)
    how = {"neighbours": neighbours, "temperature": temperature}
    found = probe.votes(queries, features, labels, classes=7, **how)
    for row, expected in zip(found, by_hand(queries, features, labels, **how), strict=True):
        dense = torch.tensor([expected[label] for label in range(7)], dtype=torch.double)
        assert torch.allclose(row.double(), dense, rtol=1e-4)


def test_temperature_decides_between_one_close_and_two_far_neighbours():
    """Cosines 1 against 0.8 and 0.8: 1 / T beats 0.8 / T + ln 2 for T below 0.2 / ln 2 = 0.289."""
    features = torch.tensor([[1.0, 0.0], [8.0, 6.0], [0.4, -0.3], [-1.0, 0.0]])
    labels = torch.tensor([1, 0, 0, 1])
    how = {"classes": 2, "neighbours": 3}
    for temperature, winner in ((0.07, 1), (0.28, 1), (0.30, 0), (1.0, 0)):
        query = torch.tensor([[5.0, 0.0]])
        found = probe.votes(query, features, labels, temperature=temperature, **how)
        assert found.argmax() == winner


def test_too_few_images_to_vote_are_the_users_mistake(easy, tmp_path):
    with pytest.raises(UserError, match="30 images, fewer than the 31 neighbours") as error:
        evaluate(easy, tmp_path, "frozen-knn", neighbours=31)
    assert "\n" not in str(error.value)
    assert evaluate(easy, tmp_path, "frozen-knn", neighbours=30).metrics["top1"] >= 0


def _real_data() -> Path:
    beside = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("BENCH_DATA", beside))


@pytest.mark.long
@pytest.mark.data
def test_pretrained_features_of_photographs_are_far_above_scratch(tmp_path):
    task = TASK["classification/tiny-imagenet"]
    root = _real_data()
    weights = root.parent / "weights" / "tf_efficientnet_lite0.timm.safetensors"
    if not (root / task.dataset.root).is_dir() or not weights.is_file():
        pytest.skip(f"no tiny-imagenet-200 in {root} or no {weights}: set BENCH_DATA")
    options = {"task": task, "img_size": 64, "limit": 300, "batch_size": 64}
    pretrained, scratch = (
        evaluate(task.dataset.locate(root), tmp_path, "frozen", backbone=resolve(spec), **options).metrics["top1"]
        for spec in (f"tf_efficientnet_lite0@{weights}", "tf_efficientnet_lite0")
    )
    assert scratch < 3  # chance is 0.5
    assert pretrained > 4 * scratch
    assert pretrained > 6


@pytest.mark.parametrize("protocol", ["frozen", "frozen-knn", "finetune"])
def test_the_chosen_set_of_weights_and_what_may_be_partial_reach_the_model(easy, tmp_path, protocol):
    """Only the named set of weights loads, and only with what is allowed to be missing of it."""
    whole = timm.create_model("test_vit", num_classes=0).state_dict()
    holed = {key: value for key, value in whole.items() if key != "blocks.1.mlp.fc1.bias"}
    path = tmp_path / "two.pth"
    torch.save({"state_dict_ema": {"pos_embed": torch.zeros(1), **holed}, "state_dict": holed}, path)
    chosen = dataclasses.replace(resolve(f"test_vit@{path}#state_dict"), allow_partial=("blocks.1.mlp.*",))
    outcome = evaluate(easy, tmp_path, protocol, backbone=chosen)
    assert outcome.load_report.missing == ("blocks.1.mlp.fc1.bias",)
    assert outcome.load_report.matched == len(holed)
