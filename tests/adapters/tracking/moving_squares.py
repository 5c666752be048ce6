"""Short videos of a square that moves over noise, in LaSOT's layout, and a tracker that knows the truth."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.tracking.sequences import Sequence, load, read_frame

SIZE = (64, 48)  # width, height


def write_lasot(
    folder: Path, names: tuple[str, ...] = ("ball-1", "box-1"), frames: int = 6, split: str = "testing"
) -> Path:
    """A square of 12 pixels moves by 2, 1 a frame; counted from 1, nowhere absent."""
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        scene = random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        target = random.integers(0, 256, (12, 12, 3), np.uint8)
        home = folder / name.rpartition("-")[0] / name
        (home / "img").mkdir(parents=True)
        for k in range(frames):
            x, y = 5 + 2 * k, 7 + k
            picture = scene.copy()
            picture[y : y + 12, x : x + 12] = target
            Image.fromarray(picture).save(home / "img" / f"{k + 1:08d}.jpg", quality=95)
        boxes = [f"{6 + 2 * k},{8 + k},12,12" for k in range(frames)]
        (home / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
        for label in ("full_occlusion", "out_of_view"):
            (home / f"{label}.txt").write_text(",".join("0" * frames) + "\n")
    with (folder / f"{split}_set.txt").open("a") as file:
        file.write("\n".join(names) + "\n")
    return folder


def read_lasot(folder: Path) -> tuple[Sequence, ...]:
    found = load("lasot", folder, "test")
    assert not found.problems
    return found.sequences


class Constant:
    """Stays where the first box was, with a confidence of its own; `pause` seconds a frame."""

    def __init__(self, confidence: float = 0.5, pause: float = 0.0) -> None:
        self.confidence, self.pause = confidence, pause

    def start(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
        assert frame.shape == (SIZE[1], SIZE[0], 3)
        self.box = box

    def track(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        time.sleep(self.pause)
        return self.box, self.confidence


class GroundTruth:
    """Knows the boxes of some sequences, and which it is from the first frame; no tracker can do better."""

    def __init__(self, videos: tuple[Sequence, ...]) -> None:
        self.truth = {read_frame(video.frames[0]).tobytes(): video.boxes for video in videos}

    def start(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
        self.boxes = iter(self.truth[frame.tobytes()][1:])

    def track(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        return next(self.boxes), 1.0
