"""Monocular depth with mmsegmentation: a deconvolution head fine-tuned, or linear heads on frozen maps.

    python -m bench.run --backbone test_vit --task depth
    python -m bench.run --backbone arch@weights --task depth/nyu --data-root DIR

Reported are RMSE (the primary one) and the errors beside it, in metres, and the accuracies delta1 to
delta3 as fractions of 1: per image, over its pixels of known depth, then averaged. Expected at full
scale: SwinV2-B after SimMIM, RMSE 0.304 on `depth/nyu` and 2.050 on `depth/kitti`.
"""

import dataclasses
import functools
from pathlib import Path

from adapters.depth.config import upstream
from adapters.depth.protocol import KITTI_FACTS, METRICS, NYU_FACTS, DepthProtocol, Layout
from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld
from bench.datasets.items import Items
from bench.tasks import UNPUBLISHED, Job, Metric, Outcome, Task

# Top, bottom, left and right of what is measured, as parts of the image.
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)


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
    """The plainest head in place of the binned one."""
    return dataclasses.replace(
        frozen,
        name="frozen-linear",
        source=frozen.source.replace(DINOV2, f"A plain linear head, after {DINOV2}").replace(BINS, SIGMOID),
        expected=UNPUBLISHED,
        command="",
        head="linear",
    )


def on_kitti(protocol: DepthProtocol, nyu: str, kitti: str) -> DepthProtocol:
    """The protocol of NYU with KITTI's crop and published number."""
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

SCENES_LAYOUT = Layout(depths="depth/{split}")  # 10 m as NYU: 3 % lies beyond; the sky is 0
NYU_LAYOUT = Layout(eval_crop=EIGEN, test="test")
KITTI_LAYOUT = Layout(scale=256.0, max_depth=80.0, image_crop=(352, 1216), eval_crop=GARG, test="test")
FOLDER_LAYOUT = Layout(calibration="depth.json")

SCENES_SIZE = {"limit": 2000, "batch_size": 8, "img_size": 128, "stride": 128, "test_batch_size": 16}
SCENES_WHY = "half a minute on two cores, each image seen whole"
SCENES_FINETUNE = FINETUNE.scaled(SCENES_WHY, epochs=1, lr=3e-3, min_lr=2e-4, drop_path=0.0, channels=8, **SCENES_SIZE)
SCENES_FROZEN = FROZEN.scaled(SCENES_WHY, epochs=1, lr=3e-3, min_lr=2e-4, **SCENES_SIZE)

FOLDER_SIZE = {"batch_size": 4, "img_size": 128, "stride": 64, "lr": 3e-3, "min_lr": 2e-4}
FOLDER_WHY = "a CPU and some hundred images"
FOLDER_FINETUNE = FINETUNE.scaled(FOLDER_WHY, epochs=10, drop_path=0.1, channels=32, **FOLDER_SIZE)
FOLDER_FROZEN = FROZEN.scaled(FOLDER_WHY, epochs=20, **FOLDER_SIZE)


def task(dataset: Dataset, layout: Layout, protocols: tuple[DepthProtocol, ...], version: int = 1) -> Task:
    """Make `depth/<dataset>`; the way to add a data set of one's own."""
    return Task(
        name=f"depth/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=m, higher_is_better=m.startswith("delta")) for m in METRICS),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.depth.train",),
        items=functools.partial(items, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test once; raises UserError for an image or depth map that cannot be used."""
    from adapters.depth import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items:
    """What a split holds, to be checked and looked at."""
    from adapters.depth import data as depth_items

    return depth_items.items(folder, split, layout)


def transfer(protocol: DepthProtocol, name: str, data: Dataset, layout: Layout, why: str, stride: int) -> DepthProtocol:
    """Train on another data set, and test on a split of this one."""
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


NYU = Dataset(
    name="nyu",
    source="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, laid out as mmsegmentation has it",
    licence=UNSTATED,
    root="nyu",
    splits=NYU_LAYOUT.splits(),
    facts=NYU_FACTS,
)
KITTI = Dataset(
    name="kitti",
    source="https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction",
    licence="CC BY-NC-SA 3.0",
    root="kitti",
    splits=KITTI_LAYOUT.splits(),
    facts=KITTI_FACTS,
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

SIM_TO_REAL = (
    "Trained on the embedded world alone: metric depth from rendered images of another camera and other things, so "
    "errors are large, and say something in comparison alone."
)
REAL_TO_REAL = "Trained on the one office of `depth/hololens`: metric depth, of another camera."
FROM_SCENES = ("from-scenes", EmbeddedWorld(), SCENES_LAYOUT, SIM_TO_REAL)
FROM_HOLOLENS = transfer(FOLDER_FINETUNE, "from-hololens", HOLOLENS, FOLDER_LAYOUT, REAL_TO_REAL, 43)

TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN, linear(SCENES_FROZEN))),
    task(NYU, NYU_LAYOUT, (*NYU_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=43), FROM_HOLOLENS)),
    task(KITTI, KITTI_LAYOUT, (*KITTI_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=21))),
    task(FOLDER, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
    task(HOLOLENS, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
)
