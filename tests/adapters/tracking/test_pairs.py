"""Training pairs of small videos: what is drawn, what is read of it, and where the box lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import red_targets
import torch

from adapters.tracking import pairs
from adapters.tracking.datasets import SCENES
from adapters.tracking.pairs import Pairs
from adapters.tracking.sequences import load
from bench.errors import UserError
from bench.training.seeding import SeededDataset, seed_everything

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return red_targets.write(tmp_path, ("box-1", "box-2"))


def settings(*folders: Path, **changes: Any) -> dict[str, Any]:
    """Without augmentation, but for what changes."""
    plain = {"scale": 0.0, "translation": 0.0, "grey": 0.0, "colour": 0.0, "gap": 100}
    sources = [{"layout": "lasot", "folder": str(f), "split": "train"} for f in folders]
    return {"sources": sources, "pairs": 8, "template_size": 32, "img_size": 64, **plain, **changes}


def draw(dataset: Pairs, count: int) -> list[dict[str, torch.Tensor]]:
    seed_everything(0)
    return [dataset[k] for k in range(count)]


def red(picture: torch.Tensor) -> list[float]:
    """The box (centre, size) of the red pixels (3, S, S), as parts of the picture."""
    mask = picture[0].int() - picture[1].int() > 100
    rows, columns = torch.where(mask)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    left, top, right, bottom = (float(edge) / len(mask) for edge in edges)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def test_crops_about_the_targets(folder: Path) -> None:
    for pair in draw(Pairs(**settings(folder)), 8):
        assert pair["template"].shape == (3, 32, 32)
        assert pair["template"].dtype == torch.uint8
        assert red(pair["template"]) == pytest.approx([0.5, 0.5, 0.5, 0.5], abs=0.07)
        assert pair["box"].tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25])
        assert red(pair["search"]) == pytest.approx(pair["box"].tolist(), abs=0.03)


def test_box_follows_the_jitter_and_ends_at_the_crop(folder: Path) -> None:
    found = draw(Pairs(**settings(folder, scale=0.25, translation=3.0)), 60)
    boxes = torch.stack([pair["box"] for pair in found])

    assert (boxes[:, :2].std(0) > 0.1).all()
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-6).all()
    assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-6).all()
    for pair in found:
        if (pair["box"][2:] > 0.1).all():  # of a sliver, interpolation leaves no red
            assert red(pair["search"]) == pytest.approx(pair["box"].tolist(), abs=0.05)


def test_two_frames_are_read_and_each_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, read_frame = [], pairs.read_frame
    monkeypatch.setattr(pairs, "read_frame", lambda path: paths.append(path) or read_frame(path))
    dataset = Pairs(**settings(folder))
    assert paths == []
    for pair in range(1, 9):
        dataset[0]
        assert len(paths) == 2 * pair
        assert paths[-1] != paths[-2]
        assert paths[-1].parent == paths[-2].parent


def test_frames_show_the_target_and_are_near(tmp_path: Path) -> None:
    red_targets.write(tmp_path, ("box-1",), frames=8, absent=(3, 4))
    red_targets.write(tmp_path, ("box-2",), frames=3, absent=(1, 2))
    video, single = load("lasot", tmp_path, "train").sequences
    random = np.random.default_rng(0)
    drawn = {pairs.frames(video, 2, random) for _ in range(500)}

    assert drawn == {(a, b) for a in range(8) for b in range(8) if 0 < abs(a - b) <= 2} - {
        (a, b) for a in range(8) for b in range(8) if {a, b} & {3, 4}
    }
    assert pairs.frames(single, 2, random) == (0, 0)


def test_sources_weigh_alike_however_many_sequences_they_have(tmp_path: Path) -> None:
    many = red_targets.write(tmp_path / "many", tuple(f"box-{k}" for k in range(5)))
    one = red_targets.write(tmp_path / "one", ("box-1",), colour=(20, 20, 230))
    found = draw(Pairs(**settings(many, one)), 200)
    blue = np.mean([float(p["template"][2, 16, 16]) > 200 for p in found])

    assert blue == pytest.approx(0.5, abs=0.1)
    only = Pairs(**settings(many, limit=2))
    assert [len(source) for source in only.sources] == [2]


def test_augmentation_takes_the_colours(folder: Path) -> None:
    grey = draw(Pairs(**settings(folder, grey=1.0)), 1)[0]
    assert all((grey[k][0] == grey[k][1]).all() for k in ("template", "search"))
    jittered = draw(Pairs(**settings(folder, colour=0.4)), 30)
    middles = torch.stack([p["template"][:, 16, 16] for p in jittered]).float()
    others = torch.stack([p["search"][:, 32, 32] for p in jittered]).float()
    assert middles.std(0)[0] > 15
    assert (middles - others).abs().max(1)[0].mean() > 15  # of each crop by itself


def test_pair_is_a_function_of_seed_epoch_and_index(folder: Path) -> None:
    config = {"type": "Pairs", **settings(folder, scale=0.25, translation=3.0, colour=0.4)}
    first, second = (SeededDataset(config, seed=3) for _ in range(2))
    second[4]
    again = second[1]
    for name, value in first[1].items():
        assert value.equal(again[name])
    second.epoch.fill_(1)
    assert not second[1]["search"].equal(again["search"])


def test_source_without_a_usable_sequence_is_said(tmp_path: Path) -> None:
    red_targets.write(tmp_path, ("box-1",), frames=3, absent=(0, 1, 2))

    with pytest.raises(UserError, match=r"None of the .* sequences of .* can be used"):
        Pairs(**settings(tmp_path))


def test_boxes_of_the_worlds_scenes_are_stills_read_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, stills = SCENES.sources(world, "train")
    assert (videos["layout"], stills["layout"]) == ("scenes", "scenes-stills")
    assert [source["layout"] for source in SCENES.sources(world, "test")] == ["scenes"]
    paths, read_frame = [], pairs.read_frame
    monkeypatch.setattr(pairs, "read_frame", lambda path: paths.append(path) or read_frame(path))
    found = draw(Pairs(**{**settings(), "sources": [stills]}), 5)

    assert len(paths) == 5
    assert all(path.parent == world / "images/train" for path in paths)
    for pair in found:  # without jitter, in the middle
        assert pair["box"][:2].tolist() == pytest.approx([0.5, 0.5])
