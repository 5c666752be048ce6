"""From predictions to what a record says: scores and speed, and which sequences they are not about.

What is left out stands by name in the record (`selection.reported_on`), by number in its metrics, and
with the reasons in the run's folder, where `video` finds the frames too.
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
PREDICTIONS = "predictions"  # there, too
NAMED = 20  # sequences left out, at most, that the record names


def summarise(found: Sequences, predictions: Predictions, scores: Sequence[str], folder: Path) -> dict[str, float]:
    """Score what was tracked; where a server has the answers, write what it takes, and score nothing.

    Args:
        found: the split as it was loaded.
        scores: definitions of `metrics.score`.
        folder: the run's; notes are left there for `told`, and `submission.zip`.

    Returns percentages 0-100 (NaN where a server has the answers), `FPS`, and how many sequences were
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


def told(outcome: Outcome, folder: Path) -> Outcome:
    """The outcome with what `summarise` noted in the words of its record."""
    notes = json.loads((folder / NOTES).read_text("utf-8"))
    words = outcome.selection.reported_on
    if problems := list(notes["problems"]):
        more = ", ..." if len(problems) > NAMED else ""
        names = ", ".join(problems[:NAMED]) + more
        words += f", without {len(problems)} of {notes['sequences']} sequences: {names}"
    if notes["submission"]:
        words += f", whose answers a server has: not scored here, but written to {notes['submission']}"
    selection = dataclasses.replace(outcome.selection, reported_on=words)
    return dataclasses.replace(outcome, selection=selection)
