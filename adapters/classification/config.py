"""The configs that classification's protocols run: pure functions of a protocol's values."""

from typing import Any

from adapters.classification.protocol import Finetune, Frozen, Knn, LinearProbe
from adapters.openmmlab.config import adamw
from bench.tasks import Task

AnyProtocol = Frozen | Knn | Finetune | LinearProbe


def upstream(task: Task, protocol: AnyProtocol) -> dict[str, Any]:
    """Return mmengine's config for `Finetune` and `LinearProbe`; for the others, the settings that no field names."""
    if isinstance(protocol, Finetune):
        return _runner_config(protocol)
    if isinstance(protocol, LinearProbe):
        return _probe_config(protocol)
    features = {"model": "timm num_classes=0", **_transform(protocol), **protocol.dropping}
    if isinstance(protocol, Knn):
        return {"features": features, "vote": "exp(cosine / temperature)"}
    return {
        "features": features,
        "head": {"optimizer": "SGD", "init": "zeros", "schedule": "cosine", "bias_decay": 0.0},
    }


def _transform(protocol: AnyProtocol) -> dict[str, Any]:
    return {"img_size": protocol.img_size, "crop_pct": protocol.crop_pct, "interpolation": "bicubic"}


def _loaders(protocol: Finetune | LinearProbe, randaug: str) -> dict[str, Any]:
    """Return what both kinds of training share: data, epochs, schedule and metric."""
    val = {"type": "ImageFolder", "split": "val", "limit": protocol.limit, **_transform(protocol)}
    train = val | {
        "split": "train",
        "augment": {"auto_augment": randaug or None, "color_jitter": None, "scale": [protocol.scale_min, 1.0]},
    }
    loader = {"batch_size": protocol.batch_size, "collate_fn": {"type": "default_collate"}}
    return {
        "default_scope": "mmengine",
        "train_dataloader": {**loader, "dataset": train},
        "test_dataloader": {**loader, "dataset": val},
        "train_cfg": {"by_epoch": True, "max_epochs": protocol.epochs},
        "test_evaluator": {"type": "Accuracies"},
        "param_scheduler": _schedule(protocol),
    }


def _runner_config(protocol: Finetune) -> dict[str, Any]:
    return {
        **_loaders(protocol, protocol.randaug),
        "model": {
            "type": "TimmClassifier",
            "data_preprocessor": {"type": "ImgDataPreprocessor"},
            "backbone": {"drop_path_rate": protocol.drop_path, "img_size": protocol.img_size, **protocol.dropping},
            "mixup": protocol.mixup,
            "cutmix": protocol.cutmix,
            "reprob": protocol.reprob,
            "smoothing": protocol.smoothing,
        },
        "optim_wrapper": adamw(
            protocol.layer_decay, lr=protocol.lr, betas=[0.9, 0.999], weight_decay=protocol.weight_decay
        ),
    }


def _probe_config(protocol: LinearProbe) -> dict[str, Any]:
    return {
        **_loaders(protocol, ""),
        "model": {
            "type": "AugmentedProbe",
            "data_preprocessor": {"type": "ImgDataPreprocessor"},
            "backbone": {"drop_path_rate": 0.0, "img_size": protocol.img_size, **protocol.dropping},
        },
        "optim_wrapper": {
            "optimizer": {
                "type": "Lars",
                "lr": protocol.lr,
                "momentum": protocol.momentum,
                "weight_decay": protocol.weight_decay,
                "trust_coeff": protocol.trust_coefficient,
            },
            "constructor": "LarsConstructor",
        },
    }


def _schedule(protocol: Finetune | LinearProbe) -> list[dict[str, Any]]:
    by_step = {"by_epoch": True, "convert_to_iter_based": True}
    warmup = protocol.warmup_epochs if protocol.warmup_epochs < protocol.epochs else 0  # smoke
    rise = {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warmup, **by_step}
    fall = {"type": "CosineAnnealingLR", "eta_min": 0.0, "begin": warmup, "end": protocol.epochs}
    return [rise, fall | by_step] if warmup else [fall | by_step]
