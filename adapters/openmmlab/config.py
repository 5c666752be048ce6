"""Parts that several families' protocols and upstream configs share. Plain values; imports no torch."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets.dataset import Dataset, Items
from bench.tasks import Job, Outcome, Protocol, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadProtocol(Protocol):
    """A head on a backbone's feature maps, both trained by AdamW (the head alone where `frozen`).

    Args:
        layer_decay: factor of the learning rate from each layer to the one before it; None for one rate.
        drop_path: rate of the backbone's last block; the rates of the others rise linearly to it from 0.
        test_batch_size: above 1 only where all tested images have one size.
    """

    lr: float
    weight_decay: float
    layer_decay: float | None = None
    drop_path: float = 0.0
    test_batch_size: int = 1


def head_task(
    family: str, dataset: Dataset, layout: Any, *, upstream: Callable[..., Mapping[str, Any]], **settings: Any
) -> Task:
    """Return the task `<family>/<dataset>`; `settings` are those of Task that the family decides itself."""
    package = f"adapters.{family}"
    return Task(
        name=f"{family}/{dataset.name}",
        dataset=dataset,
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(_evaluate, package, layout=layout),
        imports=(f"{package}.train",),
        items=functools.partial(_items, package, layout=layout),
        **settings,
    )


def _evaluate(package: str, job: Job, layout: Any) -> Outcome:
    """Check the data, train, test once, by the family's `train`, which imports torch."""
    outcome: Outcome = importlib.import_module(f"{package}.train").evaluate(job, layout)
    return outcome


def _items(package: str, folder: Path, split: str, layout: Any) -> Items | None:
    """Return a split's images with their labels, for `python -m bench.datasets`."""
    found: Items | None = importlib.import_module(f"{package}.data").items(folder, split, layout)
    return found


def runner_config(
    p: HeadProtocol,
    *,
    scope: str,
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    schedule: Sequence[Mapping[str, Any]],
    evaluator: Any,
) -> dict[str, Any]:
    """Return what mmengine's Runner takes, with `train` and `test` as data sets; `schedule` counts in epochs."""
    return {
        "default_scope": scope,
        "model": model,
        "train_dataloader": {"batch_size": p.batch_size, "dataset": train},
        "test_dataloader": {"batch_size": p.test_batch_size, "dataset": test},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": adamw(p.layer_decay, lr=p.lr, weight_decay=p.weight_decay),
        "param_scheduler": schedule,
        "test_evaluator": evaluator,
    }


def adamw(layer_decay: float | None, **settings: Any) -> dict[str, Any]:
    """Return the optimizer wrapper of AdamW with layer-wise learning-rate decay; `settings` are AdamW's."""
    return {
        "optimizer": {"type": "AdamW", **settings},
        "constructor": "LayerDecayConstructor",
        "paramwise_cfg": {"layer_decay": layer_decay},
    }


def timm_backbone(p: HeadProtocol, **settings: Any) -> dict[str, Any]:
    """Return TimmBackbone's settings that follow from the protocol; `settings` add to them or replace them."""
    return {
        "type": "TimmBackbone",
        "img_size": p.img_size,
        "drop_path_rate": p.drop_path,
        "frozen": p.frozen,
        **p.dropping,
        **settings,
    }


def seg_preprocessor(**settings: Any) -> dict[str, Any]:
    """Return mmsegmentation's data preprocessor; `settings` are its size, padding of labels, mean and std."""
    return {"type": "SegDataPreProcessor", "bgr_to_rgb": True, "pad_val": 0, **settings}


def resize_short_side(p: HeadProtocol) -> dict[str, Any]:
    """Return the resize of the short side to img_size, or of the long side to 4 img_size if that is smaller."""
    return {"type": "Resize", "scale": (4 * p.img_size, p.img_size), "keep_ratio": True}
