"""What every family does to its pure config before a run: sizes from the backbone, epochs to iterations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from adapters.openmmlab.backbone import TimmBackbone
from bench.tasks import Job


def maps_of(job: Job) -> TimmBackbone:
    """The backbone as the protocol builds it, without its numbers: on the meta device, shapes alone."""
    settings = dict(job.task.upstream(job.task, job.protocol)["model"]["backbone"])
    del settings["type"]
    with torch.device("meta"):
        return TimmBackbone(arch=job.backbone.arch, **settings)


def by_iteration(schedule: Sequence[Mapping[str, Any]], batches: int) -> list[dict[str, Any]]:
    """Spans of epochs, whole or not, as spans of iterations, `batches` to an epoch.

    Those that round to none are left out.
    """
    spans = [
        {**s, "begin": round(s["begin"] * batches), "end": round(s["end"] * batches)}
        for s in schedule
    ]
    return [{**s, "by_epoch": False} for s in spans if s["begin"] < s["end"]]
