"""From predictions to a record: scores, speed, and the sequences that were left out.

Those are named in the record (`selection.reported_on`), counted in its metrics, and explained in NOTES in the run's
folder, where `video` also finds the path of the frames.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from adapters.tracking import submission
from adapters.tracking.datasets import HEADLINES
from adapters.tracking.evaluation import Predictions
from adapters.tracking.metric import score
from adapters.tracking.sequences import Sequences
from bench.files import write_atomic
from bench.tasks import Outcome

logger = logging.getLogger(__name__)
NOTES = "reported-on.json"  # in the run's folder
PREDICTIONS = "predictions"  # folder in the run's folder
NAMED = 20  # most sequences left out that the record names


def summarise(found: Sequences, predictions: Predictions, scores: Sequence[str], folder: Path) -> dict[str, float]:
    """Score the predictions or, if only a server has the answers, write its submission file.

    Args:
        found: the split as it was loaded.
        scores: definitions of `metric.score`.
        folder: the run's; gets NOTES, which `with_remarks` reads, and `submission.zip`.

    Returns percentages 0-100 (NaN if a server has the answers), `FPS`, and how many sequences were
    tracked and left out. Raises UserError for an incomplete submission.
    """
    problems = {**found.problems, **predictions.problems}
    for paragraph in problems.values():
        logger.warning(paragraph)
    videos = [video for video in found.sequences if video.name in predictions.tracks]
    notes = {"problems": problems, "sequences": len(videos) + len(problems), "submission": ""}
    notes["source"] = dict(found.source)
    if all(video.answered for video in videos):
        metrics = score(scores, videos, predictions.boxes)
    else:
        missing = " ".join(problems.values())
        file = folder / "submission.zip"
        submission.write(scores[0], file, videos, predictions.tracks, missing=missing)
        metrics = dict.fromkeys(HEADLINES[scores[0]], math.nan)
        notes["submission"] = file.name
    write_atomic(folder / NOTES, json.dumps(notes, indent=1))
    return metrics | {
        "FPS": predictions.frames_per_second,
        "sequences": len(videos),
        "sequences_left_out": len(problems),
    }


def with_remarks(outcome: Outcome, folder: Path) -> Outcome:
    """Return the outcome with the remarks of `summarise` added to `selection.reported_on`."""
    notes = json.loads((folder / NOTES).read_text("utf-8"))
    remarks = outcome.selection.reported_on
    if problems := list(notes["problems"]):
        more = ", ..." if len(problems) > NAMED else ""
        names = ", ".join(problems[:NAMED]) + more
        remarks += f", without {len(problems)} of {notes['sequences']} sequences: {names}"
    if notes["submission"]:
        remarks += f", whose answers a server has: not scored here, but written to {notes['submission']}"
    selection = dataclasses.replace(outcome.selection, reported_on=remarks)
    return dataclasses.replace(outcome, selection=selection)
