"""The tracker about a model that finds red: where crops lie, what the window does, what is kept on disk."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import red_targets
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from adapters.openmmlab import compatibility

compatibility.prepare()

import adapters.tracking.model  # noqa: E402, F401  registered by import
from adapters.tracking import SCENES_FINETUNE, evaluation, metric, tracker  # noqa: E402
from adapters.tracking import config as pure  # noqa: E402
from adapters.tracking.sequences import load  # noqa: E402
from adapters.tracking.tracker import CropTracker  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

GRID, SIZE = 8, 128


class Unchanged(nn.Module):
    def normalised(self, crops: Tensor) -> Tensor:
        return crops.float()


class RedFinder(nn.Module):
    """Every cell's box is that of all red pixels; scores say nothing, or where the red's middle is."""

    grids = (4, GRID)

    def __init__(self, sure: bool = True) -> None:
        super().__init__()
        self.data_preprocessor, self.sure, self.encoded = Unchanged(), sure, 0

    def encode(self, template: Tensor) -> Tensor:
        self.encoded += 1
        return template

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        assert template.shape == (1, 3, 64, 64)
        rows, columns = torch.where(search[0, 0] - search[0, 1] > 100)
        if not len(rows):
            return torch.full((1, GRID**2), -5.0), torch.tensor([-3.0, -3, 0.1, 0.1]).expand(1, 64, 4)
        edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIZE
        middle, side = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
        logits = torch.full((1, GRID, GRID), -5.0)
        if self.sure:
            logits[0, int(middle[1] * GRID), int(middle[0] * GRID)] = 5.0
        return logits.flatten(1), torch.cat((middle, side)).expand(1, GRID**2, 4)


def follow(model: Any, window: float = 0.3) -> CropTracker:
    return CropTracker(model, "cpu", template_size=64, img_size=SIZE, window=window)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    red_targets.write(tmp_path, ("box-1",), "testing", frames=12)
    red_targets.write(tmp_path, ("box-2",), "testing", frames=12, absent=(5, 6))
    return tmp_path


def test_boxes_are_where_the_target_is_up_to_the_border(folder: Path) -> None:
    videos = load("lasot", folder, "test").sequences
    found = {}
    for video in videos:
        model = RedFinder()
        found[video.name] = evaluation.follow(follow(model), video).boxes
        assert model.encoded == 1
    whole = videos[0].boxes[:, :2] + videos[0].boxes[:, 2:] <= red_targets.SIZE

    assert metric.overlap(found["box-1"], videos[0].boxes)[whole.all(1)].min() > 0.85
    assert metric.overlap(found["box-2"], videos[1].boxes)[8:10].min() > 0.85
    corners = found["box-1"][:, :2] + found["box-1"][:, 2:]
    assert (corners <= np.array(red_targets.SIZE) + 1e-9).all()


def test_what_lies_outside_the_frame_is_not_followed(folder: Path) -> None:
    """The model points beyond the border where it sees no red: the last box stays."""
    video = load("lasot", folder, "test").sequences[1]
    track = evaluation.follow(follow(RedFinder()), video)

    assert (track.boxes[5] == track.boxes[4]).all()
    assert track.confidences[5] == pytest.approx(1 / (1 + np.exp(5)))
    assert track.confidences[4] == pytest.approx(1 / (1 + np.exp(-5)))


class Cells(RedFinder):
    """Boxes lie in their own cells; two cells score: one in the middle, and a better one in the corner."""

    def locate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        middles = (torch.arange(GRID) + 0.5) / GRID
        x, y = torch.meshgrid(middles, middles, indexing="xy")
        boxes = torch.stack((x, y, *torch.full((2, GRID, GRID), 0.1)), -1).flatten(0, 1)[None]
        logits = torch.full((1, GRID**2), -5.0)
        logits[0, 3 * GRID + 3], logits[0, GRID + 1] = 0.0, 2.0
        return logits, boxes


@pytest.mark.parametrize(("window", "cell", "score"), [(0.0, 1, 2.0), (0.49, 3, 0.0)])
def test_window_prefers_what_is_near_and_confidence_leaves_it_out(window: float, cell: int, score: float) -> None:
    tracked = follow(Cells(), window)
    frame = np.zeros((200, 300, 3), np.uint8)
    tracked.start(frame, np.array([130.0, 90, 20, 20]))
    box, confidence = tracked.track(frame)

    side = 80  # of the crop, about (140, 100)
    middle = np.array([140, 100]) - side / 2 + (cell + 0.5) / GRID * side
    assert box[:2] + box[2:] / 2 == pytest.approx(middle)
    assert box[2:] == pytest.approx([8, 8])
    assert confidence == pytest.approx(1 / (1 + np.exp(-score)))


def config(**changes: Any) -> dict[str, Any]:
    backbone = {"type": "TimmBackbone", "arch": "test_vit", "img_size": 64, "out_indices": [-1]}
    return {
        "type": "FusionTracker",
        "backbone": backbone | changes,
        "data_preprocessor": {"type": "PairPreprocessor", "mean": [120.0] * 3, "std": [60.0] * 3},
        **{"template_size": 32, "img_size": 64, "primed": True},
        **{"dim": 16, "heads": 2, "layers": 1, "drop_path": 0.0},
    }


def test_saved_tracker_is_the_same_and_its_name_is_its_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = MODELS.build(config())
    key, path = tracker.save(built, config(weights="gone.pth"), tmp_path)
    assert tracker.save(built, config(), tmp_path) == (key, path)
    video = load("lasot", folder, "test").sequences[0]
    sizes = {"template_size": 32, "img_size": 64, "window": 0.49}
    direct = evaluation.follow(CropTracker(built, "cpu", **sizes), video)
    again = evaluation.follow(tracker.restore(path, "cpu", 0.49), video)

    assert (direct.boxes == again.boxes).all()
    assert (direct.confidences == again.confidences).all()
    with torch.no_grad():
        next(built.parameters()).add_(1e-3)
    assert tracker.save(built, config(), tmp_path)[0] != key


def test_fifteen_frames_a_second_with_a_tiny_backbone(folder: Path, tmp_path: Path) -> None:
    """Measured on one idle core: over 100."""
    settings = pure.model(SCENES_FINETUNE)
    settings["backbone"] |= {"arch": "test_vit", "out_indices": [-1]}
    settings["data_preprocessor"] |= {"mean": [120.0] * 3, "std": [60.0] * 3}
    _, path = tracker.save(MODELS.build(settings), settings, tmp_path)
    videos = load("lasot", folder, "test").sequences
    make = functools.partial(tracker.restore, path, "cpu", SCENES_FINETUNE.window)
    found = evaluation.evaluate(make, videos, tmp_path / "predictions", 1, made_by="speed")

    assert found.frames_per_second > 15
