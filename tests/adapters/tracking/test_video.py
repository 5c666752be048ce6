"""Videos of predictions, read back."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from moving_squares import Constant, read_lasot, write_lasot
from PIL import Image

from adapters.tracking.evaluation import evaluate
from adapters.tracking.metric import PREDICTIONS, summarise
from adapters.tracking.sequences import load
from adapters.tracking.video import COLOURS, main, pictures

ORANGE = COLOURS[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    found = load("lasot", write_lasot(tmp_path / "lasot"), "test")
    folder = tmp_path / "runs/tracking/lasot/constant-position@baseline/12345678-seed0"
    predictions = evaluate(Constant, found.sequences, folder / PREDICTIONS, 1, made_by="a")
    summarise(found, predictions, ("lasot",), folder)
    return folder


def test_boxes_lie_where_they_were_found_and_confidences_below(run: Path) -> None:
    (video, _) = read_lasot(run.parents[4] / "lasot")
    video.absent[5] = True
    track = evaluate(Constant, [video], run / PREDICTIONS, 1, made_by="a").tracks["ball-1"]
    pages = list(pictures(video, {"mine": track, "yours": track}))
    assert len(pages) == 6
    assert pages[0].width >= 480
    scale = pages[0].width // video.size[0]
    pixels = np.asarray(pages[4])
    x, y = (video.boxes[4, :2] * scale).astype(int)
    assert tuple(pixels[y, x + 20]) == (255, 255, 255)
    inside = pages[0].height - 3 * 20
    assert inside == video.size[1] * scale
    assert (pixels[inside:] == ORANGE).all(-1).any()
    last = np.asarray(pages[5])
    x, y = (np.array([15, 12]) * scale).astype(int)  # where the target would be
    assert tuple(last[y, x + 20]) != (255, 255, 255)


@pytest.mark.parametrize("name", ["box.gif", "new/box.mp4"])
def test_gif_and_mp4_have_every_frame(run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    assert main([str(run), "--sequence", "box-1", "--out", str(out)]) == 0
    assert "box-1, 6 frames" in capsys.readouterr().out
    if out.suffix == ".gif":
        with Image.open(out) as image:
            assert image.n_frames == 6
    else:
        video = cv2.VideoCapture(str(out))
        assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_what_is_not_there_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {("box-2",): "Did you mean box-1", ("box-1", "--out", str(tmp_path / "box.avi")): "ends with .gif or .mp4"}
    for words, said in wrong.items():
        assert main([str(run), "--sequence", *words]) == 2
        assert said in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "is not the folder of a finished tracking run" in capsys.readouterr().err
