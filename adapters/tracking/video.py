"""Draw a sequence with the true boxes and those of trackers, as a GIF or MP4.

    python -m adapters.tracking.video RUN [RUN ...] --sequence NAME --out ball.gif

RUN is the work folder of a tracking run, with the same path as its record but without `.json`
(`runs/tracking/scenes/<backbone>@<weights8>/<digest8>-seed<k>`).
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adapters.tracking.evaluation import Box, Track, read_track
from adapters.tracking.metric import NOTES, PREDICTIONS
from adapters.tracking.sequences import Sequence as Video
from adapters.tracking.sequences import load, read_frame
from bench.datasets.drawing import draw_boxes
from bench.errors import UserError, unknown

TRUTH = (255, 255, 255)
COLOURS = (  # Okabe and Ito
    (230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115), (213, 94, 0), (240, 228, 66),
)  # fmt: skip
WIDTH = 480  # pixels: smallest width of the video
LINE = 20  # pixels: height of a line of text
SUFFIXES = (".gif", ".mp4")


def pictures(video: Video, tracks: Mapping[str, Track]) -> Iterator[Image.Image]:
    """Yield the frames with the true box in white, one box for each tracker, and the confidences below."""
    scale = max(1, -(-WIDTH // video.size[0]))
    colours = dict(zip(tracks, itertools.cycle(COLOURS), strict=False))
    font = ImageFont.load_default(LINE - 6)
    for k, path in enumerate(video.frames):
        frame = Image.fromarray(read_frame(path))
        frame = frame.resize((frame.width * scale, frame.height * scale))
        known = k < len(video.boxes) and not video.absent[k]
        boxes = [video.boxes[k]] * known + [track.boxes[k] for track in tracks.values()]
        frame = draw_boxes(frame, [_drawn(box * scale) for box in boxes], [TRUTH] * known + list(colours.values()))
        page = Image.new("RGB", (frame.width, frame.height + LINE * (len(tracks) + 1)))
        page.paste(frame)
        draw = ImageDraw.Draw(page)
        state = "" if known else ", target absent" if video.answered else ""
        lines = [(f"{video.name}, frame {k + 1} of {len(video.frames)}{state}", TRUTH)]
        lines += [(f"{n}: confidence {t.confidences[k]:.0%}", colours[n]) for n, t in tracks.items()]
        for row, (text, colour) in enumerate(lines):
            draw.text((6, frame.height + row * LINE + 1), text, fill=colour, font=font)
        yield page


def _drawn(box: Box) -> tuple[float, float, float, float]:
    """Return a box whose outline lies inside this one; its last column and row are drawn as well."""
    x, y, width, height = box.tolist()
    return x, y, max(width - 1, 0), max(height - 1, 0)


def save(frames: Iterator[Image.Image], out: Path, rate: float) -> None:
    """Write a repeating GIF or an MP4 of `rate` frames a second; raises UserError for other suffixes."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: give a file that ends with {' or '.join(SUFFIXES)}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".gif":
        first, *rest = frames
        first.save(out, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
        return
    writer = None
    for frame in frames:
        size = (frame.width // 2 * 2, frame.height // 2 * 2)  # MP4 players need even sides
        if writer is None:
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        writer.write(cv2.cvtColor(np.asarray(frame.crop((0, 0, *size))), cv2.COLOR_RGB2BGR))
    assert writer is not None
    writer.release()


def find(run: Path, name: str | None) -> Video:
    """Return the sequence `name`, or the first one, of the split that a run was evaluated on. Raises UserError."""
    notes = run / NOTES
    if not notes.is_file():
        raise UserError(
            f"{run} is not the folder of a finished tracking run: it has no {NOTES}. Give "
            f"<work-dir>/tracking/<dataset>/<backbone>@<weights8>/<digest8>-seed<k>."
        )
    source = json.loads(notes.read_text("utf-8"))["source"]
    videos = load(source["layout"], Path(source["folder"]), source["split"]).sequences
    known = {video.name: video for video in videos if (run / PREDICTIONS / f"{video.name}.txt").is_file()}
    if not known or (name and name not in known):
        raise unknown(f"sequence of {run}", name or "", known)
    return known[name] if name else next(iter(known.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the video; return the exit status: 0 done, 2 invalid request."""
    parser = argparse.ArgumentParser(
        prog="python -m adapters.tracking.video", description="Draw the boxes of tracking runs into a video."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="The work folder of a tracking run.")
    parser.add_argument("--sequence", metavar="NAME", help="The sequence to draw (default: the first run's first).")
    parser.add_argument(
        "--out", type=Path, default=Path("tracking.gif"), help="The .gif or .mp4 file to write (default: tracking.gif)."
    )
    parser.add_argument("--rate", type=float, default=10, help="The number of frames a second (default: 10).")
    given = parser.parse_args(argv)
    try:
        video = find(given.runs[0], given.sequence)
        # A track is named after its run's backbone, weights, digest and seed.
        names = {f"{run.absolute().parent.name} {run.name}": run for run in given.runs}
        tracks = {name: read_track(run / PREDICTIONS, video.name) for name, run in names.items()}
        save(pictures(video, tracks), given.out, given.rate)
    except UserError as error:
        sys.stderr.write(f"adapters.tracking.video: {error}\n")
        return 2
    sys.stdout.write(f"{given.out}: {video.name}, {len(video.frames)} frames\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
