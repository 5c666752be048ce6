"""Monocular depth's plain values: layouts, data sets and protocols. Imports no torch."""

import dataclasses
from typing import Literal

from adapters.openmmlab.config import HeadProtocol
from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld, Facts
from bench.tasks import UNPUBLISHED

METRICS = ("RMSE", "delta1", "delta2", "delta3", "AbsRel", "SqRel", "RMSElog", "log10", "SILog")
# Top, bottom, left and right of the measured pixels, as parts of the image.
WHOLE = (0.0, 1.0, 0.0, 1.0)
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images and depth maps of a data set are; `{split}` stands for the name given as `train` or `test`.

    Args:
        scale: units of a depth map per metre; a pixel of 0 has no depth.
        max_depth: in metres; greater depths are neither predicted nor measured.
        calibration: optional JSON file {"scale": ..., "max_depth": ...} that overrides these two; "" for none.
        image_crop: (height, width) of the crop at the middle of the lower edge, taken before all else.
        eval_crop: top, bottom, left, right of the measured pixels, as parts of that crop.
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
        """Return `Dataset.splits` of this layout."""
        paths = (self.images, self.depths)
        return {s: tuple(p.format(split=s) for p in paths) for s in (self.train, self.test)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthProtocol(HeadProtocol):
    """AdamW; the rate rises from min_lr to lr over the first half of the epochs, and falls back.

    Args:
        img_size: in pixels: short side of every image, side of the training crop and of the test window.
        stride: of that window, which slides along the longer side; overlaps are averaged.
        head: MIM-Depth's deconvolutions, DINOv2's linear head over depth bins, or one linear map.
        out_indices: the backbone's maps that the head takes; None for the usual four.
        channels: width of the deconvolution head.
        normalisation: the backbone's own mean and standard deviation, or none (image / 255).
        cutdepth: vertical CutDepth of every fourth image, depth scaled to 0-255 or wrapped modulo 256.
        train_layout: layout of `train_on`, required with it.
    """

    min_lr: float
    head: Literal["deconv", "bins", "linear"]
    out_indices: tuple[int, ...] | None = (-1,)
    channels: int = 0
    stride: int
    normalisation: Literal["backbone", "none"] = "backbone"
    cutdepth: Literal["scaled", "wrapped", ""] = ""
    train_layout: Layout | None = None


SCENES_LAYOUT = Layout(depths="depth/{split}")  # 10 m as NYU: 3 % lies beyond; the sky is 0
NYU_LAYOUT = Layout(eval_crop=EIGEN, test="test")
KITTI_LAYOUT = Layout(scale=256.0, max_depth=80.0, image_crop=(352, 1216), eval_crop=GARG, test="test")
FOLDER_LAYOUT = Layout(calibration="depth.json")

NYU = Dataset(
    name="nyu",
    source="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, laid out as mmsegmentation has it",
    licence=UNSTATED,
    root="nyu",
    splits=NYU_LAYOUT.splits(),
    facts=Facts(
        counts={"train": 24_231, "test": 654},
        gigabytes=5.0,
        files={
            "images/train/bathroom_rgb_00045.jpg": "an image of 640x480, in this folder or below it",
            "annotations/train/bathroom_rgb_00045.png": "its depth in millimetres, 16 bits",
        },
        known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d; about 5 GB as the author of cleinc/bts says of its "
        "archive of these frames (issue 66); no terms at tensorflow.org/datasets/catalog/nyu_depth_v2",
    ),
)
KITTI = Dataset(
    name="kitti",
    source="https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction",
    licence="CC BY-NC-SA 3.0",
    root="kitti",
    splits=KITTI_LAYOUT.splits(),
    facts=Facts(
        counts={"train": 23_158, "test": 652},
        gigabytes=189,
        files={
            "images/train/2011_09_26/0000000005.png": "an image, in this folder or below it",
            "annotations/train/2011_09_26/0000000005.png": "its depth in metres times 256, 0: not known",
        },
        known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d (Eigen's split, improved ground truth); 14 GB of "
        "depth as KITTI's page names it, 175 GB of raw data as nianticlabs/monodepth2 says",
    ),
)
FOLDER = Dataset(
    name="folder",
    source="you: images/{train,val} and 16-bit depth maps of the same names in annotations/{train,val}",
    licence="its own",
    root=".",
    splits=FOLDER_LAYOUT.splits(),
    optional=("depth.json",),
)
HOLOLENS = dataclasses.replace(
    FOLDER,
    name="hololens",
    source="https://github.com/ardaduz/deep-video-mvs (sample data, every third frame)",
    licence="MIT",
    root="hololens",
)

MIM_DEPTH = "MIM-Depth (Dark Secrets of MIM, arXiv 2205.13543; SwinTransformer/MIM-Depth-Estimation 59ba08d)"
ALIKE = (
    "Differs: timm's own windows (upstream's SwinV2 has 30, 30, 30, 15 at 480 pixels and 22, 22, 22, 11 at 352, "
    "unshifted in the last two stages), CutDepth drawn at a rate of 1 in 4, no loss beyond max_depth, test windows "
    "that cover KITTI's last columns too (upstream leaves 9 without a prediction, outside the Garg crop), bf16 for "
    "fp32 on CUDA"
)
DINOV2 = "DINOv2's linear head for depth (arXiv 2304.07193, 7.4)"
BINS = "lin. 1: 256 uniform bins on the last map and the class token, upsampled by 4"
SIGMOID = "a 1x1 convolution on the last map alone, upsampled by 4, then a sigmoid times max_depth"
TRAINED = (
    "Differs: square crops and windows, and MIM-Depth's loss, augmentation (without CutDepth) and two-phase rate in "
    "place of DINOv2's; a hierarchical backbone's stages are layer-normed first and have no class token"
)


RUN = "python -m bench.run --gpus 8 --task depth/nyu --data-root DIR --backbone"
SWINV2 = f"{RUN} swinv2_base_window12_192@simmim_swinv2_base.pth"
VIT = f"{RUN} vit_base_patch14_dinov2@dinov2_vitb14_pretrain.pth"

FINETUNE = DepthProtocol(
    name="finetune",
    frozen=False,
    source=f"{MIM_DEPTH}. {ALIKE}, CutDepth's depth scaled to 0-255, the backbone's own normalisation.",
    expected="SwinV2-B, SimMIM on ImageNet-1k: RMSE 0.304 (upstream's recipe, which is finetune-upstream)",
    command=SWINV2,
    epochs=25,
    batch_size=24,
    img_size=480,
    stride=160,
    lr=5e-4,
    min_lr=3e-5,
    weight_decay=0.05,
    layer_decay=0.9,
    drop_path=0.3,
    head="deconv",
    channels=128,  # SwinV2-B's own width
    cutdepth="scaled",
)
UPSTREAM = dataclasses.replace(
    FINETUNE,
    name="finetune-upstream",
    source=f"{MIM_DEPTH}, with its two quirks: no normalisation but / 255, and CutDepth's raw depth wrapped "
    f"modulo 256. {ALIKE}.",
    expected="SwinV2-B, SimMIM on ImageNet-1k: RMSE 0.304",
    command=f"{SWINV2} --protocol finetune-upstream",
    normalisation="none",
    cutdepth="wrapped",
)
FROZEN = DepthProtocol(
    name="frozen",
    frozen=True,
    source=f"{DINOV2}, {BINS}. {TRAINED}.",
    expected="DINOv2 ViT-B/14, lin. 1: RMSE 0.399",
    command=f"{VIT} --protocol frozen",
    epochs=25,
    batch_size=16,
    img_size=480,
    stride=160,
    lr=1e-3,
    min_lr=1e-5,
    weight_decay=0.01,
    head="bins",
)
LIN4 = dataclasses.replace(
    FROZEN,
    name="frozen-lin4",
    source=f"{DINOV2}, lin. 4: as lin. 1, on four maps together. {TRAINED}; a ViT-B's maps are of blocks 4, 6, 8 and "
    "12 in place of 3, 6, 9 and 12.",
    expected="DINOv2 ViT-B/14, lin. 4: RMSE 0.362",
    command=f"{VIT} --protocol frozen-lin4",
    out_indices=None,
)


def linear(frozen: DepthProtocol) -> DepthProtocol:
    """Return the protocol with one linear map in place of the binned head."""
    return dataclasses.replace(
        frozen,
        name="frozen-linear",
        source=frozen.source.replace(DINOV2, f"A plain linear head, after {DINOV2}").replace(BINS, SIGMOID),
        expected=UNPUBLISHED,
        command="",
        head="linear",
    )


def on_kitti(protocol: DepthProtocol, nyu: str, kitti: str) -> DepthProtocol:
    """Return NYU's protocol with KITTI's crop and published number."""
    return dataclasses.replace(
        protocol,
        expected=protocol.expected.replace(nyu, kitti),
        command=protocol.command.replace("depth/nyu", "depth/kitti"),
        img_size=352,
        stride=58,
    )


NYU_PROTOCOLS = (FINETUNE, FROZEN, linear(FROZEN), LIN4, UPSTREAM)
KITTI_PROTOCOLS = (
    on_kitti(FINETUNE, "0.304", "2.050"),
    on_kitti(FROZEN, "0.399", "2.90"),
    on_kitti(linear(FROZEN), "", ""),
    on_kitti(LIN4, "0.362", "2.59"),
    on_kitti(UPSTREAM, "0.304", "2.050"),
)

SCENES_SIZE = {"limit": 2000, "batch_size": 8, "img_size": 128, "stride": 128, "test_batch_size": 16}
SCENES_WHY = "half a minute on two cores, each image seen whole"
SCENES_FINETUNE = FINETUNE.scaled(SCENES_WHY, epochs=1, lr=3e-3, min_lr=2e-4, drop_path=0.0, channels=8, **SCENES_SIZE)
SCENES_FROZEN = FROZEN.scaled(SCENES_WHY, epochs=1, lr=3e-3, min_lr=2e-4, **SCENES_SIZE)

FOLDER_SIZE = {"batch_size": 4, "img_size": 128, "stride": 64, "lr": 3e-3, "min_lr": 2e-4}
FOLDER_WHY = "a CPU and some hundred images"
FOLDER_FINETUNE = FINETUNE.scaled(FOLDER_WHY, epochs=10, drop_path=0.1, channels=32, **FOLDER_SIZE)
FOLDER_FROZEN = FROZEN.scaled(FOLDER_WHY, epochs=20, **FOLDER_SIZE)


def transfer(protocol: DepthProtocol, name: str, data: Dataset, layout: Layout, why: str, stride: int) -> DepthProtocol:
    """Return the protocol trained on `data` and tested on the task's own test split."""
    return dataclasses.replace(
        protocol,
        name=name,
        source=f"{protocol.source} {why} Its windows are {stride} pixels apart, one image at a time.",
        expected=UNPUBLISHED,
        command="",
        splits=("test",),
        train_on=data,
        train_layout=layout,
        stride=stride,
        test_batch_size=1,
    )


SIM_TO_REAL = (
    "Trained on the embedded world alone: metric depth from rendered images of another camera and other things, so "
    "errors are large, and say something in comparison alone."
)
REAL_TO_REAL = "Trained on the one office of `depth/hololens`: metric depth, of another camera."
FROM_SCENES = ("from-scenes", EmbeddedWorld(), SCENES_LAYOUT, SIM_TO_REAL)
FROM_HOLOLENS = transfer(FOLDER_FINETUNE, "from-hololens", HOLOLENS, FOLDER_LAYOUT, REAL_TO_REAL, 43)
