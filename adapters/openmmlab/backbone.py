"""A timm model as an mmengine module, and what every family binds of it: sizes, and epochs to iterations.

In goes a batch of images (N, 3, H, W), out come maps (N, C, h, w) at stated strides.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from adapters.openmmlab import window
from bench.backbones.build import is_plain
from bench.backbones.extract import FeatureExtractor
from bench.backbones.timm_models import OutsideContractError, create
from bench.tasks import Job


@MODELS.register_module()  # the root registry: every OpenMMLab scope finds it
class TimmBackbone(FeatureExtractor, BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """A FeatureExtractor that mmengine builds from a config.

    The data preprocessor of the whole model normalises the images, so the extractor's `mean` and `std` are None.
    """

    def __init__(
        self,
        arch: str,
        *,
        out_indices: Sequence[int] | None = None,
        window_size: int = 0,
        global_blocks: int = 4,
        frozen: bool = False,
        class_token: bool = False,
        **settings: Any,
    ) -> None:
        """Build the model and load its weights.

        Args:
            arch, settings (weights, part, allow_partial, drop_blocks, img_size, drop_path_rate, seed, timm_options):
                as in `create`.
            out_indices, frozen, class_token: as in FeatureExtractor.
            window_size: side of the attention windows of a plain ViT, in patches, with relative positions
                (see `window`); 0 for global attention. Other architectures ignore it.
            global_blocks: how many blocks attend globally nevertheless.

        Raises:
            UserError: the architecture has no such maps, or the weights do not fit it.
        """
        model, report = create(arch, **settings)
        if window_size and is_plain(model):
            try:
                window.attend_in_windows(model, window_size, global_blocks)
            except ValueError as error:
                raise OutsideContractError(arch, str(error)) from None
        super().__init__(
            model, arch=arch, load_report=report, out_indices=out_indices, class_token=class_token, frozen=frozen
        )

    def init_weights(self) -> None:
        """Leave the weights as they are: mmengine would call timm's own `init_weights` and overwrite them."""
        self._is_init = True


def upstream_config(job: Job) -> dict[str, Any]:
    """Return a copy of the job's pure upstream config, to be filled in."""
    return copy.deepcopy(dict(job.task.upstream(job.task, job.protocol)))


def maps_of(job: Job) -> TimmBackbone:
    """Return the backbone that the protocol builds, on the meta device: channels and strides without weights."""
    settings = dict(job.task.upstream(job.task, job.protocol)["model"]["backbone"])
    del settings["type"]
    with torch.device("meta"):
        return TimmBackbone(arch=job.backbone.arch, **settings)


def by_iteration(schedule: Sequence[Mapping[str, Any]], batches: int) -> list[dict[str, Any]]:
    """Convert a schedule's spans of epochs, whole or not, to iterations of `batches` per epoch.

    Spans that round to no iteration are left out.
    """
    spans = [{**s, "begin": round(s["begin"] * batches), "end": round(s["end"] * batches)} for s in schedule]
    return [{**s, "by_epoch": False} for s in spans if s["begin"] < s["end"]]


def schedule_by_iteration(config: dict[str, Any]) -> int:
    """Convert the config's schedule to iterations, once its data set has `indices`; return the batches per epoch."""
    train = config["train_dataloader"]
    batches: int = max(train["dataset"]["indices"] // train["batch_size"], 1)
    config["param_scheduler"] = by_iteration(config["param_scheduler"], batches)
    return batches
