"""Train a tracker on pairs of crops by mmengine's Runner, then evaluate it once on whole sequences."""

from adapters.openmmlab import runner  # first: it prepares the process for OpenMMLab  # isort: skip
import copy
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import mmdet.models.losses  # noqa: F401  imported once for all runs of a command
import torch.distributed as dist
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from adapters.openmmlab import backbone
from adapters.openmmlab.layer_decay import parameter_groups
from adapters.tracking import evaluation, model, pairs, tracker  # noqa: F401  registered by import
from adapters.tracking.metric import PREDICTIONS, summarise, with_remarks
from adapters.tracking.sequences import load
from bench.tasks import Job, Outcome


def evaluate(job: Job) -> Outcome:
    """Train, then follow every sequence of the split that is reported on; see `adapters.tracking.evaluate`."""
    outcome = runner.run(bind(job), job, reported_on=job.protocol.reported_on)
    return with_remarks(outcome, job.work_dir) if outcome.metrics else outcome  # only rank 0 has metrics


def bind(job: Job) -> dict[str, Any]:
    """Fill the data's folders and the backbone's feature map into the pure config."""
    config = copy.deepcopy(dict(job.task.upstream(job.task, job.protocol)))
    train = config["train_dataloader"]["dataset"]
    followed: Any = job.task.dataset
    trained_on = job.protocol.train_on or followed
    train["sources"] = trained_on.sources(job.train_data, "train")
    test = config["test_dataloader"]["dataset"]
    test |= followed.sources(job.data, test["split"])[0]
    config["model"]["backbone"]["out_indices"] = [_map_near(model.STRIDE, job)]
    batches = max(train["pairs"] // job.protocol.batch_size, 1)
    config["param_scheduler"] = backbone.by_iteration(config["param_scheduler"], batches)
    return config


def _map_near(stride: int, job: Job) -> int:
    """Return the last of the backbone's maps whose stride is closest, by ratio."""
    maps = backbone.maps_of(job)
    ratios = [max(s / stride, stride / s) for s in maps.strides]
    return max(index for index, ratio in zip(maps.out_indices, ratios, strict=True) if ratio == min(ratios))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneRateConstructor:
    """Multiplies the learning rates of LayerDecayConstructor's groups by `backbone_lr` in the backbone."""

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any]) -> None:
        """Take mmengine's settings; `paramwise_cfg` is dict(layer_decay=..., backbone_lr=...)."""
        self.settings, self.rates = optim_wrapper_cfg, paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper; raises UserError when the decay would have no effect."""
        model = getattr(model, "module", model)
        wrapper = {"type": "OptimWrapper", **self.settings}
        optimizer = dict(wrapper.pop("optimizer"))
        decay = self.rates["layer_decay"] or 1.0
        groups = parameter_groups(model, lr=optimizer["lr"], weight_decay=optimizer["weight_decay"], layer_decay=decay)
        groups = [part for group in groups for part in self._parted(model, group)]
        built = OPTIMIZERS.build({**optimizer, "params": groups})
        return OPTIM_WRAPPERS.build({**wrapper, "optimizer": built})

    def _parted(self, model: nn.Module, group: dict[str, Any]) -> list[dict[str, Any]]:
        backbone = {id(parameter) for parameter in model.backbone.parameters()}
        parts = []
        for inside, rate in ((True, self.rates["backbone_lr"]), (False, 1.0)):
            chosen = [p for p in group["params"] if (id(p) in backbone) == inside]
            parts += [{**group, "params": chosen, "lr": group["lr"] * rate}] if chosen else []
        return parts


@LOOPS.register_module()
class SequenceLoop(BaseLoop):  # type: ignore[misc]  # mmengine is untyped
    """mmengine's test loop over whole sequences, each tracked once; ranks share them, and read each other's results.

    Results are stored by the hash of the model's weights, so an evaluation that was killed resumes.
    """

    def __init__(
        self, runner: Any, dataloader: dict[str, Any], evaluator: Any, scores: list[str], window: float
    ) -> None:
        """Load the sequences; `dataloader["dataset"]` names the split, `window` is CropTracker's."""
        source = dict(dataloader["dataset"])
        limit = source.pop("limit")
        found = load(source["layout"], Path(source["folder"]), source["split"])
        self.found = dataclasses.replace(found, sequences=found.sequences[:limit])
        super().__init__(runner, self.found.sequences)
        self.evaluator, self.scores, self.window = Evaluator([]), scores, window

    def run(self) -> dict[str, float]:
        """Track all sequences; return the metrics of `report.summarise`, on ranks other than 0 nothing."""
        runner = self.runner
        folder, device = Path(runner.work_dir), str(runner.cfg.device)
        model = getattr(runner.model, "module", runner.model)
        key, path = tracker.save(model, runner.cfg.model.to_dict(), folder)
        make = functools.partial(tracker.restore, path, device, self.window)
        cores = max(len(os.sched_getaffinity(0)) // runner.world_size, 1)
        videos = self.found.sequences
        share = videos[runner.rank :: runner.world_size]
        for part in [share, videos] if runner.world_size > 1 else [share]:
            processes = evaluation.default_processes(part, device, cores)
            predictions = evaluation.evaluate(
                make, part, folder / PREDICTIONS, processes, made_by=f"{key} {self.window}"
            )
            if runner.world_size > 1:
                dist.barrier()
        if runner.rank:
            return {}
        return summarise(self.found, predictions, self.scores, folder)
