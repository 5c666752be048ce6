"""Trackers without backbone and training, as a lower bound in the tables.

python -m bench.run --backbone constant-position cross-correlation --task tracking/scenes
"""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from adapters.tracking.datasets import SceneVideos, Videos
from adapters.tracking.evaluation import Box, Frame, Tracker, default_processes, evaluate
from adapters.tracking.metric import PREDICTIONS, summarise, with_remarks
from adapters.tracking.sequences import load
from bench.backbones.backbone import LoadReport
from bench.tasks import Job, Outcome, Selection

SEARCH = 4.0  # the side of the search window, in sides of a square target, as for trained trackers


class ConstantPosition:
    """Returns the first box in every frame."""

    def start(self, frame: Frame, box: Box) -> None:
        """Remember the box."""
        self.box = box

    def track(self, frame: Frame) -> tuple[Box, float]:
        """Return the first box, with a confidence of one half."""
        return self.box, 0.5


class CrossCorrelation:
    """OpenCV's normalised cross-correlation of the first frame's target with a window around the last box.

    The template and the box's size are always the first frame's.
    """

    def start(self, frame: Frame, box: Box) -> None:
        """Cut the template out of the frame, in whole pixels."""
        size = np.array(frame.shape[1::-1])
        low = np.clip(np.floor(box[:2]), 0, size - 1).astype(int)
        high = np.clip(np.ceil(box[:2] + box[2:]), low + 1, size).astype(int)
        self.template = frame[low[1] : high[1], low[0] : high[0]]
        self.offset, self.box = box[:2] - low, box
        self.window = np.maximum(round(SEARCH * float(np.sqrt(box[2:].prod()))), high - low)

    def track(self, frame: Frame) -> tuple[Box, float]:
        """Return the best match's box; the confidence is its correlation, or 0 if that is negative."""
        size = np.array(frame.shape[1::-1])
        if (self.template.shape[1::-1] > size).any():
            return self.box, 0.0  # this frame is smaller than the template
        side = np.minimum(self.window, size)
        centre = self.box[:2] + self.box[2:] / 2
        low = np.clip(np.round(centre - side / 2), 0, size - side).astype(int)
        seen = frame[low[1] : low[1] + side[1], low[0] : low[0] + side[0]]
        match = cv2.matchTemplate(seen, self.template, cv2.TM_CCOEFF_NORMED)
        _, best, _, place = cv2.minMaxLoc(np.nan_to_num(match))
        self.box = np.concatenate([low + place + self.offset, self.box[2:]])
        return self.box, min(max(best, 0.0), 1.0)


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "constant-position": ConstantPosition,
    "cross-correlation": CrossCorrelation,
}


def run(job: Job) -> Outcome:
    """Evaluate a baseline on the sequences of a trained tracker; raises UserError if none can be read."""
    dataset, split = job.task.dataset, job.protocol.reported_on
    assert isinstance(dataset, Videos | SceneVideos)
    (source,) = dataset.sources(job.data, split)
    found = load(source["layout"], Path(source["folder"]), split)
    videos = found.sequences[: job.protocol.limit]
    processes = default_processes(videos, "cpu", len(os.sched_getaffinity(0)))
    name = job.backbone.name
    predictions = evaluate(TRACKERS[name], videos, job.work_dir / PREDICTIONS, processes, made_by=name)
    metrics = summarise(found, predictions, dataset.definitions, job.work_dir)
    seconds = sum(float(t.seconds.sum() + t.waited.sum()) for t in predictions.tracks.values())
    outcome = Outcome(
        metrics=metrics,
        load_report=LoadReport(),
        selection=Selection(selected_on=None, reported_on=split),
        train_seconds=0.0,
        eval_seconds=seconds,
        images_per_second=0.0,
    )
    return with_remarks(outcome, job.work_dir)
