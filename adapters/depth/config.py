"""A depth protocol as mmsegmentation's config: a head, its transforms, the two-phase learning rate.

Pure: no torch, no path of a machine, no backbone; what is missing is bound by `depth_estimators`.
"""

from typing import TYPE_CHECKING, Any

from bench.tasks import Task

if TYPE_CHECKING:
    from adapters.depth.protocol import DepthProtocol, Layout

MIN_DEPTH = 1e-3  # metres; nothing nearer is predicted or measured
POWER = 0.9  # of both phases of the learning rate
SCALES = {"backbone": {}, "none": {"mean": [0.0] * 3, "std": [255.0] * 3}}


def upstream(task: Task, protocol: "DepthProtocol", layout: "Layout") -> dict[str, Any]:
    """The mmsegmentation config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    train = p.train_layout or layout
    return {
        "default_scope": "mmseg",
        "model": _model(p, layout),
        "train_dataloader": {
            "batch_size": p.batch_size,
            "dataset": _dataset(train, train.train, p.limit, _train_pipeline(p, train)),
        },
        "test_dataloader": {
            "batch_size": p.test_batch_size,
            "dataset": _dataset(layout, layout.test, p.limit, _test_pipeline(p, layout)),
        },
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": p.epochs},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": p.lr, "weight_decay": p.weight_decay},
            "constructor": "LayerDecayConstructor",
            "paramwise_cfg": {"layer_decay": p.layer_decay},
        },
        "param_scheduler": [
            {
                "type": "TwoPhaseLR",
                "low": p.min_lr / p.lr,
                "power": POWER,
                "begin": 0,
                "end": p.epochs,
                "peak": (p.epochs // 2 or p.epochs / 2) / p.epochs,
            }
        ],
        "test_evaluator": {"type": "DepthErrors", "max_depth": layout.max_depth, "crop": list(layout.eval_crop)},
    }


def _model(p: "DepthProtocol", layout: "Layout") -> dict[str, Any]:
    crop = (p.img_size, p.img_size)  # mmsegmentation insists on tuples
    return {
        "type": "DepthEstimator",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": 0,  # no depth
            "size": crop,
            **SCALES[p.normalisation],
        },
        "backbone": {
            "type": "TimmBackbone",
            "img_size": p.img_size,
            "drop_path_rate": p.drop_path,
            "frozen": p.frozen,
            **p.dropping,
            "out_indices": p.out_indices,
            "class_token": p.head == "bins",
        },
        "decode_head": _head(p) | {"max_depth": layout.max_depth},
        "test_cfg": {"mode": "slide_flip", "crop_size": crop, "stride": (p.stride, p.stride)},
    }


def _head(p: "DepthProtocol") -> dict[str, Any]:
    if p.head == "deconv":
        return {"type": "DeconvDepthHead", "channels": p.channels}
    return {"type": "LinearDepthHead", "bins": {"bins": 256, "linear": 0}[p.head]}


def _dataset(layout: "Layout", split: str, limit: int | None, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "DepthPairs",
        "data_prefix": {
            "img_path": layout.images.format(split=split),
            "depth_map_path": layout.depths.format(split=split),
        },
        "indices": limit,
        "pipeline": pipeline,
    }


def _train_pipeline(p: "DepthProtocol", layout: "Layout") -> list[dict[str, Any]]:
    """CutDepth comes before the crop and the colours, as upstream."""
    cut = {"type": "VerticalCutDepth", "prob": 0.25, "max_depth": layout.max_depth, "wrapped": p.cutdepth == "wrapped"}
    return [
        {"type": "LoadImageFromFile"},
        _load(layout),
        *_lower_centre(layout, ("img", "gt_depth_map")),
        _resize(p),
        *([cut] if p.cutdepth else []),
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "RandomCrop", "crop_size": (p.img_size, p.img_size)},
        {"type": "ColourJitter"},
        {"type": "PackSegInputs"},
    ]


def _test_pipeline(p: "DepthProtocol", layout: "Layout") -> list[dict[str, Any]]:
    """Depth is loaded after the resize: predictions are compared at the image's own size."""
    return [
        {"type": "LoadImageFromFile"},
        *_lower_centre(layout, ("img",)),
        _resize(p),
        _load(layout),
        *_lower_centre(layout, ("gt_depth_map",)),
        {"type": "PackSegInputs"},
    ]


def _load(layout: "Layout") -> dict[str, Any]:
    return {"type": "LoadDepthAnnotation", "depth_rescale_factor": 1 / layout.scale}


def _lower_centre(layout: "Layout", keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if layout.image_crop is None:
        return []
    return [{"type": "LowerCentreCrop", "size": list(layout.image_crop), "keys": list(keys)}]


def _resize(p: "DepthProtocol") -> dict[str, Any]:
    """The short side becomes img_size, unless the long side would exceed four times that."""
    return {"type": "Resize", "scale": (4 * p.img_size, p.img_size), "keep_ratio": True}
