"""Both protocols end to end on small folders of images, through `Task.evaluate` as the runner calls it."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.classification import TASKS, Finetune, Frozen
from bench.backbones import Backbone, build, resolve
from bench.errors import UserError
from bench.tasks import Job, Outcome, Task

TASK = {task.name: task for task in TASKS}
FOLDER = TASK["classification/folder"]
NAMES = ("ant", "bee", "cat")
SHORT = {"img_size": 32, "crop_pct": 1.0, "batch_size": 8}
QUICK = {"lrs": (1.0, 10.0, 100.0), "weight_decays": (0.0, 1e-4), "epochs": 10, **SHORT}
STRONG = {"epochs": 4, "warmup_epochs": 1, "blr": 3e-2, "scale_min": 0.6, **SHORT}


def world(root: Path, train: int = 10, val: int = 6, contrast: int = 150) -> Path:
    """Noise images whose class raises one of red, green and blue by `contrast` of 255."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for channel, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3))
                pixels[..., channel] += contrast
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    return world(tmp_path_factory.mktemp("easy"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory) -> Path:
    return world(tmp_path_factory.mktemp("hard"), contrast=2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def evaluate(
    data: Path,
    tmp_path: Path,
    protocol: str,
    *,
    arch: str = "test_vit",
    seed: int = 0,
    work: str = "run",
    task: Task = FOLDER,
    backbone: Backbone | None = None,
    **changes,
) -> Outcome:
    defaults = QUICK if protocol == "frozen" else STRONG
    job = Job(
        backbone=backbone or Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **{**defaults, **changes}),
        seed=seed,
        data=data,
        train_data=data,
        work_dir=tmp_path / work,
        cache=tmp_path / "features",
        device="cpu",
        num_workers=0,
    )
    return task.evaluate(job)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_the_upstream_config_is_plain_json_and_feels_every_number(task, protocol):
    protocol = task.protocol(protocol)
    config = task.upstream(task, protocol)
    assert json.loads(json.dumps(config)) == config
    assert task.digest(protocol, "x") == task.digest(protocol, "x")
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changed = dataclasses.replace(protocol, **{field.name: value + 1})
            assert task.digest(changed, "x") != task.digest(protocol, "x"), field.name


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_protocols_name_their_source_and_what_differs(task):
    finetune, frozen = task.protocols
    assert isinstance(frozen, Frozen)
    assert isinstance(finetune, Finetune)
    assert frozen.frozen
    assert not finetune.frozen
    assert all("2111.06377" in p.source and "Differs" in p.source for p in task.protocols)
    assert "Shortened" in finetune.source or finetune.epochs == 100


def test_the_full_recipe_is_mae_s():
    full = FOLDER.protocol("finetune")
    assert full.lr == pytest.approx(5e-4 * 1024 / 256)
    assert (full.layer_decay, full.weight_decay, full.drop_path) == (0.65, 0.05, 0.1)
    assert (full.mixup, full.cutmix, full.reprob, full.smoothing) == (0.8, 1.0, 0.25, 0.1)


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_resnet"])
def test_a_linear_head_separates_the_colours(easy, tmp_path, arch):
    outcome = evaluate(easy, tmp_path, "frozen", arch=arch)
    assert outcome.metrics == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.selection.selected_on == "train (20 % held out)"
    assert outcome.selection.reported_on == "val"
    assert len(outcome.selection.trials) == 6
    assert outcome.train_seconds > 0
    assert outcome.images_per_second > 0


def test_the_same_seed_gives_the_same_frozen_numbers(hard, tmp_path):
    one = evaluate(hard, tmp_path / "a", "frozen", seed=1)
    two = evaluate(hard, tmp_path / "b", "frozen", seed=1)
    assert one.metrics == two.metrics
    assert one.selection == two.selection
    other = evaluate(hard, tmp_path / "a", "frozen", seed=2)
    assert other.selection.trials != one.selection.trials  # scratch: the seed draws the backbone


def test_of_given_weights_the_seed_never_moves_the_selection(hard, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model, _ = build("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = resolve(f"test_vit@{tmp_path / 'w.safetensors'}")
    one, two = (evaluate(hard, tmp_path, "frozen", backbone=backbone, seed=seed) for seed in (0, 1))
    assert one.selection == two.selection
    assert len(list((tmp_path / "features" / "features").iterdir())) == 2  # one a split
    assert two.train_seconds < one.train_seconds


def test_val_takes_no_part_in_the_selection(tmp_path):
    """Every val image gets another class: the trials and the choice stay, the number does not."""
    right = world(tmp_path / "right", contrast=40)
    wrong = world(tmp_path / "wrong", contrast=40)
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
    outcome = evaluate(world(tmp_path / "data", contrast=20), tmp_path, "frozen")
    loss = {t["lr"]: t["loss"] for t in outcome.selection.trials if t["weight_decay"] == 0}
    assert loss[1.0] == pytest.approx(0.16633, rel=1e-2)
    assert outcome.metrics["top1"] == pytest.approx(100 * 16 / 18, abs=100 / 18 + 0.1)  # an image


def test_a_frozen_backbone_stays_as_it_was(easy, tmp_path):
    """Batch statistics included: the features of a second, fresh model are the same."""
    from adapters.openmmlab import images
    from bench.features import extract

    model, _ = build("test_resnet", num_classes=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = Backbone(name="test_resnet", arch="test_resnet")
    transform = images.eval_transform(backbone, img_size=32, crop_pct=1.0)
    train, _ = images.splits(easy)
    extract(model, images.Images(train, transform), key={}, cache=tmp_path, device="cpu")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
def test_fine_tuning_learns_the_colours(easy, tmp_path, arch):
    outcome = evaluate(easy, tmp_path, "finetune", arch=arch, randaug="", mixup=0.0, cutmix=0.0)
    assert outcome.metrics == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.selection.selected_on is None
    assert outcome.selection.reported_on == "val"


def test_a_batch_norm_net_is_fine_tuned_too(easy, tmp_path):
    outcome = evaluate(easy, tmp_path, "finetune", arch="test_resnet", epochs=1)
    assert outcome.metrics["top1"] >= 0


def test_the_same_seed_gives_the_same_fine_tuned_model(hard, tmp_path):
    """Down to the last learning rate and loss of the log."""
    runs = [("a", 0), ("b", 0), ("c", 1)]
    losses = {}
    for work, seed in runs:
        evaluate(hard, tmp_path, "finetune", seed=seed, work=work, epochs=2)
        losses[work] = re.findall(r"loss: (\S+)", (tmp_path / work / "run.log").read_text())
    assert losses["a"] == losses["b"] != losses["c"]


def test_the_rate_warms_up_and_falls_to_zero(easy, tmp_path):
    """Read where it matters: in the optimizer, before every step."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from adapters.openmmlab import classifier

    rates: list[list[float]] = []

    @HOOKS.register_module(force=True)
    class Rates(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            rates.append(runner.optim_wrapper.get_lr()["lr"])

    def upstream(task, protocol):
        return {**FOLDER.upstream(task, protocol), "custom_hooks": [{"type": "Rates"}]}

    protocol = dataclasses.replace(FOLDER.protocol("finetune"), **STRONG)
    job = Job(
        backbone=Backbone(name="test_vit", arch="test_vit"),
        task=FOLDER,
        protocol=protocol,
        seed=0,
        data=easy,
        train_data=easy,
        work_dir=tmp_path / "run",
        cache=tmp_path,
        device="cpu",
        num_workers=0,
    )
    classifier.evaluate(job, easy, upstream(FOLDER, protocol))
    steps = len(rates) // protocol.epochs
    peaks = [max(step) for step in rates]
    assert steps == 3  # 30 images, batches of 8, the rest dropped
    assert peaks[0] == pytest.approx(1e-3 * protocol.lr)
    assert max(peaks) == pytest.approx(protocol.lr)
    assert peaks.index(max(peaks)) == pytest.approx(steps, abs=1)
    assert peaks[-1] < 0.1 * protocol.lr
    assert peaks[steps:] == sorted(peaks[steps:], reverse=True)
    last = sorted(set(rates[steps]))
    assert len(last) >= 5
    assert last[-2] == pytest.approx(0.65 * last[-1])


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_smoke_is_small_and_runs(easy, tmp_path, protocol):
    smoke = dataclasses.replace(FOLDER.protocol(protocol), **SHORT).smoke()
    assert smoke.limit == 32
    outcome = evaluate(easy, tmp_path, protocol, epochs=1, limit=9)
    assert 0 <= outcome.metrics["top1"] <= 100


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_stops_the_run_and_is_named(tmp_path, protocol, split):
    data = world(tmp_path / "data", train=4, val=3)
    (data / split / "bee" / "1.png").write_bytes(b"\x89PNG half an image")
    with pytest.raises(UserError, match=rf"The image .*{split}/bee/1.png") as error:
        evaluate(data, tmp_path, protocol, epochs=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_classes_that_differ_stop_the_run(tmp_path, protocol):
    data = world(tmp_path / "data", train=2, val=1)
    (data / "val" / "cat").rename(data / "val" / "dog")
    with pytest.raises(UserError, match="only in train: cat; only in val: dog"):
        evaluate(data, tmp_path, protocol)


def test_a_missing_split_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"expected .*/val"):
        FOLDER.dataset.locate(tmp_path)


def _real_data() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("BENCH_DATA", beside))


@pytest.mark.data
def test_pretrained_features_of_photographs_are_far_above_scratch(tmp_path):
    task = TASK["classification/tiny-imagenet"]
    root = _real_data()
    weights = root.parent / "weights" / "tf_efficientnet_lite0.timm.safetensors"
    if not (root / task.dataset.root).is_dir() or not weights.is_file():
        pytest.skip(f"no tiny-imagenet-200 in {root} or no {weights}: set BENCH_DATA")
    options = {"task": task, "img_size": 64, "limit": 300, "batch_size": 64}
    pretrained, scratch = (
        evaluate(
            task.dataset.locate(root), tmp_path, "frozen", backbone=resolve(spec), **options
        ).metrics["top1"]
        for spec in (f"tf_efficientnet_lite0@{weights}", "tf_efficientnet_lite0")
    )
    assert scratch < 3  # chance is 0.5
    assert pretrained > 4 * scratch
    assert pretrained > 6
