"""The feature contract as an mmengine module: an image batch in, NCHW maps at stated strides out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
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

    Images come normalised by the detector's (segmentor's, ...) data preprocessor, so `mean` and
    `std` are None.
    """

    def __init__(
        self,
        arch: str,
        weights: str | Path | None = None,
        out_indices: Sequence[int] | None = None,
        img_size: int | tuple[int, int] | None = None,
        drop_path_rate: float = 0.0,
        window_size: int = 0,
        global_blocks: int = 4,
        frozen: bool = False,
        class_token: bool = False,
        seed: int | None = None,
        timm_options: Mapping[str, Any] | None = None,
        part: str | None = None,
        allow_partial: Sequence[str] = (),
        drop_blocks: int = 0,
    ) -> None:
        """Build the model and load its weights.

        Args:
            arch, weights, part, allow_partial, drop_blocks, img_size, drop_path_rate, seed,
                timm_options: as `create` has them.
            out_indices, frozen, class_token: as FeatureExtractor has them.
            window_size: a plain ViT's blocks, but for `global_blocks` of them, attend in windows of
                so many patches a side, with relative positions (see `window`). 0 leaves the model as
                it is, and so does an architecture that is not plain: it has windows of its own, or
                no attention.
            global_blocks: see `window_size`.

        Raises:
            UserError: the architecture gives no such maps, or the weights do not fit it.
        """
        model, report = create(
            arch,
            weights=weights,
            part=part,
            allow_partial=allow_partial,
            drop_blocks=drop_blocks,
            img_size=img_size,
            drop_path_rate=drop_path_rate,
            seed=seed,
            timm_options=timm_options,
        )
        if window_size and is_plain(model):
            try:
                window.attend_in_windows(model, window_size, global_blocks)
            except ValueError as error:
                raise OutsideContractError(arch, str(error)) from None
        super().__init__(
            model, arch=arch, load_report=report, out_indices=out_indices, class_token=class_token, frozen=frozen
        )

    def init_weights(self) -> None:
        """Keep the weights: mmengine would call timm's own `init_weights` and overwrite them."""
        self._is_init = True


# What every family does to its pure config before a run: sizes from the backbone, epochs to iterations.


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
    spans = [{**s, "begin": round(s["begin"] * batches), "end": round(s["end"] * batches)} for s in schedule]
    return [{**s, "by_epoch": False} for s in spans if s["begin"] < s["end"]]
