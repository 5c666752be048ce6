"""mmsegmentation's config of a depth protocol: a head, its transforms, the two-phase learning rate.

Pure: no torch, no paths, no backbone. `train.bind` fills in the data, its calibration and the channels.
"""

from typing import Any

from adapters.depth.protocol import DepthProtocol, Layout
from adapters.openmmlab.config import resize_short_side, runner_config, seg_preprocessor, timm_backbone
from bench.tasks import Task

MIN_DEPTH = 1e-3  # metres; the nearest depth that is predicted or measured
POWER = 0.9  # of both phases of the learning rate
SCALES = {"backbone": {}, "none": {"mean": [0.0] * 3, "std": [255.0] * 3}}


def upstream(task: Task, protocol: DepthProtocol, layout: Layout) -> dict[str, Any]:
    """Return the mmsegmentation config that follows from the protocol alone; its schedule counts in epochs."""
    p = protocol
    train = p.train_layout or layout
    peak = (p.epochs // 2 or p.epochs / 2) / p.epochs
    span = {"begin": 0, "end": p.epochs}
    rate = {"type": "TwoPhaseLR", "low": p.min_lr / p.lr, "power": POWER, "peak": peak, **span}
    return runner_config(
        p,
        scope="mmseg",
        model=_model(p, layout),
        train=_dataset(train, train.train, p.limit, _train_pipeline(p, train)),
        test=_dataset(layout, layout.test, p.limit, _test_pipeline(p, layout)),
        schedule=[rate],
        evaluator={"type": "DepthErrors", "max_depth": layout.max_depth, "crop": list(layout.eval_crop)},
    )


def _model(p: DepthProtocol, layout: Layout) -> dict[str, Any]:
    crop = (p.img_size, p.img_size)  # mmsegmentation accepts tuples only
    return {
        "type": "DepthEstimator",
        "data_preprocessor": seg_preprocessor(size=crop, seg_pad_val=0, **SCALES[p.normalisation]),  # 0 is no depth
        "backbone": timm_backbone(p, out_indices=p.out_indices, class_token=p.head == "bins"),
        "decode_head": _head(p) | {"max_depth": layout.max_depth},
        "test_cfg": {"mode": "slide_flip", "crop_size": crop, "stride": (p.stride, p.stride)},
    }


def _head(p: DepthProtocol) -> dict[str, Any]:
    if p.head == "deconv":
        return {"type": "DeconvDepthHead", "channels": p.channels}
    return {"type": "LinearDepthHead", "bins": {"bins": 256, "linear": 0}[p.head]}


def _dataset(layout: Layout, split: str, limit: int | None, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    images, depths = (path.format(split=split) for path in (layout.images, layout.depths))
    paths = {"img_path": images, "depth_map_path": depths}
    return {"type": "DepthPairs", "data_prefix": paths, "indices": limit, "pipeline": pipeline}


def _train_pipeline(p: DepthProtocol, layout: Layout) -> list[dict[str, Any]]:
    """CutDepth comes before the crop and the colour changes, as in MIM-Depth."""
    cut = {"type": "VerticalCutDepth", "prob": 0.25, "max_depth": layout.max_depth, "wrapped": p.cutdepth == "wrapped"}
    return [
        {"type": "LoadImageFromFile"},
        _load(layout),
        *_lower_centre(layout, ("img", "gt_depth_map")),
        resize_short_side(p),
        *([cut] if p.cutdepth else []),
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "RandomCrop", "crop_size": (p.img_size, p.img_size)},
        {"type": "ColourJitter"},
        {"type": "PackSegInputs"},
    ]


def _test_pipeline(p: DepthProtocol, layout: Layout) -> list[dict[str, Any]]:
    return [
        {"type": "LoadImageFromFile"},
        *_lower_centre(layout, ("img",)),
        resize_short_side(p),
        _load(layout),  # after the resize: predictions are compared at the image's own size
        *_lower_centre(layout, ("gt_depth_map",)),
        {"type": "PackSegInputs"},
    ]


def _load(layout: Layout) -> dict[str, Any]:
    return {"type": "LoadDepthAnnotation", "depth_rescale_factor": 1 / layout.scale}


def _lower_centre(layout: Layout, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if layout.image_crop is None:
        return []
    return [{"type": "LowerCentreCrop", "size": list(layout.image_crop), "keys": list(keys)}]
