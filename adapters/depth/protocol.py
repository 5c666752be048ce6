"""What tells one depth task from another: where depth maps lie, and how a backbone is trained on them.

Pure: no torch; `adapters.depth` names the values.
"""

import dataclasses
from typing import Literal

from bench.datasets.dataset import Facts
from bench.tasks import Protocol

# Top, bottom, left and right of what is measured, as parts of the image.
WHOLE = (0.0, 1.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set keeps images and depth maps; `{split}` stands for `train` or `test`'s own name.

    Args:
        scale: the value of a depth map's pixel at one metre; 0 means no depth.
        max_depth: in metres; what lies beyond is neither predicted nor measured.
        calibration: JSON file that may say {"scale": ..., "max_depth": ...} instead; "" for none.
        image_crop: (height, width) taken from the middle of the image's lower edge, before all else.
        eval_crop: top, bottom, left, right of the pixels measured, as parts of that.
        test: the split that is reported on.
    """

    images: str = "images/{split}"
    depths: str = "annotations/{split}"
    scale: float = 1000.0
    max_depth: float = 10.0
    calibration: str = ""
    image_crop: tuple[int, int] | None = None
    eval_crop: tuple[float, float, float, float] = WHOLE
    train: str = "train"
    test: str = "val"

    def splits(self) -> dict[str, tuple[str, ...]]:
        """What must exist, by split."""
        paths = (self.images, self.depths)
        return {s: tuple(p.format(split=s) for p in paths) for s in (self.train, self.test)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthProtocol(Protocol):
    """AdamW; the rate rises from min_lr to lr over the first half of the epochs, and falls back.

    Args:
        img_size: short side of every image, side of the training crop and of the window at test time.
        stride: of that window, which slides along the longer side; overlaps are averaged.
        head: MIM-Depth's deconvolutions, DINOv2's linear head over depth bins, or one linear map.
        out_indices: the backbone's maps that the head sees; None for the usual four.
        channels: width of the deconvolution head.
        layer_decay: factor of the learning rate from each layer to the one before it.
        normalisation: the backbone's own mean and standard deviation, or none (image / 255).
        cutdepth: vertical CutDepth of every fourth image, depth scaled to 0-255 or wrapped modulo 256.
        train_layout: of `train_on`, where the protocol has it.
        test_batch_size: above 1 only where all images have one size.
    """

    lr: float
    min_lr: float
    weight_decay: float
    layer_decay: float | None = None
    drop_path: float = 0.0
    head: Literal["deconv", "bins", "linear"]
    out_indices: tuple[int, ...] | None = (-1,)
    channels: int = 0
    stride: int
    normalisation: Literal["backbone", "none"] = "backbone"
    cutdepth: Literal["scaled", "wrapped", ""] = ""
    train_layout: Layout | None = None
    test_batch_size: int = 1


METRICS = ("RMSE", "delta1", "delta2", "delta3", "AbsRel", "SqRel", "RMSElog", "log10", "SILog")
NYU_FACTS = Facts(
    counts={"train": 24_231, "test": 654},
    gigabytes=5.0,
    files={
        "images/train/bathroom_rgb_00045.jpg": "an image of 640x480, in this folder or below it",
        "annotations/train/bathroom_rgb_00045.png": "its depth in millimetres, 16 bits",
    },
    known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d; about 5 GB as the author of cleinc/bts says of its "
    "archive of these frames (issue 66); no terms at tensorflow.org/datasets/catalog/nyu_depth_v2",
)
KITTI_FACTS = Facts(
    counts={"train": 23_158, "test": 652},
    gigabytes=189,
    files={
        "images/train/2011_09_26/0000000005.png": "an image, in this folder or below it",
        "annotations/train/2011_09_26/0000000005.png": "its depth in metres times 256, 0: not known",
    },
    known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d (Eigen's split, improved ground truth); 14 GB of depth as "
    "KITTI's page names it, 175 GB of raw data as nianticlabs/monodepth2 says",
)
