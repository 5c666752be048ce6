"""Loss curves of detection runs, drawn from their records."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leaderboards import loss_curves

Write = Callable[..., Path]
DETECTION = {"task": "detection/scenes", "metrics": {"bbox_AP": 1.0}, "primary": "bbox_AP"}


def curves(length: int = 40) -> dict[str, list[float]]:
    return {name: [1 / (i + 1) for i in range(length)] for name in ("rpn", "cls", "bbox", "mask")}


def test_a_moving_mean_by_hand() -> None:
    """In the middle of three values, at the ends of the two that there are."""
    found = loss_curves.moving_mean([0.0, 3.0, 6.0, 0.0], 3)
    assert found.tolist() == [1.5, 3.0, 3.0, 3.0]
    assert loss_curves.moving_mean([1.0, 2.0], 9).tolist() == [1.5, 1.5]


def test_records_become_a_picture(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [write(backbone=name, curves=curves(), **DETECTION) for name in ("vit", "resnet")]
    out = tmp_path / "losses.png"

    assert loss_curves.main([*map(str, records), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape[1] > 1000
    first = out.read_bytes()
    assert loss_curves.main([*map(str, records), "--out", str(out)]) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"curves": {}}, [], "has no curve of cls and bbox"),
        ({"curves": {"cls": [1.0]}}, [], "has no curve of bbox"),
        ({"curves": curves(), "digest": "d2" * 32}, [], "digest d2d2d2d2, vit@a1a1a1a1 has d1d1d1d1"),
        ({"curves": curves()}, ["--smooth", "0"], "give 1 iteration or more"),
        ({"curves": curves()}, ["--out", "losses.txt"], "must end in .png, .pdf, .svg"),
        ({"curves": curves()}, ["--out", "nowhere/losses.png"], "cannot be written"),
    ],
)
def test_records_that_cannot_be_drawn_are_an_error(
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    arguments: list[str],
    message: str,
) -> None:
    records = [write(curves=curves(), **DETECTION), write(backbone="b", **DETECTION, **changes)]
    given = [*map(str, records), "--out", str(tmp_path / "x.png"), *arguments]

    assert loss_curves.main(given) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_a_record_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert loss_curves.main([str(tmp_path / "a.json"), "--out", str(tmp_path / "x.png")]) == 2
    assert "cannot be read" in capsys.readouterr().err
