"""Submission files for the servers that have the answers of GOT-10k's and TrackingNet's tests.

    python -m adapters.tracking.submission got10k FILE.zip --data-root DIR    # check a file

got10k: `<name>/<name>_001.txt`, a line a frame of x,y,w,h counted from 1, and `<name>/<name>_time.txt`,
its seconds (got-10k/toolkit 956e728). trackingnet: `<name>.txt`, counted from 0 (SilvioGiancola/
TrackingNet-devkit 79783f2).
"""

import argparse
import io
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.tracking import datasets
from adapters.tracking.evaluation import Track
from adapters.tracking.sequences import Sequence as Video
from adapters.tracking.sequences import load
from bench.errors import UserError, unknown

Lines = NDArray[np.float64]
BASE = {"got10k": 1, "trackingnet": 0}


def write(form: str, file: Path, videos: Sequence[Video], tracks: Mapping[str, Track], *, missing: str = "") -> Path:
    """Write the predictions as a zip file in the format `form`, and check it.

    `missing` describes the sequences that could not be tracked. Raises UserError for a submission that the server
    would refuse; the file is still written.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for video in videos:
            for name, table in _files(form, video.name, tracks[video.name]).items():
                archive.writestr(name, table)
    problems = [missing] if missing else []
    problems += validate(form, file, videos)
    if problems:
        raise UserError(f"The submission {file} would be refused by its server: {problems[0]}")
    return file


def _files(form: str, name: str, track: Track) -> dict[str, str]:
    """Return the text of each file of one sequence, by name."""
    boxes = track.boxes + np.array([BASE[form], BASE[form], 0, 0])
    if form == "trackingnet":
        return {f"{name}.txt": _text(boxes, "%.2f")}
    seconds = _text(track.seconds[:, None], "%.8f")
    return {f"{name}/{name}_001.txt": _text(boxes, "%.4f"), f"{name}/{name}_time.txt": seconds}


def _text(table: Lines, form: str) -> str:
    text = io.StringIO()
    np.savetxt(text, table, fmt=form, delimiter=",")
    return text.getvalue()


def validate(form: str, file: Path, videos: Sequence[Video]) -> list[str]:
    """Describe each problem of a submission in a sentence: missing or extra files, lines, numbers."""
    if form not in BASE:
        raise unknown("format of a submission", form, BASE)
    try:
        with zipfile.ZipFile(file) as archive:
            there = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    except (OSError, zipfile.BadZipFile) as error:
        return [f"{file} is not a zip file ({error})."]
    expected = {name: video for video in videos for name in _columns(form, video.name)}
    problems = [f"{name} is missing." for name in expected if name not in there]
    problems += [f"{name} does not belong to a sequence of the split." for name in there.keys() - expected]
    for name, video in expected.items():
        if name in there:
            columns = _columns(form, video.name)[name]
            problems += _wrong(name, there[name], len(video.frames), columns)
    return problems


def _columns(form: str, name: str) -> dict[str, int]:
    """Return the numbers in a line of each file of a sequence, by name."""
    if form == "trackingnet":
        return {f"{name}.txt": 4}
    return {f"{name}/{name}_001.txt": 4, f"{name}/{name}_time.txt": 1}


def _wrong(name: str, content: bytes, frames: int, columns: int) -> list[str]:
    try:
        rows = [line.split(b",") for line in content.splitlines() if line.strip()]
        table = np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        return [f"{name} is not all numbers ({error})."]
    if table.shape != (frames, columns):
        lines = " x ".join(map(str, table.shape))
        return [f"{name} has {lines} numbers, {frames} x {columns} expected."]
    bad = ~np.isfinite(table) | (table < 0 if columns == 1 else False)
    bad[:, 2:] |= table[:, 2:] <= 0
    if not bad.any():
        return []
    line = int(np.flatnonzero(bad.any(1))[0])
    kind = "a box without size" if np.isfinite(table[line]).all() and columns == 4 else "not a valid number"
    return [f"Line {line + 1} of {name} is {rows[line]!r}: {kind}."]


def main(argv: Sequence[str] | None = None) -> int:
    """Check a file; return 0 if the server would accept it, 1 if not, 2 for an invalid request."""
    parser = argparse.ArgumentParser(
        prog="python -m adapters.tracking.submission", description="Check a submission file before sending it."
    )
    parser.add_argument("format", help=f"The file's format: {' or '.join(BASE)}.")
    parser.add_argument("file", type=Path, help="The zip file to check.")
    parser.add_argument("--data-root", type=Path, help="The folder of data sets (default: $BENCH_DATA).")
    arguments = parser.parse_args(argv)
    try:
        problems = validate(arguments.format, arguments.file, _videos(arguments.format, arguments.data_root))
    except UserError as error:
        sys.stderr.write(f"adapters.tracking.submission: {error}\n")
        return 2
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    sys.stdout.write(f"{arguments.file}: {len(problems)} problems\n")
    return 1 if problems else 0


def _videos(form: str, data_root: Path | None) -> tuple[Video, ...]:
    """Return the sequences of the test split of a format; raises UserError if one is unusable."""
    known = {"got10k": datasets.GOT10K, "trackingnet": datasets.TRACKINGNET}
    if form not in known:
        raise unknown("format of a submission", form, BASE)
    root = data_root or (Path(os.environ["BENCH_DATA"]) if "BENCH_DATA" in os.environ else None)
    found = load(known[form].layout, known[form].only(("test",)).locate(root), "test")
    if found.problems:
        raise UserError(next(iter(found.problems.values())))
    return found.sequences


if __name__ == "__main__":
    sys.exit(main())
