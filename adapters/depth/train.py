"""Train and test mmsegmentation's DepthEstimator on a timm backbone; the two-phase learning rate."""

import dataclasses
from pathlib import Path
from typing import Any

from adapters.openmmlab import runner  # first: prepares the process for OpenMMLab  # isort: skip

import mmseg.datasets  # registers the data sets and transforms
import mmseg.models  # noqa: F401
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from adapters.depth import data, heads, metric  # noqa: F401  registered by import
from adapters.depth.config import upstream
from adapters.depth.protocol import Layout
from adapters.openmmlab import backbone
from bench.tasks import Job, Outcome


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Train on train, test once on the layout's `test`."""
    return runner.run(bind(job, layout), job, reported_on=layout.test)


def bind(job: Job, layout: Layout) -> dict[str, Any]:
    """Check the data; return the upstream config with data, calibration and the backbone's channels filled in."""
    protocol, test = job.protocol, data.calibrated(layout, job.data)
    train = test
    if protocol.train_layout:
        train = data.calibrated(protocol.train_layout, job.train_data)
        protocol = dataclasses.replace(protocol, train_layout=train)
    config = upstream(job.task, protocol, test)
    loaders = config["train_dataloader"], config["test_dataloader"]
    for loader, folder, used in zip(loaders, (job.train_data, job.data), (train, test), strict=True):
        loader["dataset"] |= _checked(loader["dataset"], folder, used, job)
    maps = backbone.maps_of(job)
    sizes = {"in_channels": list(maps.channels), "stride": maps.strides[-1]}
    config["model"]["decode_head"] |= {**sizes, "normalised": maps.plain}
    backbone.schedule_by_iteration(config)
    return config


def _checked(dataset: dict[str, Any], folder: Path, layout: Layout, job: Job) -> dict[str, Any]:
    """Check what a loader will read; return its folder and number of images."""
    images, depths = (folder / path for path in dataset["data_prefix"].values())
    both = data.pairs(images, depths)[: job.protocol.limit]
    data.check(both, layout, job.cache)
    return {"data_root": str(folder), "indices": len(both)}


@PARAM_SCHEDULERS.register_module()
class TwoPhaseLR(LRSchedulerMixin, _ParamScheduler):  # type: ignore[misc]  # mmengine is untyped
    """MIM-Depth's learning rate (arXiv 2205.13543): a power's rise to the optimizer's rate, then the same fall.

    With t the iteration counted from 1, h the iteration of the peak, and low the smallest rate:
    (lr - low) (t / h)^power + low for t < h, then max(low, lr - (lr - low) (t / h - 1)^power). Each parameter
    group has its own lr; iterations after 2h stay at low. mmengine's PolyLR cannot express this shape.
    """

    def __init__(self, optimizer: Any, low: float, power: float, peak: float, **span: Any) -> None:
        """Take `low` as a part of lr, and `peak` as a part of the span from `begin` to `end`."""
        self.low, self.power = low, power
        self.half = peak * (span["end"] - span["begin"])
        super().__init__(optimizer, **span)

    def _get_value(self) -> list[float]:
        part = (self.last_step + 1) / self.half
        if part < 1:
            share = self.low + (1 - self.low) * part**self.power
        else:
            share = max(self.low, 1 - (1 - self.low) * (part - 1) ** self.power)
        return [share * rate for rate in self.base_values]
