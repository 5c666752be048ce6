"""Frames per second of a tracker with the tiny backbone: frames read ahead, beside one after the other.

    make bench

Both sides follow the same video with the same weights in one process, in turn; given are the median
frames per second over the rounds, and the median and range of the ratio of neighbouring rounds. Small
frames are the embedded world's, large ones of 1280 x 720 pixels, whose decoding takes as long as the model.
"""

import statistics
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from adapters.openmmlab import compatibility

compatibility.prepare()

from mmengine.registry import MODELS  # noqa: E402

import adapters.tracking.model  # noqa: E402, F401  registered by import
from adapters.tracking import SCENES_FINETUNE, SCENES_ONE_STREAM, config, evaluation  # noqa: E402
from adapters.tracking.protocol import TrackingProtocol  # noqa: E402
from adapters.tracking.sequences import Sequence as Video  # noqa: E402
from adapters.tracking.sequences import read_frame  # noqa: E402
from adapters.tracking.tracker import CropTracker  # noqa: E402

ARCH, FRAMES, ROUNDS = "test_vit", 48, 10
SIZES = ((128, 128), (1280, 720))


def written(folder: Path, size: tuple[int, int]) -> Video:
    """A video of smooth noise, which decodes as photographs do; the box stays where it is."""
    random = np.random.default_rng(0)
    for k in range(FRAMES):
        coarse = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / f"{k + 1:08d}.jpg", quality=90)
    boxes = np.tile([size[0] / 3, size[1] / 3, size[0] / 6, size[1] / 6], (FRAMES, 1))
    frames = tuple(sorted(folder.glob("*.jpg")))
    return Video(name="noise", frames=frames, size=size, boxes=boxes, absent=np.zeros(FRAMES, bool))


def tracker(protocol: TrackingProtocol) -> CropTracker:
    """An untrained one, which is as fast as any."""
    settings = config.model(protocol)
    settings["backbone"] |= {"arch": ARCH, "out_indices": [-1]}
    settings["data_preprocessor"] |= {"mean": [127.0] * 3, "std": [60.0] * 3}
    sizes = {"template_size": protocol.template_size, "img_size": protocol.img_size}
    return CropTracker(MODELS.build(settings), "cpu", window=protocol.window, **sizes)


def one_by_one(paths: Sequence[Path]) -> Generator[np.ndarray, None, None]:
    """Without read-ahead."""
    yield from map(read_frame, paths)


def frames_per_second(made: CropTracker, video: Video) -> float:
    """Of one pass, reading included."""
    track = evaluation.follow(made, video)
    return float((FRAMES - 1) / (track.seconds[1:].sum() + track.waited[1:].sum()))


def compare(made: CropTracker, video: Video) -> tuple[list[float], list[float]]:
    """(ahead, one by one), a number a round; which goes first takes turns."""
    found: tuple[list[float], list[float]] = ([], [])
    frames_per_second(made, video)
    for turn in range(ROUNDS):
        for side in (0, 1) if turn % 2 else (1, 0):
            reading = one_by_one if side else evaluation._decoded
            with mock.patch.object(evaluation, "_decoded", reading):
                found[side].append(frames_per_second(made, video))
    return found


def main() -> None:
    """Print a line for each protocol and size of frames."""
    for protocol in (SCENES_FINETUNE, SCENES_ONE_STREAM):
        made = tracker(protocol)
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                ahead, plain = compare(made, written(Path(folder), size))
            ratios = sorted(a / b for a, b in zip(ahead, plain, strict=True))
            sys.stdout.write(
                f"{ARCH} {protocol.name}, {size[0]} x {size[1]}: {statistics.median(ahead):.0f} frames/s read ahead, "
                f"{statistics.median(plain):.0f} one by one: {statistics.median(ratios):.2f} times "
                f"({ratios[0]:.2f}-{ratios[-1]:.2f})\n"
            )


if __name__ == "__main__":
    main()
