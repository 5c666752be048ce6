"""What a depth protocol does to the optimizer, the weights, the windows and the images."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import family_jobs
import numpy as np
import pytest
import torch
from depth_pairs import write
from family_jobs import BY_NAME, bind, build
from mmengine.optim import OptimWrapper
from PIL import Image

from adapters import depth
from adapters.depth import SCENES_LAYOUT, train
from adapters.openmmlab import runner

job = functools.partial(family_jobs.job, "depth")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write(tmp_path / "scenes", SCENES_LAYOUT, 4, 2, (64, 96))


def test_rates_of_all_layers_rise_and_fall_together(scenes: Path) -> None:
    built = build(job(scenes, "test_vit", "finetune", lr=1e-2, layer_decay=0.5))
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper)
    before = optimizer.get_lr()["lr"]
    assert len(set(before)) > 2

    span = {"begin": 0, "end": 10, "by_epoch": False}
    train.TwoPhaseLR(optimizer, low=0.06, power=0.9, peak=0.5, **span)
    factors = [now / then for now, then in zip(optimizer.get_lr()["lr"], before, strict=True)]
    assert max(factors) == pytest.approx(min(factors))
    assert max(factors) < 0.4


@pytest.mark.parametrize(("epochs", "per_epoch"), [(25, 7), (2, 5), (1, 10)])
def test_rate_is_the_closed_form_of_every_iteration(epochs: int, per_epoch: int) -> None:
    """MIM-Depth's formulas, with its counting: iterations from 1, h = epochs // 2 epochs (1 has half of one)."""
    config = train.backbone.by_iteration(
        BY_NAME["depth/nyu"].upstream(BY_NAME["depth/nyu"], dataclasses.replace(depth.FINETUNE, epochs=epochs))[
            "param_scheduler"
        ],
        per_epoch,
    )[0]
    del config["type"]
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=5e-4))
    schedule = train.TwoPhaseLR(wrapper, **config)
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


def windows(model: torch.nn.Module, width: int, predict: Any) -> torch.Tensor:
    """The depth estimator's test on an image whose head is `predict`, of the red channel alone."""
    image = torch.rand(1, 3, 64, width)
    model.encode_decode = lambda crop, metas: predict(crop[:, :1])
    metas = [{"ori_shape": (64, width), "img_shape": (64, width)}]
    depth: torch.Tensor = model.inference(image, metas)
    assert depth.shape == (1, 1, 64, width)
    return depth - predict(image[:, :1])


@pytest.mark.parametrize(("width", "stride"), [(64, 16), (96, 32), (221, 11), (100, 64)])
def test_flipped_and_shifted_windows_cover_every_column(scenes: Path, width: int, stride: int) -> None:
    """A prediction that depends on its pixel only is the same in every window."""
    model = build(job(scenes, "test_vit", "frozen", stride=stride)).model

    for predict in (lambda x: x, lambda x: torch.full_like(x, 3.0)):
        assert windows(model, width, predict).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "expected"), [("nyu", (480, 640), [0, 160]), ("kitti", (352, 1216), [*range(0, 813, 58), 864])]
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
    """Brightness is 255 - 25 per metre, also after the flip, the crop and the resize."""
    work = job(scenes, "test_vit", "finetune", cutdepth="")
    bound = runner.bind(bind(work), work)
    pipeline = bound.train_dataloader.dataset.dataset.pipeline
    bound.train_dataloader.dataset.dataset.pipeline = [step for step in pipeline if step["type"] != "ColourJitter"]
    for item in runner.JobRunner.build_dataloader(bound.train_dataloader, seed=0).dataset:
        image, truth = item["inputs"][0].float(), item["data_samples"].gt_depth_map.data[0]
        known = (truth > 0) & (truth < 10)
        assert image.shape == truth.shape == (64, 64)
        assert known.float().mean() > 0.4
        assert (image - (255 - 25 * truth))[known].abs().max() < 5
