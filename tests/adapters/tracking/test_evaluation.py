"""Evaluation of small trackers on videos written here, also when it is killed."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from moving_squares import Constant, read_lasot, write_lasot
from numpy.typing import NDArray

from adapters.tracking.evaluation import default_processes, evaluate, follow
from bench.errors import UserError
from bench.runs import progress

ROOT, HERE = Path(__file__).parents[3], Path(__file__).parent


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_lasot(tmp_path / "lasot", ("ball-1", "box-1", "box-2"))


class Brightness:
    """Says where the square is from the pixels it sees, so that a frame out of order would show."""

    def start(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
        x, y, w, h = box.astype(int)
        self.target, self.size = frame[y : y + h, x : x + w].astype(int), (w, h)

    def track(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        w, h = self.size
        errors = {
            (x, y): abs(frame[y : y + h, x : x + w].astype(int) - self.target).mean()
            for x in range(frame.shape[1] - w + 1)
            for y in range(frame.shape[0] - h + 1)
        }
        best = min(errors, key=errors.__getitem__)
        return np.array([*best, w, h], float), 1 - errors[best] / 255


def test_every_frame_reaches_the_tracker_in_order(videos: Path, tmp_path: Path) -> None:
    sequences = read_lasot(videos)
    found = evaluate(Brightness, sequences, tmp_path / "out", 1, made_by="a")
    for video in sequences:
        np.testing.assert_array_equal(found.boxes[video.name], video.boxes)
    track = found.tracks["ball-1"]
    assert track.confidences[0] == 1
    assert (track.confidences[1:] > 0.9).all()
    assert found.frames_per_second > 0


def test_processes_find_what_one_finds(videos: Path, tmp_path: Path) -> None:
    sequences = read_lasot(videos)
    make = functools.partial(Constant, 0.25)
    alone = evaluate(make, sequences, tmp_path / "alone", 1, made_by="a")
    several = evaluate(make, sequences, tmp_path / "several", 2, made_by="a")
    for name, track in alone.tracks.items():
        np.testing.assert_array_equal(track.boxes, several.tracks[name].boxes)
        np.testing.assert_array_equal(track.confidences, several.tracks[name].confidences)
    assert progress.read(tmp_path) == progress.Progress(what="sequences", done=3, total=3, left=pytest.approx(0))


def test_predictions_of_other_weights_or_frames_are_made_again(videos: Path, tmp_path: Path) -> None:
    out, sequences = tmp_path / "out", read_lasot(videos)
    first = evaluate(functools.partial(Constant, 0.25), sequences, out, 1, made_by="a")
    same = evaluate(functools.partial(Constant, 0.75), sequences, out, 1, made_by="a")
    assert same.tracks["ball-1"].confidences[1] == first.tracks["ball-1"].confidences[1] == 0.25
    other = evaluate(functools.partial(Constant, 0.75), sequences, out, 1, made_by="b")
    assert other.tracks["ball-1"].confidences[1] == 0.75

    longer = read_lasot(write_lasot(tmp_path / "longer", ("ball-1",), frames=9))
    again = evaluate(functools.partial(Constant, 0.5), longer, out, 1, made_by="b")
    assert len(again.boxes["ball-1"]) == 9


def test_a_frame_that_cannot_be_read_leaves_its_sequence_out(videos: Path, tmp_path: Path) -> None:
    (videos / "box/box-1/img/00000004.jpg").write_bytes(b"")
    found = evaluate(Constant, read_lasot(videos), tmp_path / "out", 1, made_by="a")
    assert set(found.tracks) == {"ball-1", "box-2"}
    assert "box-1 is left out" in found.problems["box-1"]
    assert "00000004.jpg" in found.problems["box-1"]

    with pytest.raises(UserError, match=r"No sequence could be tracked.*00000004"):
        evaluate(Constant, read_lasot(videos)[1:2], tmp_path / "out", 1, made_by="a")


def test_decoding_overlaps_tracking(tmp_path: Path) -> None:
    """A frame here takes longer to decode than to wait for: it is decoded while the tracker works."""
    (video,) = read_lasot(write_lasot(tmp_path / "lasot", ("ball-1",), frames=20))
    track = follow(Constant(pause=0.02), video)
    assert track.seconds[1:].min() >= 0.02
    assert np.median(track.waited[2:]) < 0.002


def test_a_wrong_box_of_a_tracker_is_a_failure_not_a_score(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ball-1, frame 2"):
        evaluate(functools.partial(Constant, np.nan), read_lasot(videos), tmp_path, 1, made_by="a")


def test_how_many_processes(videos: Path) -> None:
    sequences = read_lasot(videos)
    assert default_processes(sequences, "cpu", 8) == 1
    assert default_processes(sequences * 200, "cpu", 8) == 4
    assert default_processes(sequences * 2000, "cpu", 8) == 8
    assert default_processes(sequences * 2000, "cuda", 8) == 1


EVALUATE = """
import functools, sys
from pathlib import Path
from moving_squares import Constant, read_lasot
from adapters.tracking.evaluation import evaluate

if __name__ == "__main__":
    videos, out, confidence = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    make = functools.partial(Constant, confidence, pause=0.1)
    evaluate(make, read_lasot(videos), out, int(sys.argv[4]), made_by="a")
"""


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_evaluation_goes_on_with_what_is_missing(videos: Path, tmp_path: Path, processes: int) -> None:
    script, out = tmp_path / "evaluate_squares.py", tmp_path / "out"
    script.write_text(EVALUATE)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
    command = [sys.executable, str(script), str(videos), str(out)]
    killed = subprocess.Popen([*command, "0.25", str(processes)], env=environment)
    deadline = time.monotonic() + 60
    while not (there := set(out.glob("*.txt"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = _children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while any(map(_alive, children)):
        assert time.monotonic() < deadline, "a process outlives its evaluation"
        time.sleep(0.05)
    assert len(there) < 3

    first = {path: path.read_text() for path in sorted(out.glob("*.txt"))}
    subprocess.run([*command, "0.75", "1"], env=environment, check=True)
    assert len(list(out.glob("*.txt"))) == 3
    for path in sorted(out.glob("*.txt")):
        assert path.read_text() == first[path] if path in first else ",0.75," in path.read_text()


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
