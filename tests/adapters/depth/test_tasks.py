"""Depth on tiny data sets written here: the effect of protocols on models and metrics."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import family_jobs
import numpy as np
import pytest
import torch
from depth_pairs import write
from family_jobs import build, real_data
from PIL import Image

from adapters import depth
from adapters.depth import NYU, SCENES_LAYOUT, TASKS
from adapters.depth import protocol as depth_protocol
from adapters.depth import train as depth_estimators
from adapters.depth.metric import errors, measured
from adapters.depth.protocol import METRICS
from adapters.openmmlab import runner
from bench.errors import UserError
from bench.scenes.world import World, ensure
from bench.tasks import UNPUBLISHED

job = functools.partial(family_jobs.job, "depth")
AUGMENTING = ("VerticalCutDepth", "ColourJitter")  # flips stay: testing sees them

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write(tmp_path / "scenes", SCENES_LAYOUT, 4, 2, (64, 96))


FAMILIES = [
    ("test_vit", "finetune"),
    ("test_vit", "frozen"),
    ("swinv2_tiny_window8_256", "finetune"),
    ("test_resnet", "frozen"),
    ("test_resnet", "frozen-linear"),
    ("hiera_tiny_224", "finetune"),
]


@pytest.mark.long
@pytest.mark.parametrize(("arch", "protocol"), FAMILIES)
def test_every_family_trains_and_tests_on_images_that_are_not_square(scenes: Path, arch: str, protocol: str) -> None:
    work = job(scenes, arch, protocol, batch_size=4)
    outcome = work.task.evaluate(work)

    assert set(outcome.metrics) == {*METRICS, "images_without_depth"}
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert outcome.selection.reported_on == "val"


def fitted(folder: Path, work_dir: Path, **changes: Any) -> Mapping[str, float]:
    """Trained and tested on the same images, as they are."""
    same = dataclasses.replace(SCENES_LAYOUT, test="train")
    work = job(folder, "test_vit", "finetune", batch_size=8, stride=64, limit=8, **changes)
    work = dataclasses.replace(work, work_dir=work_dir, cache=work_dir)
    config = depth_estimators.bind(work, same)
    dataset = config["train_dataloader"]["dataset"]
    dataset["pipeline"] = [step for step in dataset["pipeline"] if step["type"] not in AUGMENTING]
    return runner.run(config, work).metrics


@pytest.mark.long
def test_eight_smooth_scenes_are_fitted(tmp_path: Path) -> None:
    folder = write(tmp_path / "scenes", SCENES_LAYOUT, 8, 0, (64, 64))
    metrics = fitted(folder, tmp_path / "work", epochs=160)

    assert metrics["delta1"] > 0.98
    assert metrics["AbsRel"] < 0.05


@pytest.mark.long
def test_eight_rendered_scenes_are_fitted_up_to_their_edges(tmp_path: Path) -> None:
    """The head decodes at a quarter of the resolution: that alone holds delta1 to 0.97. Measured: 0.94."""
    world = World(train=10, val=10, videos=4, frames=2, swaps=1, size=64)
    metrics = fitted(ensure(world, tmp_path, workers=1), tmp_path / "work", epochs=320, channels=64, weight_decay=0.0)

    assert metrics["delta1"] > 0.92
    assert metrics["delta3"] > 0.99


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["finetune", "frozen", "frozen-linear"])
def test_learns_what_brightness_says(tmp_path: Path, protocol: str) -> None:
    """Better than the best constant can be, which depends on the depth of all pixels alone."""
    folder = write(tmp_path / "scenes", SCENES_LAYOUT, 16, 8, (64, 64))
    work = job(folder, "test_vit", protocol, epochs=30, batch_size=8, lr=5e-3, stride=64)
    found = work.task.evaluate(work).metrics
    truths = [torch.from_numpy(np.asarray(Image.open(p)) / 1000.0) for p in sorted((folder / "depth/val").iterdir())]
    known = [t[measured(t, 10.0, depth_protocol.WHOLE)] for t in truths]
    constants = [np.mean([errors(torch.full_like(t, c), t)["RMSE"] for t in known]) for c in np.arange(1, 10, 0.25)]

    assert found["RMSE"] < 0.8 * min(constants)


def test_folder_takes_its_scale_from_its_own_file_and_its_fingerprint_too(tmp_path: Path) -> None:
    """The same metres at 4000 units each: the same model, and the same numbers."""
    plain = write(tmp_path / "a", depth.FOLDER_LAYOUT, 2, 2, (64, 64))
    other = write(tmp_path / "b", dataclasses.replace(depth.FOLDER_LAYOUT, scale=4000), 2, 2, (64, 64))
    before = depth.FOLDER.fingerprint(other)
    (other / "depth.json").write_text(json.dumps({"scale": 4000, "max_depth": 12}))
    assert depth.FOLDER.fingerprint(other) != before

    built = [build(job(f, "test_vit", "frozen", "folder")) for f in (plain, other)]
    truths = [next(iter(b.build_dataloader(b.cfg.test_dataloader)))["data_samples"][0].gt_depth_map.data for b in built]
    torch.testing.assert_close(truths[0], truths[1], atol=1e-3, rtol=0)
    assert [b.model.decode_head.max_depth for b in built] == [10, 12]
    assert [b.cfg.test_evaluator.max_depth for b in built] == [10, 12]


def test_bad_data_stops_before_training(scenes: Path) -> None:
    work = job(scenes, "test_vit", "frozen")
    Image.fromarray(np.full((64, 96), 9, np.uint8)).save(scenes / "depth/val/000001.png")

    with pytest.raises(UserError, match=r"val/000001.png is 8 bits a pixel"):
        work.task.evaluate(work)
    assert not work.work_dir.exists()


def test_every_protocol_names_its_source_and_a_command_for_what_is_published() -> None:
    for task in TASKS:
        for protocol in task.protocols:
            where = f"{task.name} {protocol.name}"
            assert "arXiv" in protocol.source, where
            assert (protocol.expected == UNPUBLISHED) == (protocol.command == ""), where
            full = "--task depth/kitti " if task.name == "depth/kitti" else "--task depth/nyu "
            assert protocol.command == "" or full in protocol.command, where
            assert not (protocol.train_on and protocol.command), where
            assert bool(protocol.train_on) == bool(protocol.train_layout) == bool(protocol.splits), where


def test_named_protocols_are_there() -> None:
    names = {task.name: [p.name for p in task.protocols] for task in TASKS}

    assert all(found[:2] == ["finetune", "frozen"] for found in names.values())
    assert set(names["depth/nyu"]) >= {"finetune-upstream", "from-scenes", "from-hololens"}
    assert set(names["depth/kitti"]) >= {"finetune-upstream", "from-scenes"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol"),
    [("hololens", "finetune"), ("nyu", "from-scenes"), ("kitti", "from-scenes"), ("nyu", "from-hololens")],
)
def test_real_depth_is_accepted_and_measured(tmp_path: Path, name: str, protocol: str) -> None:
    root = real_data(NYU.root)
    work = job(root / name, "test_vit", protocol, name, batch_size=4, limit=8, img_size=96)
    own = work.task.sources(work.protocol)[-1].locate(root)
    train = own
    if protocol == "from-scenes":
        train = ensure(World(train=10, val=10, videos=4, frames=2, swaps=1, size=64))
    elif protocol == "from-hololens":
        train = depth.HOLOLENS.locate(root)
    work = dataclasses.replace(work, data=own, train_data=train, work_dir=tmp_path / "work", cache=tmp_path / "cache")
    outcome = work.task.evaluate(work)

    assert outcome.metrics["images_without_depth"] == 0
    assert 0.1 < outcome.metrics["RMSE"] < 40
    assert outcome.selection.reported_on == ("val" if name == "hololens" else "test")


@pytest.mark.data
def test_real_nyu_lacks_train() -> None:
    with pytest.raises(UserError, match=r"images/train"):
        NYU.locate(real_data(NYU.root))
