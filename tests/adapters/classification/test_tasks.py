"""Classification's protocols, and fine-tuning end to end on small folders of images."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from coloured_noise import FOLDER, FOLDERS, SHORT, STRONG, TASKS, coloured_noise, evaluate

from adapters.classification import Finetune, Frozen, Knn
from bench.backbones.backbone import Backbone
from bench.errors import UserError
from bench.tasks import Job, Protocol


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    return coloured_noise(tmp_path_factory.mktemp("easy"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory) -> Path:
    return coloured_noise(tmp_path_factory.mktemp("hard"), contrast=2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


PAIRS = [(task, protocol) for task in TASKS for protocol in task.protocols]


@pytest.mark.parametrize(("task", "protocol"), PAIRS, ids=lambda value: value.name)
def test_the_upstream_config_is_plain_json_and_feels_every_number(task, protocol):
    config = task.upstream(task, protocol)
    assert json.loads(json.dumps(config)) == config
    assert task.digest(protocol, "x") == task.digest(protocol, "x")
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changed = dataclasses.replace(protocol, **{field.name: value + 1})
            assert task.digest(changed, "x") != task.digest(protocol, "x"), field.name


@pytest.mark.parametrize("task", FOLDERS, ids=lambda task: task.name)
def test_protocols_name_their_source_and_what_differs(task):
    finetune, frozen, knn = task.protocols
    assert isinstance(finetune, Finetune)
    assert isinstance(frozen, Frozen)
    assert isinstance(knn, Knn)
    assert [p.frozen for p in task.protocols] == [False, True, True]
    assert all("2111.06377" in p.source for p in (finetune, frozen))
    assert "2104.14294" in knn.source
    assert all("Differs" in p.source for p in task.protocols)
    assert "Shortened" in finetune.source or finetune.epochs == 100


def test_the_full_recipe_is_mae_s():
    full = FOLDER.protocol("finetune")
    assert full.lr == pytest.approx(5e-4 * 1024 / 256)
    assert (full.layer_decay, full.weight_decay, full.drop_path) == (0.65, 0.05, 0.1)
    assert (full.mixup, full.cutmix, full.reprob, full.smoothing) == (0.8, 1.0, 0.25, 0.1)


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


def job_of(data: Path, folder: Path, protocol: Protocol) -> Job:
    return Job(
        backbone=Backbone(name="test_vit", arch="test_vit"),
        task=FOLDER,
        protocol=protocol,
        seed=0,
        data=data,
        train_data=data,
        work_dir=folder / "run",
        cache=folder,
        device="cpu",
        num_workers=0,
    )


def test_the_rate_warms_up_and_falls_to_zero(easy, tmp_path):
    """Read where it matters: in the optimizer, before every step."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from adapters.classification import train

    rates: list[list[float]] = []

    @HOOKS.register_module(force=True)
    class Rates(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            rates.append(runner.optim_wrapper.get_lr()["lr"])

    def upstream(task, protocol):
        return {**FOLDER.upstream(task, protocol), "custom_hooks": [{"type": "Rates"}]}

    protocol = dataclasses.replace(FOLDER.protocol("finetune"), **STRONG)
    train.evaluate(job_of(easy, tmp_path, protocol), easy, upstream(FOLDER, protocol))
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


@pytest.mark.parametrize("protocol", ["frozen", "frozen-knn", "finetune"])
def test_smoke_is_small_and_runs(easy, tmp_path, protocol):
    smoke = dataclasses.replace(FOLDER.protocol(protocol), **SHORT).smoke()
    assert smoke.limit == 32
    outcome = evaluate(easy, tmp_path, protocol, epochs=1, limit=9)
    assert 0 <= outcome.metrics["top1"] <= 100


@pytest.mark.parametrize("protocol", ["frozen", "frozen-knn", "finetune"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_stops_the_run_and_is_named(tmp_path, protocol, split):
    data = coloured_noise(tmp_path / "data", train=4, val=3)
    (data / split / "bee" / "1.png").write_bytes(b"\x89PNG half an image")
    with pytest.raises(UserError, match=rf"The image .*{split}/bee/1.png") as error:
        evaluate(data, tmp_path, protocol, epochs=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", ["frozen", "frozen-knn", "finetune"])
def test_classes_that_differ_stop_the_run(tmp_path, protocol):
    data = coloured_noise(tmp_path / "data", train=2, val=1)
    (data / "val" / "cat").rename(data / "val" / "dog")
    with pytest.raises(UserError, match="only in train: cat; only in val: dog"):
        evaluate(data, tmp_path, protocol)


def test_a_missing_split_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"expected .*/val"):
        FOLDER.dataset.locate(tmp_path)
