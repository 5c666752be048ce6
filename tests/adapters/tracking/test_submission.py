"""What is sent to GOT-10k's and TrackingNet's servers, read back, and broken."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from adapters.tracking.evaluation import Track
from adapters.tracking.sequences import Sequence
from adapters.tracking.submission import main, validate, write
from bench.errors import UserError

NAMES = ("GOT-10k_Test_000001", "GOT-10k_Test_000002")


@pytest.fixture
def videos() -> tuple[Sequence, ...]:
    frames = tuple(Path(f"{k:08d}.jpg") for k in range(1, 6))
    first, seen = np.array([[3.0, 4, 10, 11]]), np.zeros(1, bool)
    return tuple(Sequence(name=n, frames=frames, size=(64, 48), boxes=first, absent=seen) for n in NAMES)


def tracks(videos: tuple[Sequence, ...]) -> dict[str, Track]:
    random = np.random.default_rng(0)
    return {
        video.name: Track(
            boxes=np.vstack([video.boxes, random.uniform(1, 20, (4, 4))]),
            confidences=np.ones(5),
            seconds=np.full(5, 0.0125),
            waited=np.zeros(5),
        )
        for video in videos
    }


def table(file: Path, name: str) -> list[list[float]]:
    with zipfile.ZipFile(file) as archive:
        text = archive.read(name).decode()
    return [[float(word) for word in line.split(",")] for line in text.splitlines()]


def test_got10k_counts_from_one_and_tells_times(tmp_path: Path, videos: tuple[Sequence, ...]) -> None:
    found = tracks(videos)
    file = write("got10k", tmp_path / "got10k.zip", videos, found)
    for name in NAMES:
        boxes = np.array(table(file, f"{name}/{name}_001.txt"))
        assert boxes[0].tolist() == [4, 5, 10, 11]
        np.testing.assert_allclose(boxes[:, :2] - 1, found[name].boxes[:, :2], atol=1e-4)
        np.testing.assert_allclose(boxes[:, 2:], found[name].boxes[:, 2:], atol=1e-4)
        assert table(file, f"{name}/{name}_time.txt") == [[0.0125]] * 5


def test_trackingnet_counts_from_zero(tmp_path: Path, videos: tuple[Sequence, ...]) -> None:
    file = write("trackingnet", tmp_path / "tn.zip", videos, tracks(videos))
    assert table(file, f"{NAMES[0]}.txt")[0] == [3, 4, 10, 11]
    with zipfile.ZipFile(file) as archive:
        assert sorted(archive.namelist()) == [f"{name}.txt" for name in NAMES]


BOX = "1,1,5,5\n"
BROKEN = {
    "missing": ({f"{NAMES[0]}.txt": BOX * 5}, f"{NAMES[1]}.txt is missing"),
    "too many": ({"readme.txt": ""}, "readme.txt does not belong to a sequence"),
    "count": ({f"{NAMES[0]}.txt": BOX * 4}, f"{NAMES[0]}.txt has 4 x 4 numbers, 5 x 4 expected"),
    "columns": ({f"{NAMES[0]}.txt": "1,2,3\n" * 5}, "has 5 x 3 numbers"),
    "ragged": ({f"{NAMES[0]}.txt": BOX * 4 + "1,2\n"}, "not all numbers"),
    "nan": ({f"{NAMES[0]}.txt": BOX * 4 + "nan,1,2,3\n"}, f"Line 5 of {NAMES[0]}.txt .*not a valid number"),
    "words": ({f"{NAMES[0]}.txt": BOX * 4 + "a,1,2,3\n"}, "not all numbers"),
    "size": ({f"{NAMES[0]}.txt": BOX + "1,1,0,3\n" + BOX * 3}, "Line 2 .*a box without size"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_named(tmp_path: Path, videos: tuple[Sequence, ...], what: str) -> None:
    files, said = BROKEN[what]
    file = tmp_path / "tn.zip"
    whole = {} if what == "missing" else {f"{name}.txt": BOX * 5 for name in NAMES}
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {**whole, **files}.items():
            archive.writestr(name, text)
    (problem,) = validate("trackingnet", file, videos)
    with pytest.raises(UserError, match=said):
        raise UserError(problem)


def test_negative_times_and_files_that_are_no_zip(tmp_path: Path, videos: tuple[Sequence, ...]) -> None:
    found = tracks(videos)
    found[NAMES[1]].seconds[2] = -1
    with pytest.raises(UserError, match=rf"Line 3 of {NAMES[1]}/{NAMES[1]}_time.txt"):
        write("got10k", tmp_path / "got10k.zip", videos, found)
    (tmp_path / "no.zip").write_text("none")
    assert "is not a zip file" in validate("got10k", tmp_path / "no.zip", videos)[0]


def test_a_sequence_that_could_not_be_tracked_spoils_a_submission(tmp_path: Path, videos: tuple[Sequence, ...]) -> None:
    with pytest.raises(UserError, match="would be refused by its server: clip-3 is left out"):
        write("got10k", tmp_path / "a.zip", videos, tracks(videos), missing="clip-3 is left out.")


def test_the_command_line(tmp_path: Path, videos: tuple[Sequence, ...], capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in NAMES:
        home = tmp_path / "got10k/test" / name
        home.mkdir(parents=True)
        (home / "groundtruth.txt").write_text("4,5,10,11")
        for k in range(1, 6):
            Image.new("RGB", (64, 48)).save(home / f"{k:08d}.jpg")
    (tmp_path / "got10k/test/list.txt").write_text("\n".join(NAMES))
    file = write("got10k", tmp_path / "got10k.zip", videos, tracks(videos))
    asked = ["got10k", str(file), "--data-root", str(tmp_path)]
    assert main(asked) == 0
    with zipfile.ZipFile(file, "w"):
        pass
    assert main(asked) == 1
    assert f"{NAMES[0]}/{NAMES[0]}_001.txt is missing" in capsys.readouterr().err
    assert main(["got10", *asked[1:]]) == 2
