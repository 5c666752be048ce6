"""Shape bias: counted by hand, against published numbers, and of a backbone that can only see colours."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapters.analysis import SHAPE_BIAS, cue_conflict, shape_bias
from adapters.analysis.cue_conflict import Stimulus
from bench.backbones.backbone import Backbone
from bench.backbones.build import build
from bench.backbones.resolve import resolve
from bench.errors import UserError
from bench.tasks import Job, Outcome

SCENES, GEIRHOS = SHAPE_BIAS

pytestmark = pytest.mark.usefixtures("one_thread")


def stimulus(shape: str, texture: str) -> Stimulus:
    return Stimulus(path=Path(f"{shape}1-{texture}2.png"), shape=shape, texture=texture)


SHOWN = [stimulus("cat", "dog"), stimulus("cat", "car"), stimulus("dog", "cat"), stimulus("car", "dog")]


def test_shape_bias_counted_by_hand() -> None:
    """Two by shape, one by texture, one for a third class, which counts as neither."""
    found = cue_conflict.scores(SHOWN, [["cat"], ["car"], ["dog"], ["cat"]])

    assert found.bias.value == 2 / 3
    assert (found.shape, found.texture) == (50.0, 25.0)
    assert {name: bias.value for name, bias in found.by_class.items() if name != "car"} == {"cat": 1 / 2, "dog": 1.0}
    assert np.isnan(found.by_class["car"].value)


def test_several_observers_count_each() -> None:
    found = cue_conflict.scores(SHOWN[:2], [["cat", "dog", "na"], ["cat", "cat", "cat"]])
    assert found.bias.value == 4 / 5
    assert found.shape == pytest.approx(100 * 4 / 6)


def test_the_interval_is_the_bootstraps() -> None:
    """Of n decided stimuli the resampled count by shape is binomial, whose quantiles are known."""
    shown = [stimulus("cat", "dog")] * 200
    found = cue_conflict.scores(shown, [["cat"]] * 60 + [["dog"]] * 140).bias
    from scipy.stats import binom

    low, high = binom.ppf([0.025, 0.975], 200, 0.3) / 200
    assert found.value == 0.3
    assert found.low == pytest.approx(low, abs=0.011)
    assert found.high == pytest.approx(high, abs=0.011)


def test_no_decision_is_0_over_0_and_says_so() -> None:
    with pytest.raises(UserError, match=r"Of 4 stimuli not one was decided .* 0 / 0"):
        cue_conflict.scores(SHOWN, [["bird"]] * 4)


def test_the_mapping_is_of_207_classes_each_once() -> None:
    mapped = [index for name in shape_bias.SPANS for index in shape_bias.indices(name)]
    assert len(mapped) == len(set(mapped)) == 207
    assert len(shape_bias.SPANS) == 16
    assert shape_bias.indices("bear") == [294, 295, 296, 297]
    assert shape_bias.indices("knife") == [499]


def test_probabilities_are_averaged_or_summed() -> None:
    """One dog class of 0.3 beats 109 of 0.004 on average, not in sum, where a knife of 0.2 loses to them."""
    from adapters.analysis.shape_bias import CLASSES, decide

    probabilities = torch.full((1, 1000), 1e-9)
    probabilities[0, shape_bias.indices("dog")] = 0.4 / 109
    probabilities[0, shape_bias.indices("knife")] = 0.2
    probabilities[0, 0] = 0.4
    logits = probabilities.log()

    assert CLASSES[decide(logits, "mean")] == "knife"
    assert CLASSES[decide(logits, "sum")] == "dog"


def coloured_stimuli(root: Path, classes: tuple[str, ...]) -> None:
    """Plain images whose 'texture' is one of three colours; the 'shape' is in the list alone."""
    rows = []
    colours = dict(zip(classes, ((220, 30, 30), (30, 220, 30), (30, 30, 220)), strict=True))
    rng = np.random.default_rng(0)

    def save(path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-30, 30, (32, 32, 3))
        Image.fromarray((np.array(colours[name]) + noise).clip(0, 255).astype(np.uint8)).save(path)

    for name in classes:
        for split, count in (("train", 12), ("val", 4)):
            for i in range(count):
                save(root / split / name / f"{i}.png", name)
        for texture in classes:
            path = f"images/{name}-{texture}.png"
            save(root / path, texture)
            rows.append({"path": path, "shape": name, "texture": texture})
    with (root / "cue_conflict.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, cue_conflict.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def evaluate(data: Path, tmp_path: Path, backbone: Backbone, which: int, **changes: object) -> Outcome:
    task = SHAPE_BIAS[which]
    job = Job(
        backbone=backbone,
        task=task,
        protocol=dataclasses.replace(task.protocols[0], **changes),  # type: ignore[arg-type]
        seed=0,
        data=data,
        train_data=data,
        work_dir=tmp_path / "work",
        cache=tmp_path / "cache",
        device="cpu",
        num_workers=0,
    )
    return task.evaluate(job)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def test_a_probe_that_learns_colour_goes_by_texture(tmp_path: Path) -> None:
    coloured_stimuli(tmp_path / "cue_conflict", ("ball", "box", "tree"))
    scratch = Backbone(name="test_vit", arch="test_vit")
    outcome = evaluate(tmp_path, tmp_path, scratch, 0, img_size=32, epochs=20)

    assert outcome.metrics["unswapped_top1"] == 100.0
    assert outcome.metrics["shape_bias"] == 0.0
    assert outcome.metrics["texture_top1"] == 100.0
    assert outcome.metrics["shape_bias/ball"] == 0.0
    assert outcome.selection.reported_on == "swapped"
    (picture,) = (tmp_path / "work").rglob("*.png")
    assert Image.open(picture).width > 600


def test_the_scenes_swaps_are_read(world: Path, tmp_path: Path) -> None:
    """All 30 pairs of six classes; and not the crops of species, whose splits bear the same names."""
    scratch = Backbone(name="test_vit", arch="test_vit")
    outcome = evaluate(world, tmp_path, scratch, 0, img_size=32, epochs=2)

    shown = cue_conflict.stimuli(world / "cue_conflict")
    assert len(shown) == 30
    assert 0 <= outcome.metrics["shape_bias_low"] <= outcome.metrics["shape_bias"]
    assert outcome.metrics["shape_bias"] <= outcome.metrics["shape_bias_high"] <= 1
    assert outcome.metrics.keys() >= {metric.name for metric in SCENES.metrics}


def test_weights_without_a_classifier_are_refused(tmp_path: Path) -> None:
    coloured_stimuli(tmp_path, ("cat", "dog", "car"))
    model, _ = build("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "headless.safetensors")
    headless = dataclasses.replace(
        Backbone(name="headless", arch="test_vit", mean=(0.5,) * 3, std=(0.5,) * 3),
        weights=tmp_path / "headless.safetensors",
    )
    for backbone, said in (
        (headless, "have none .head.weight"),
        (Backbone(name="test_vit", arch="test_vit"), "none trained"),
    ):
        with pytest.raises(UserError, match=rf"{backbone.name} cannot decide .*{said}.*analysis/shape-bias,"):
            evaluate(tmp_path, tmp_path, backbone, 1, img_size=160)


def test_a_list_without_its_images_or_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cue_conflict.csv").write_text("path,shape,texture\nimages/a.png,cat,dog\n")
    with pytest.raises(UserError, match=r"1 of the 1 stimuli of .* are missing"):
        cue_conflict.stimuli(tmp_path)
    (tmp_path / "cue_conflict.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(UserError, match="expected is a line path,shape,texture"):
        cue_conflict.stimuli(tmp_path)


def real(folder: str, variable: str, name: str) -> Path:
    root = Path(os.environ.get(variable, Path(__file__).parents[4] / "shared" / folder))
    if not (root / name).exists():
        pytest.skip(f"{root / name} does not exist (set {variable})")
    return root / name


@pytest.mark.data
def test_people_and_networks_come_out_as_published() -> None:
    """People 0.959; torchvision's AlexNet 25.3 % and VGG-16 9.2 % in the authors' README."""
    folder = real("data", "BENCH_DATA", "cue_conflict")
    shown = cue_conflict.stimuli(folder)
    found = cue_conflict.references(shown, folder)

    assert len(shown) == 1200
    assert round(found["humans"].bias.value, 3) == 0.959
    assert found["humans"].bias.low > 0.95
    networks = {name: round(100 * found[name].bias.value, 1) for name in ("alexnet", "vgg16")}
    assert networks == {"alexnet": 25.3, "vgg16": 9.2}
    assert round(found["alexnet-caffe"].bias.value, 3) == 0.429
    assert len(found) == 17


@pytest.mark.data
def test_a_classifier_decides_as_timm_does(tmp_path: Path) -> None:
    """On stimuli of Geirhos's, against timm's own model, transform and softmax; people are beside it."""
    import timm

    data = real("data", "BENCH_DATA", "cue_conflict")
    file = real("weights", "BENCH_WEIGHTS", "tf_efficientnet_lite0.timm.safetensors")
    outcome = evaluate(data, tmp_path, resolve(f"tf_efficientnet_lite0@{file}"), 1, limit=48)

    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(file)).eval()
    seen = timm.data.create_transform(
        (3, 224, 224),
        interpolation="bicubic",
        crop_pct=1.0,
        mean=model.pretrained_cfg["mean"],
        std=model.pretrained_cfg["std"],
    )
    shown = cue_conflict.stimuli(data, 48)
    with torch.inference_mode():
        batch = torch.stack([seen(Image.open(s.path).convert("RGB")) for s in shown])
        probabilities = model(batch).double().softmax(1).numpy()
    names = sorted(shape_bias.SPANS)
    means = np.stack([probabilities[:, shape_bias.indices(n)].mean(1) for n in names], 1)
    decided = [names[i] for i in means.argmax(1)]
    by_shape = sum(d == s.shape for d, s in zip(decided, shown, strict=True))
    by_texture = sum(d == s.texture for d, s in zip(decided, shown, strict=True))

    assert by_shape + by_texture > 10
    assert outcome.metrics["shape_bias"] == by_shape / (by_shape + by_texture)
    assert outcome.metrics["reference/humans"] > 0.9
