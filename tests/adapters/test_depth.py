"""Depth on tiny data sets written here: what a protocol does to a model, not what it says."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from PIL import Image

from adapters import depth
from adapters.depth import NYU, SCENES_LAYOUT, TASKS, DepthProtocol, Layout
from adapters.openmmlab import depth_estimators, runner
from adapters.openmmlab.depth_metric import errors, measured
from bench.backbones import Backbone
from bench.errors import UserError
from bench.scenes.world import World, ensure
from bench.tasks import UNPUBLISHED, Job, Task

BY_NAME = {task.name: task for task in TASKS}
PROTOCOLS = [(task, protocol) for task in TASKS for protocol in task.protocols]
AUGMENTING = ("VerticalCutDepth", "ColourJitter")  # flips stay: testing sees them
SMALL = {"epochs": 1, "batch_size": 2, "limit": None, "img_size": 64, "stride": 16}

pytestmark = pytest.mark.usefixtures("one_thread")


def write_pair(image: Path, depth: Path, seed: int, size: tuple[int, int], scale: float) -> None:
    """Brightness falls with depth, which grows from column to column by a random step; 0 at the top."""
    rng = np.random.default_rng(seed)
    metres = np.broadcast_to(1 + np.cumsum(rng.random(size[1]) * 14 / size[1]), size)
    pixels = np.repeat(255 - 25 * metres[..., None], 3, -1) + rng.integers(-3, 3, (*size, 3))
    stored = np.rint(metres * scale).astype(np.uint16)
    stored[: size[0] // 8] = 0
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(image)
    Image.fromarray(stored).save(depth)


def write(folder: Path, layout: Layout, train: int, test: int, size: tuple[int, int]) -> Path:
    for split, count in ((layout.train, train), (layout.test, test)):
        for i in range(count):
            image = folder / layout.images.format(split=split) / f"{i:06}.png"
            target = folder / layout.depths.format(split=split) / f"{i:06}.png"
            write_pair(image, target, i, size, layout.scale)
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write(tmp_path / "scenes", SCENES_LAYOUT, 4, 2, (64, 96))


def job(folder: Path, arch: str, protocol: str, name: str = "scenes", **changes: Any) -> Job:
    task = BY_NAME[f"depth/{name}"]
    changed = {**SMALL, "test_batch_size": 1, **changes}
    return Job(
        backbone=Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **changed),
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def layout_of(work: Job) -> Layout:
    layout: Layout = work.task.evaluate.keywords["layout"]  # type: ignore[attr-defined]
    return layout


def build(work: Job) -> runner.JobRunner:
    bound = depth_estimators.bind(work, layout_of(work))
    return runner.JobRunner.from_cfg(runner.bind(bound, work))


FAMILIES = [
    ("test_vit", "finetune"),
    ("test_vit", "frozen"),
    ("swinv2_tiny_window8_256", "finetune"),
    ("test_resnet", "frozen"),
    ("test_resnet", "frozen-linear"),
    ("hiera_tiny_224", "finetune"),
]


@pytest.mark.parametrize(("arch", "protocol"), FAMILIES)
def test_every_family_trains_and_tests_on_images_that_are_not_square(
    scenes: Path, arch: str, protocol: str
) -> None:
    work = job(scenes, arch, protocol, batch_size=4)
    outcome = work.task.evaluate(work)

    assert set(outcome.metrics) == {*depth.METRICS, "images_without_depth"}
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert outcome.selection.reported_on == "val"


def test_eight_scenes_are_fitted(tmp_path: Path) -> None:
    """Trained and tested on the same ones, as they are.

    They have no edges: the head decodes at a quarter of the resolution, which alone holds delta1 of
    the rendered scenes to 0.97.
    """
    same = dataclasses.replace(SCENES_LAYOUT, test="train")
    folder = write(tmp_path / "scenes", same, 8, 0, (64, 64))
    work = job(folder, "test_vit", "finetune", epochs=160, batch_size=8, stride=64)
    config = depth_estimators.bind(work, same)
    dataset = config["train_dataloader"]["dataset"]
    dataset["pipeline"] = [step for step in dataset["pipeline"] if step["type"] not in AUGMENTING]
    metrics = runner.run(config, work).metrics

    assert metrics["delta1"] > 0.98
    assert metrics["AbsRel"] < 0.05


@pytest.mark.parametrize("protocol", ["finetune", "frozen", "frozen-linear"])
def test_learns_what_brightness_says(tmp_path: Path, protocol: str) -> None:
    """Better than the best constant can be, which depends on the depth of all pixels alone."""
    folder = write(tmp_path / "scenes", SCENES_LAYOUT, 16, 8, (64, 64))
    work = job(folder, "test_vit", protocol, epochs=30, batch_size=8, lr=5e-3, stride=64)
    found = work.task.evaluate(work).metrics
    truths = [
        torch.from_numpy(np.asarray(Image.open(p)) / 1000.0)
        for p in sorted((folder / "depth/val").iterdir())
    ]
    kept = [t[measured(t, 10.0, depth.WHOLE)] for t in truths]
    constants = [
        np.mean([errors(torch.full_like(t, c), t)["RMSE"] for t in kept])
        for c in np.arange(1, 10, 0.25)
    ]

    assert found["RMSE"] < 0.8 * min(constants)


def test_layers_learn_at_distinct_rates_that_rise_and_fall_together(scenes: Path) -> None:
    work = job(scenes, "test_vit", "finetune", lr=1e-2, layer_decay=0.5)
    built = build(work)
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper)
    names = {id(p): name for name, p in built.model.named_parameters()}
    last = len(built.model.backbone.model.blocks) - 1

    def rates() -> dict[str, float]:
        groups = optimizer.optimizer.param_groups
        return {names[id(p)]: g["lr"] for g in groups for p in g["params"]}

    before = rates()
    assert before["decode_head.last.2.weight"] == pytest.approx(1e-2)
    assert before[f"backbone.model.blocks.{last}.mlp.fc1.weight"] == pytest.approx(1e-2 / 2)
    assert before["backbone.model.patch_embed.proj.weight"] == pytest.approx(1e-2 / 2 ** (last + 2))

    span = {"begin": 0, "end": 10, "by_epoch": False}
    depth_estimators.TwoPhaseLR(optimizer, low=0.06, power=0.9, peak=0.5, **span)
    factors = {rates()[name] / before[name] for name in before}
    assert max(factors) == pytest.approx(min(factors))
    assert max(factors) < 0.4


@pytest.mark.parametrize(("epochs", "per_epoch"), [(25, 7), (2, 5), (1, 10)])
def test_rate_is_the_closed_form_of_every_iteration(epochs: int, per_epoch: int) -> None:
    """MIM-Depth's formulas, with its counting: iterations from 1, h = epochs // 2 epochs (1 has half of one)."""
    config = depth_estimators.binding.by_iteration(
        BY_NAME["depth/nyu"].upstream(
            BY_NAME["depth/nyu"], dataclasses.replace(depth.FINETUNE, epochs=epochs)
        )["param_scheduler"],
        per_epoch,
    )[0]
    del config["type"]
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=5e-4))
    schedule = depth_estimators.TwoPhaseLR(wrapper, **config)
    low, high, half = 3e-5, 5e-4, (epochs // 2 or 0.5) * per_epoch
    found, expected = [], []
    for step in range(1, epochs * per_epoch + 1):
        found.append(wrapper.optimizer.param_groups[0]["lr"])
        up = (high - low) * (step / half) ** 0.9 + low
        down = max(low, (low - high) * max(step / half - 1, 0) ** 0.9 + high)
        expected.append(up if step < half else down)
        wrapper.optimizer.step()
        schedule.step()

    assert found == pytest.approx(expected, rel=1e-9)
    assert max(found) == pytest.approx(high)
    if epochs == 25:
        assert set(np.round(found[-per_epoch:], 12)) == {low}, "epoch 25 stays at the lowest rate"


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_frozen_backbone_keeps_every_bit_and_statistic(scenes: Path, arch: str) -> None:
    built = build(job(scenes, arch, "frozen", epochs=2))
    backbone, head = states(built.model.backbone), states(built.model.decode_head)
    built.train()

    assert moved(backbone, built.model.backbone) == set()
    assert moved(head, built.model.decode_head) >= {"conv.weight", "conv.bias"}
    assert not any(module.training for module in built.model.backbone.modules())


def test_finetuned_backbone_moves_its_weights_and_statistics(scenes: Path) -> None:
    built = build(job(scenes, "test_resnet", "finetune", epochs=2))
    before = states(built.model.backbone)
    built.train()

    assert moved(before, built.model.backbone) >= {"model.conv1.0.weight", "model.bn1.running_mean"}


def test_resumed_training_equals_the_undisturbed(scenes: Path, monkeypatch: Any) -> None:
    whole = build(job(scenes, "test_resnet", "finetune", epochs=3))
    whole.train()
    work = dataclasses.replace(
        job(scenes, "test_resnet", "finetune", epochs=3), work_dir=scenes.parent / "cut"
    )
    bound = depth_estimators.bind(work, SCENES_LAYOUT)
    cut = runner.JobRunner.from_cfg(runner.bind(bound, work, checkpoint_seconds=0.0))
    step, seen = type(cut.model).train_step, []

    def stop_at_fourth(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(cut.model), "train_step", stop_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            cut.train()
    resumed = build(work)
    resumed.train()

    assert resumed.iter == whole.iter == 6
    assert moved(states(whole.model), resumed.model) == set()


def windows(model: torch.nn.Module, width: int, predict: Any) -> torch.Tensor:
    """The depth estimator's test on an image whose head is `predict`, of the red channel alone."""
    image = torch.rand(1, 3, 64, width)
    model.encode_decode = lambda crop, metas: predict(crop[:, :1])
    metas = [{"ori_shape": (64, width), "img_shape": (64, width)}]
    depth: torch.Tensor = model.inference(image, metas)
    assert depth.shape == (1, 1, 64, width)
    return depth - predict(image[:, :1])


@pytest.mark.parametrize(("width", "stride"), [(64, 16), (96, 32), (221, 11), (100, 64)])
def test_flipped_and_shifted_windows_cover_every_column(
    scenes: Path, width: int, stride: int
) -> None:
    """What a model says of a pixel alone comes back as it was, whatever windows saw it."""
    model = build(job(scenes, "test_vit", "frozen", stride=stride)).model

    for predict in (lambda x: x, lambda x: torch.full_like(x, 3.0)):
        assert windows(model, width, predict).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("nyu", (480, 640), [0, 160]),
        ("kitti", (352, 1216), [*range(0, 813, 58), 864]),
    ],
)
def test_windows_are_as_many_as_upstreams_and_leave_no_column_out(
    scenes: Path, name: str, size: tuple[int, int], expected: list[int]
) -> None:
    side = BY_NAME[f"depth/{name}"].protocol("finetune").img_size
    stride = BY_NAME[f"depth/{name}"].protocol("finetune").stride
    model = build(job(scenes, "test_vit", "frozen", img_size=side, stride=stride)).model
    lefts = []

    def locate(crop: torch.Tensor, metas: Any) -> torch.Tensor:
        assert crop.shape[2:] == (side, side)
        lefts.append(int(crop[0, 0, 0].min()))
        return crop[:, :1]

    model.encode_decode = locate
    columns = torch.arange(size[1], dtype=torch.float32).expand(1, 3, *size)
    found = model.inference(columns, [{"ori_shape": size, "img_shape": size}])

    assert lefts[::2] == lefts[1::2] == expected
    torch.testing.assert_close(found[0, 0], columns[0, 0])


def test_image_is_resized_for_the_model_and_compared_at_its_own_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "nyu", depth.NYU_LAYOUT, 2, 1, (96, 128))
    built = build(job(folder, "test_vit", "finetune", "nyu", normalisation="none"))
    built.call_hook("before_run")
    (batch,) = built.build_dataloader(built.cfg.test_dataloader)
    seen = built.model.data_preprocessor(batch)["inputs"]
    (sample,) = built.model.eval().test_step(batch)

    assert batch["inputs"][0].shape == (3, 64, 85)
    assert seen.max() <= 1 < seen.max() * 255
    assert sample.pred_depth_map.data.shape == sample.gt_depth_map.data.shape == (1, 96, 128)
    stored = np.asarray(Image.open(folder / "annotations/test/000000.png"))
    np.testing.assert_allclose(sample.gt_depth_map.data[0], stored / 1000, rtol=1e-6)


def test_kitti_is_cropped_before_all_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "kitti", depth.KITTI_LAYOUT, 2, 1, (375, 1242))
    built = build(job(folder, "test_vit", "frozen", "kitti", stride=31))
    built.call_hook("before_run")
    (batch,) = built.build_dataloader(built.cfg.test_dataloader)
    (sample,) = built.model.eval().test_step(batch)
    stored = np.asarray(Image.open(folder / "annotations/test/000000.png"))

    assert batch["inputs"][0].shape == (3, 64, 221)
    np.testing.assert_allclose(sample.gt_depth_map.data[0], stored[23:, 13:1229] / 256, rtol=1e-6)
    assert sample.pred_depth_map.data.shape == (1, 352, 1216)


def test_training_crop_and_its_depth_stay_together(scenes: Path) -> None:
    """Brightness says depth: 255 - 25 m, also after the flip, the crop and the resize."""
    work = job(scenes, "test_vit", "finetune", cutdepth="")
    bound = runner.bind(depth_estimators.bind(work, SCENES_LAYOUT), work)
    pipeline = bound.train_dataloader.dataset.dataset.pipeline
    bound.train_dataloader.dataset.dataset.pipeline = [
        step for step in pipeline if step["type"] != "ColourJitter"
    ]
    for item in runner.JobRunner.build_dataloader(bound.train_dataloader, seed=0).dataset:
        image, truth = item["inputs"][0].float(), item["data_samples"].gt_depth_map.data[0]
        known = (truth > 0) & (truth < 10)
        assert image.shape == truth.shape == (64, 64)
        assert known.float().mean() > 0.4
        assert (image - (255 - 25 * truth))[known].abs().max() < 5


def write_calibration(folder: Path, **said: float) -> None:
    (folder / "depth.json").write_text(json.dumps(said))


def test_folder_takes_its_scale_from_its_own_file_and_its_fingerprint_too(tmp_path: Path) -> None:
    """The same metres at 4000 units each: the same model, and the same numbers."""
    plain = write(tmp_path / "a", depth.FOLDER_LAYOUT, 2, 2, (64, 64))
    other = write(
        tmp_path / "b", dataclasses.replace(depth.FOLDER_LAYOUT, scale=4000), 2, 2, (64, 64)
    )
    before = depth.FOLDER.fingerprint(other)
    write_calibration(other, scale=4000, max_depth=12)
    assert depth.FOLDER.fingerprint(other) != before

    built = [build(job(f, "test_vit", "frozen", "folder")) for f in (plain, other)]
    truths = [
        next(iter(b.build_dataloader(b.cfg.test_dataloader)))["data_samples"][0].gt_depth_map.data
        for b in built
    ]
    torch.testing.assert_close(truths[0], truths[1], atol=1e-3, rtol=0)
    assert [b.model.decode_head.max_depth for b in built] == [10, 12]
    assert [b.cfg.test_evaluator.max_depth for b in built] == [10, 12]


def test_bad_data_stops_before_training(scenes: Path) -> None:
    work = job(scenes, "test_vit", "frozen")
    Image.fromarray(np.full((64, 96), 9, np.uint8)).save(scenes / "depth/val/000001.png")

    with pytest.raises(UserError, match=r"val/000001.png is 8 bits a pixel"):
        work.task.evaluate(work)
    assert not work.work_dir.exists()


@pytest.mark.parametrize(("task", "protocol"), PROTOCOLS, ids=lambda x: x.name)
def test_upstream_config_is_pure(task: Task, protocol: DepthProtocol) -> None:
    config = task.upstream(task, protocol)

    assert json.loads(json.dumps(config)) == json.loads(json.dumps(task.upstream(task, protocol)))
    assert "arch" not in config["model"]["backbone"]
    assert not any(text.startswith("/") for text in json.dumps(config).split('"'))
    for change in ({"lr": 9.0}, {"epochs": 9}, {"img_size": 96}, {"stride": 7}, {"limit": 5}):
        other = dataclasses.replace(protocol, **change)
        assert task.upstream(task, other) != config, f"{change} changes nothing"


@pytest.mark.parametrize(("task", "protocol"), PROTOCOLS, ids=lambda x: x.name)
def test_every_protocol_names_its_source_and_a_command_for_what_is_published(
    task: Task, protocol: DepthProtocol
) -> None:
    assert "arXiv" in protocol.source
    assert (protocol.expected == UNPUBLISHED) == (protocol.command == "")
    full = "--task depth/kitti " if task.name == "depth/kitti" else "--task depth/nyu "
    assert protocol.command == "" or full in protocol.command
    assert not (protocol.train_on and protocol.command)
    assert bool(protocol.train_on) == bool(protocol.train_layout) == bool(protocol.splits)


def test_named_protocols_are_there() -> None:
    names = {task.name: [p.name for p in task.protocols] for task in TASKS}

    assert all(found[:2] == ["finetune", "frozen"] for found in names.values())
    assert set(names["depth/nyu"]) >= {"finetune-upstream", "from-scenes", "from-hololens"}
    assert set(names["depth/kitti"]) >= {"finetune-upstream", "from-scenes"}


def test_smoke_runs(scenes: Path) -> None:
    work = job(scenes, "test_vit", "frozen")
    small = dataclasses.replace(work, protocol=work.protocol.smoke())

    assert small.task.evaluate(small).metrics["RMSE"] > 0


def test_a_data_set_of_ones_own_is_one_entry() -> None:
    own = dataclasses.replace(depth.FOLDER, name="mine", root="mine")
    task = depth.task(own, Layout(scale=5000), (depth.FOLDER_FROZEN,))

    assert task.name == "depth/mine"
    assert not task.metrics[0].higher_is_better


def real_data() -> Path:
    root = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[3] / "shared/data"))
    if not (root / NYU.root).is_dir():
        pytest.skip(f"no real images: {root / NYU.root} does not exist (set BENCH_DATA)")
    return root


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("hololens", "finetune"),
        ("nyu", "from-scenes"),
        ("kitti", "from-scenes"),
        ("nyu", "from-hololens"),
    ],
)
def test_real_depth_is_accepted_and_measured(tmp_path: Path, name: str, protocol: str) -> None:
    root = real_data()
    work = job(root / name, "test_vit", protocol, name, batch_size=4, limit=8, img_size=96)
    own = work.task.sources(work.protocol)[-1].locate(root)
    train = own
    if protocol == "from-scenes":
        train = ensure(World(train=10, val=10, videos=4, frames=2, swaps=1, size=64))
    elif protocol == "from-hololens":
        train = depth.HOLOLENS.locate(root)
    work = dataclasses.replace(
        work, data=own, train_data=train, work_dir=tmp_path / "work", cache=tmp_path / "cache"
    )
    outcome = work.task.evaluate(work)

    assert outcome.metrics["images_without_depth"] == 0
    assert 0.1 < outcome.metrics["RMSE"] < 40
    assert outcome.selection.reported_on == ("val" if name == "hololens" else "test")


@pytest.mark.data
def test_real_nyu_lacks_train() -> None:
    with pytest.raises(UserError, match=r"images/train"):
        NYU.locate(real_data())
