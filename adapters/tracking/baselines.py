"""Trackers that learn nothing, in the tables beside those that do.

    python -m bench.run --backbone constant-position cross-correlation --task tracking/scenes

They have no backbone and no training: what a trained tracker is worth begins above them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from adapters.tracking.datasets import SceneVideos, Videos
from adapters.tracking.evaluation import Box, Frame, Tracker, default_processes, evaluate
from adapters.tracking.report import PREDICTIONS, summarise, told
from adapters.tracking.sequences import load
from bench.backbones.backbone import LoadReport
from bench.tasks import Job, Outcome, Selection

SEARCH = 4.0  # the side of the search window, in sides of a square target, as for trained trackers


class ConstantPosition:
    """The first box, in every frame."""

    def start(self, frame: Frame, box: Box) -> None:
        """Keep the box."""
        self.box = box

    def track(self, frame: Frame) -> tuple[Box, float]:
        """The same box; being sure of nothing, half the confidence."""
        return self.box, 0.5


class CrossCorrelation:
    """OpenCV's normalised cross-correlation of the first frame's target with a window about the last box.

    The template and the box's size stay the first frame's.
    """

    def start(self, frame: Frame, box: Box) -> None:
        """Cut the template, to whole pixels, where the box lies in the frame."""
        size = np.array(frame.shape[1::-1])
        low = np.clip(np.floor(box[:2]), 0, size - 1).astype(int)
        high = np.clip(np.ceil(box[:2] + box[2:]), low + 1, size).astype(int)
        self.template = frame[low[1] : high[1], low[0] : high[0]]
        self.offset, self.box = box[:2] - low, box
        self.window = np.maximum(round(SEARCH * float(np.sqrt(box[2:].prod()))), high - low)

    def track(self, frame: Frame) -> tuple[Box, float]:
        """The best match's box; its correlation, 0 where that is negative, is the confidence."""
        size = np.array(frame.shape[1::-1])
        if (self.template.shape[1::-1] > size).any():
            return self.box, 0.0  # a frame smaller than the first
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
    """Track the sequences that a trained tracker would; raises UserError where none can be read."""
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
    return told(outcome, job.work_dir)
