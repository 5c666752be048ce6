"""The mmengine config of a tracking protocol: a model, training pairs, test sequences.

It has no paths and no backbone, and needs no torch; `train.bind` adds what depends on the run.
"""

from typing import TYPE_CHECKING, Any

from bench.tasks import Task

if TYPE_CHECKING:
    from adapters.tracking.datasets import Videos
    from adapters.tracking.protocol import TrackingProtocol

# The protocol's fields that are arguments of `pairs.Pairs`.
PAIRS = ("limit", "pairs", "template_size", "img_size", "gap", "scale", "translation", "grey", "colour")


def upstream(task: Task, protocol: "TrackingProtocol") -> dict[str, Any]:
    """Return the config that the protocol determines; its schedule counts in epochs."""
    p = protocol
    dataset: Videos = task.dataset  # type: ignore[assignment]
    return {
        "default_scope": "mmengine",
        "model": model(p),
        "train_dataloader": {
            "batch_size": p.batch_size,
            "dataset": {"type": "Pairs", **{field: getattr(p, field) for field in PAIRS}},
        },
        "test_dataloader": {"dataset": {"split": p.reported_on, "limit": p.limit}},
        "test_cfg": {"type": "SequenceLoop", "scores": list(dataset.definitions), "window": p.window},
        "test_evaluator": [],  # SequenceLoop computes the metrics
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": p.lr, "weight_decay": p.weight_decay},
            "clip_grad": {"max_norm": p.clip_grad} if p.clip_grad else None,
            "constructor": "BackboneRateConstructor",
            "paramwise_cfg": {"layer_decay": p.layer_decay, "backbone_lr": p.backbone_lr},
        },
        "param_scheduler": _schedule(p),
    }


def model(p: "TrackingProtocol") -> dict[str, Any]:
    """Return the model's config; the backbone determines the preprocessor's mean and std."""
    fusion = {"dim": p.dim, "heads": p.heads, "layers": p.layers, "drop_path": p.fusion_drop_path}
    return {
        "type": "OneStreamTracker" if p.one_stream else "FusionTracker",
        "data_preprocessor": {"type": "PairPreprocessor"},
        "backbone": {
            "type": "TimmBackbone",
            "img_size": p.img_size,
            "drop_path_rate": p.drop_path,
            "frozen": p.frozen,
            **p.dropping,
        },
        "template_size": p.template_size,
        "img_size": p.img_size,
        "primed": p.primed,
        **({} if p.one_stream else fusion),
    }


def _schedule(p: "TrackingProtocol") -> list[dict[str, Any]]:
    """Return a linear warm-up and a drop to a tenth."""
    warmup = {"type": "LinearLR", "start_factor": 0.001, "begin": 0, "end": p.warmup * p.epochs}
    # ConstantLR restores the rate in its last step, so it ends after the last epoch.
    drop = {"type": "ConstantLR", "factor": 0.1, "begin": p.drop_at * p.epochs, "end": p.epochs + 1}
    return [warmup, drop]
