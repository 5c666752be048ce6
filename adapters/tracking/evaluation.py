"""One-pass evaluation: a tracker gets the first box, and predicts one for every later frame, in order.

    evaluate(make, sequences, folder, processes=4, made_by=hash_of_the_weights)

A sequence's predictions are written as soon as it is done, so an evaluation that was killed resumes with the rest.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from adapters.tracking.sequences import Sequence as Video
from adapters.tracking.sequences import read_frame
from bench.errors import UserError
from bench.files import digest, write_atomic
from bench.processes import end_with_parent
from bench.runs.progress import ProgressFile

Box = NDArray[np.float64]
Frame = NDArray[np.uint8]
AHEAD = 2  # frames to decode in advance
FRAMES_PER_PROCESS = 1000  # for fewer, starting another process takes longer than it saves


class Tracker(Protocol):
    """What can be evaluated. Boxes (4,) are x, y, width, height in pixels; frames (H, W, 3) are RGB."""

    def start(self, frame: Frame, box: Box) -> None:
        """Take the target of a first frame, and forget the previous target."""

    def track(self, frame: Frame) -> tuple[Box, float]:
        """Return the target's box in the next frame, and the confidence in it, 0-1."""


Make = Callable[[], Tracker]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """A tracker's predictions for one sequence; the first frame has the given box.

    Args:
        boxes: (n, 4); confidences: (n,), 0-1, 1 for the first frame.
        seconds: (n,) of the tracker; waited: (n,) until the frame was decoded.
    """

    boxes: Box
    confidences: NDArray[np.float64]
    seconds: NDArray[np.float64]
    waited: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """All tracks by sequence, and for each sequence that could not be read, the reason."""

    tracks: Mapping[str, Track]
    problems: Mapping[str, str]

    @property
    def boxes(self) -> dict[str, Box]:
        """Return the boxes alone, as `metric.score` takes them."""
        return {name: track.boxes for name, track in self.tracks.items()}

    @property
    def frames_per_second(self) -> float:
        """Return the speed of one process, including the time it waited for frames."""
        spent = sum(t.seconds[1:].sum() + t.waited[1:].sum() for t in self.tracks.values())
        return float(sum(len(t.seconds) - 1 for t in self.tracks.values()) / spent)


def default_processes(sequences: Sequence[Video], device: str, cores: int) -> int:
    """Return one process on a GPU, which several would share, or for little work; else up to one a core."""
    if device != "cpu":
        return 1
    frames = sum(len(sequence.frames) for sequence in sequences)
    return min(cores, len(sequences), 1 + frames // FRAMES_PER_PROCESS)


def evaluate(make: Make, sequences: Sequence[Video], folder: Path, processes: int, *, made_by: str) -> Predictions:
    """Track every sequence that has no predictions in the folder yet.

    Args:
        make: builds the tracker, once in each process; picklable.
        folder: predictions in it are used again if `made_by` and the sequence are the same.
        processes: 1 is this process, with all its threads; several have one thread each, and end with this process.
        made_by: identifies the tracker: a hash of its weights and settings.

    Raises UserError when no sequence could be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {video.name: _key(made_by, video) for video in sequences}
    todo = [video for video in sequences if _header(folder, video.name) != keys[video.name]]
    problems = {}
    longest_first = sorted(todo, key=lambda video: -len(video.frames))
    with _progress(folder.parent, len(sequences), len(sequences) - len(todo)) as advance:
        for name, problem in _outcomes(make, longest_first, folder, processes, keys):
            advance()
            if problem:
                problems[name] = problem
    if sequences and len(problems) == len(sequences):
        raise UserError(f"No sequence could be tracked: {next(iter(problems.values()))}")
    names = [video.name for video in sequences if video.name not in problems]
    return Predictions(tracks={name: read_track(folder, name) for name in names}, problems=problems)


@contextlib.contextmanager
def _progress(folder: Path, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal and write the progress file; yield a function to call after each sequence."""
    console = Console(stderr=True)
    file = ProgressFile(folder, "sequences", total=total, done=done)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("sequences", total=total, completed=done)

        def advance() -> None:
            bars.advance(bar)
            file.update(int(bars.tasks[0].completed))

        yield advance


def _outcomes(
    make: Make, todo: Sequence[Video], folder: Path, processes: int, keys: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the name of each finished sequence, and why it could not be read ("" if it could)."""
    if not todo:
        return
    if processes == 1:
        tracker = make()
        for video in todo:
            yield video.name, _follow(tracker, video, folder, keys[video.name])
        return
    # Spawned, because forking after torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(todo)), mp_context=context, initializer=_begin, initargs=(make,)
    ) as pool:
        names = {pool.submit(_work, v, folder, keys[v.name]): v.name for v in todo}
        try:
            for future in as_completed(names):
                yield names[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_made: list[Tracker] = []  # the tracker of a worker process


def _begin(make: Make) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    _made[:] = [make()]


def _work(video: Video, folder: Path, key: str) -> str:
    return _follow(_made[0], video, folder, key)


def _follow(tracker: Tracker, video: Video, folder: Path, key: str) -> str:
    """Track one sequence and write its file; return why it could not be read, or ""."""
    try:
        track = follow(tracker, video)
    except UserError as problem:
        return f"The sequence {video.name} is left out: {problem}"
    rows = np.column_stack([track.boxes, track.confidences, track.seconds, track.waited]).tolist()
    lines = (",".join(map(repr, row)) for row in rows)
    write_atomic(_file(folder, video.name), "\n".join([f"# {key}", *lines]) + "\n")
    return ""


def follow(tracker: Tracker, video: Video) -> Track:
    """Track one sequence; raises UserError for a frame that cannot be read."""
    boxes, confidences, seconds, waited = [video.boxes[0]], [1.0], [], []
    with contextlib.closing(_decoded(video.frames)) as frames:
        began = time.perf_counter()
        for k, frame in enumerate(frames):
            ready = time.perf_counter()
            if k == 0:
                tracker.start(frame, video.boxes[0].copy())
            else:
                box, confidence = tracker.track(frame)
                assert np.isfinite([*box, confidence]).all(), f"{video.name}, frame {k + 1}: {box}"
                boxes.append(np.array(box, np.float64))
                confidences.append(float(confidence))
            waited.append(ready - began)
            began = time.perf_counter()
            seconds.append(began - ready)
    return Track(
        boxes=np.stack(boxes), confidences=np.array(confidences), seconds=np.array(seconds), waited=np.array(waited)
    )


def _decoded(paths: Sequence[Path]) -> Generator[Frame, None, None]:
    """Decode frames in order, some of them in advance."""
    with ThreadPoolExecutor(1) as reader:
        coming: list[Future[Frame]] = [reader.submit(read_frame, path) for path in paths[:AHEAD]]
        try:
            for k in range(len(paths)):
                frame = coming.pop(0).result()
                if k + AHEAD < len(paths):
                    coming.append(reader.submit(read_frame, paths[k + AHEAD]))
                yield frame
        finally:
            reader.shutdown(cancel_futures=True)


def read_track(folder: Path, name: str) -> Track:
    """Read the predictions of one sequence; raises UserError if there are none."""
    file = _file(folder, name)
    if not file.is_file():
        there = sorted(path.stem for path in folder.glob("*.txt"))
        raise UserError(f"There are no predictions {file}. In its folder: {', '.join(there[:8]) or 'none'}.")
    table = np.loadtxt(file, delimiter=",", ndmin=2)
    return Track(boxes=table[:, :4], confidences=table[:, 4], seconds=table[:, 5], waited=table[:, 6])


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.txt"


def _key(made_by: str, video: Video) -> str:
    """Return a hash of the tracker and the sequence, which determine the predictions."""
    frames = [path.name for path in video.frames]
    return digest([made_by, video.name, frames, video.size, video.boxes[0].tolist()])


def _header(folder: Path, name: str) -> str:
    """Return the key in the header of a sequence's predictions; "" if there are none."""
    file = _file(folder, name)
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8") as lines:
        return lines.readline().removeprefix("# ").strip()
