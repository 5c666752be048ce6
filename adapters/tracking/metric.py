"""Each benchmark's scores, in percent, from predicted and true boxes.

    score(("lasot", "got10k"), sequences, {"ball-6": boxes, ...})

lasot, otb   SUC: share of frames whose overlap is above each of 0, 0.05, ..., 1, averaged. P: share of
             frames whose centre is at most 20 pixels off. Pnorm: at most 0.2, in units of the truth's
             width and height. Each is the mean over sequences; frames in which the target is absent count as
             misses, so a perfect tracker may stay below 20/21 of 100. (HengLan/LaSOT_Evaluation_Toolkit 95bf38a,
             without its special case of true coordinates below 1. OTB has no Pnorm and no absent frames:
             got-10k/toolkit 956e728.)
got10k       AO: mean overlap; SR0.5, SR0.75: share of overlaps above. Over the frames of all sequences together,
             without first frames and frames in which the target is absent, with boxes cut to the image
             (got-10k/toolkit 956e728, which clips boxes counted from 1 to 0-width: a box that is in the last
             column only overlaps with nothing).
trackingnet  On boxes rounded to pixels: SUC from overlaps *at least* 0, 0.05, ..., 1, P from centres at most
             0, 2.5, ..., 50 pixels off, Pnorm at most 0, 0.025, ..., 0.5, each the area under the curve by
             trapezoids, of mean curves over sequences (SilvioGiancola/TrackingNet-devkit 79783f2).

The first frame counts, as correct, in all but got10k. `SUC/<attribute>` is over the sequences that have the
attribute in any frame; `AO/<attribute>` over the frames that have it.

Sequences that were left out are named in the record (`selection.reported_on`), counted in its metrics, and explained
in NOTES in the run's folder, where `video` also finds the path of the frames.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.tracking import submission
from adapters.tracking.datasets import HEADLINES
from adapters.tracking.evaluation import Predictions
from adapters.tracking.sequences import Sequence as Video
from adapters.tracking.sequences import Sequences
from bench.files import write_atomic
from bench.tasks import Outcome

Array = NDArray[np.float64]
Predicted = Mapping[str, Array]

# What each definition gives for all sequences together, the most cited first.
THRESHOLDS = np.linspace(0, 1, 21)
PIXELS = 20
SIZES = 0.2


def score(definitions: Sequence[str], videos: Sequence[Video], predicted: Predicted) -> dict[str, float]:
    """All numbers of the named definitions, 0-100.

    `predicted` has boxes (n, 4) for every video by name: x, y, width, height in pixels from 0, all finite.
    """
    assert videos
    for video in videos:
        assert predicted[video.name].shape == video.boxes.shape, video.name
        assert np.isfinite(predicted[video.name]).all(), video.name
    return {
        name: value for definition in definitions for name, value in DEFINITIONS[definition](videos, predicted).items()
    }


def overlap(boxes: Array, truth: Array) -> Array:
    """Return the intersection over union, row by row; 0 where both boxes are empty."""
    corner = np.maximum(boxes[:, :2], truth[:, :2])
    opposite = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(1)
    union = boxes[:, 2:].prod(1) + truth[:, 2:].prod(1) - shared
    ratio: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio.clip(max=1.0)  # by rounding, equal boxes can exceed 1


def centre_offset(boxes: Array, truth: Array) -> Array:
    """Return the offset from the true to the predicted centre, (n, 2) in pixels."""
    offset: Array = boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2
    return offset


def _one_pass(video: Video, boxes: Array) -> dict[str, float]:
    """Score one sequence as LaSOT's toolkit does."""
    seen = ~video.absent
    boxes = np.vstack([video.boxes[:1], boxes[1:]])[seen]
    truth, frames = video.boxes[seen], len(video.frames)
    overlaps, offset = overlap(boxes, truth), centre_offset(boxes, truth)
    return {
        "SUC": 100 * (overlaps[:, None] > THRESHOLDS).sum(0).mean() / frames,
        "P": 100 * (np.linalg.norm(offset, axis=1) <= PIXELS).sum() / frames,
        "Pnorm": 100 * (np.linalg.norm(offset / truth[:, 2:], axis=1) <= SIZES).sum() / frames,
    }


def _lasot(videos: Sequence[Video], predicted: Predicted) -> dict[str, float]:
    each = {video.name: _one_pass(video, predicted[video.name]) for video in videos}
    scores = {k: float(np.mean([one[k] for one in each.values()])) for k in HEADLINES["lasot"]}
    for name in sorted({name for video in videos for name in video.attributes}):
        having = [v.name for v in videos if np.any(v.attributes.get(name, False))]
        if having:
            scores[f"SUC/{name}"] = float(np.mean([each[video]["SUC"] for video in having]))
    return scores


def _otb(videos: Sequence[Video], predicted: Predicted) -> dict[str, float]:
    return {k: v for k, v in _lasot(videos, predicted).items() if k != "Pnorm"}


def _got10k(videos: Sequence[Video], predicted: Predicted) -> dict[str, float]:
    overlaps = np.concatenate([overlap(_cut(predicted[v.name], v.size), _cut(v.boxes, v.size))[1:] for v in videos])
    seen = np.concatenate([~video.absent[1:] for video in videos])
    found = overlaps[seen]
    scores = {f"SR{share}": 100 * float((found > share).mean()) for share in (0.5, 0.75)}
    scores = {"AO": 100 * float(found.mean()), **scores}
    for name in sorted({name for video in videos for name in video.attributes}):
        of_frames = [np.broadcast_to(v.attributes.get(name, False), len(v.absent)) for v in videos]
        having = np.concatenate([values[1:] for values in of_frames]) & seen
        if having.any():
            scores[f"AO/{name}"] = 100 * float(overlaps[having].mean())
    return scores


def _cut(boxes: Array, size: tuple[int, int]) -> Array:
    """Clip boxes to the image as the toolkit does: counted from 1, sizes after corners."""
    corner = np.clip(boxes[:, :2] + 1, 0, size)
    return np.hstack([corner, np.clip(boxes[:, 2:], 0, size - corner)])


def _trackingnet(videos: Sequence[Video], predicted: Predicted) -> dict[str, float]:
    curves = np.mean([_rounded_curves(v, predicted[v.name]) for v in videos], axis=0)
    areas = ((curves[:, 1:] + curves[:, :-1]) / 2).mean(1)
    return dict(zip(HEADLINES["trackingnet"], (100 * areas).tolist(), strict=True))


def _rounded_curves(video: Video, boxes: Array) -> Array:
    """Return success, precision and normalised precision curves of one sequence, (3, 21)."""
    truth = video.boxes.round()
    boxes = np.vstack([truth[:1], boxes[1:].round()])
    offset = centre_offset(boxes, truth)
    normalised = np.linalg.norm(offset / np.maximum(truth[:, 2:], 1), axis=1)
    success = overlap(boxes, truth)[:, None] >= THRESHOLDS
    precise = np.linalg.norm(offset, axis=1)[:, None] <= np.linspace(0, 50, 21)
    return np.stack([curve.mean(0) for curve in (success, precise, normalised[:, None] <= np.linspace(0, 0.5, 21))])


DEFINITIONS = {"lasot": _lasot, "otb": _otb, "got10k": _got10k, "trackingnet": _trackingnet}


# From predictions to a record: scores, speed, and the sequences that were left out.

logger = logging.getLogger(__name__)
NOTES = "reported-on.json"  # in the run's folder
PREDICTIONS = "predictions"  # folder in the run's folder
NAMED = 20  # most sequences left out that the record names


def summarise(found: Sequences, predictions: Predictions, scores: Sequence[str], folder: Path) -> dict[str, float]:
    """Score the predictions or, if only a server has the answers, write its submission file.

    Args:
        found: the split as it was loaded.
        scores: definitions of `score`.
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
    counts = {"sequences": len(videos), "sequences_left_out": len(problems)}
    return {**metrics, "FPS": predictions.frames_per_second, **counts}


def with_remarks(outcome: Outcome, folder: Path) -> Outcome:
    """Return the outcome with the remarks of `summarise` added to `selection.reported_on`."""
    notes = json.loads((folder / NOTES).read_text("utf-8"))
    remarks = outcome.selection.reported_on
    if problems := list(notes["problems"]):
        names = ", ".join(problems[:NAMED]) + (", ..." if len(problems) > NAMED else "")
        remarks += f", without {len(problems)} of {notes['sequences']} sequences: {names}"
    if notes["submission"]:
        remarks += f", whose answers a server has: not scored here, but written to {notes['submission']}"
    selection = dataclasses.replace(outcome.selection, reported_on=remarks)
    return dataclasses.replace(outcome, selection=selection)
