"""Single-object tracking: a SwinTrack-like head on any backbone, or a plain ViT that sees both crops at once.

    python -m bench.run --backbone test_vit constant-position cross-correlation --task tracking
    python -m bench.run --backbone arch@weights --task tracking/lasot --data-root DIR

Metrics, 0-100: success (SUC, the area under the success plot), precision and normalised precision on LaSOT,
TrackingNet and OTB; AO and success rates on GOT-10k; and frames per second. Expected at full scale: SwinV2-B after
SimMIM, AO 70.8 on GOT-10k. If only a server has the answers, its submission file is written.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.tracking import datasets
from adapters.tracking.config import upstream
from adapters.tracking.datasets import COCO, GOT10K, LASOT, OTB, SCENES, TRACKINGNET, SceneVideos, Videos, joint
from adapters.tracking.protocol import TrackingProtocol
from bench.datasets.dataset import Dataset, Items
from bench.tasks import UNPUBLISHED, Job, Metric, Outcome, Task

BASELINES = ("constant-position", "cross-correlation")

SWINTRACK = "SwinTrack-B (arXiv 2112.00995; LitingLin/SwinTrack 2d19d41)"
ALIKE = (
    "as in Dark Secrets of MIM (arXiv 2205.13543). Differs: both crops share the projections of untied positions, "
    "layers are initialised by Xavier's rule, every backbone's map is layer-normed and resampled to stride 16 if it "
    "has another, gradients are clipped, drop path has no warm-up of its own, training on CUDA is in bf16, not fp32"
)
SWINV2_B = "swinv2_base_window12_192@simmim_swinv2_base.pth"
SWINV2_L = "swinv2_large_window12_192@simmim_swinv2_large.pth"
VIT_B = "vit_base_patch16_224@mae_pretrain_vit_base.pth"

FINETUNE = TrackingProtocol(
    name="finetune",
    frozen=False,
    source=f"{SWINTRACK}, {ALIKE}.",
    epochs=300,
    batch_size=512,
    img_size=224,
    template_size=112,
    pairs=131072,
    dim=512,
    heads=8,
    layers=8,
    lr=5e-4,
    backbone_lr=0.1,
    weight_decay=1e-4,
    clip_grad=0.1,
    fusion_drop_path=0.1,
)
FROZEN = dataclasses.replace(
    FINETUNE, name="frozen", frozen=True, source=f"{FINETUNE.source} The backbone is not trained."
)
ONE_STREAM = dataclasses.replace(
    FINETUNE,
    name="one-stream",
    source="OSTrack-256 (arXiv 2203.11991; botaoye/OSTrack 33b5e12): template and search tokens joined inside a "
    f"plain ViT. Differs: no candidate is eliminated; head, losses and augmentation are those of {SWINTRACK}.",
    batch_size=128,
    img_size=256,
    template_size=128,
    pairs=60000,
    one_stream=True,
    dim=0,
    heads=0,
    layers=0,
    lr=4e-4,
    drop_at=0.8,
    drop_path=0.1,
    fusion_drop_path=0.0,
)


def task(dataset: Videos | SceneVideos, protocols: tuple[TrackingProtocol, ...], version: int = 1) -> Task:
    """Define the task `tracking/<dataset>`; use it to add a data set of your own."""
    names = dict.fromkeys(name for kind in dataset.definitions for name in datasets.HEADLINES[kind])
    return Task(
        name=f"tracking/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=name) for name in (*names, "FPS")),
        upstream=upstream,
        evaluate=evaluate,
        imports=("adapters.tracking.train",),
        baselines=BASELINES,
        items=functools.partial(shown, layout=dataset.layout),
    )


def evaluate(job: Job) -> Outcome:
    """Train a tracker and evaluate it once on the sequences; a baseline is evaluated only.

    Raises UserError if no sequence can be used, and for a backbone that a protocol cannot take.
    """
    if job.backbone.method == "baseline":
        from adapters.tracking import baselines

        return baselines.run(job)
    from adapters.tracking import train

    return train.evaluate(job)


def shown(folder: Path, split: str, layout: str) -> Items:
    """Return the sequences of a split for `python -m bench.datasets`."""
    from adapters.tracking.sequences import items

    return items(folder, split, layout)


def reported(protocol: TrackingProtocol, data: Dataset | None, test: str, why: str, **changes: Any) -> TrackingProtocol:
    """Return the protocol evaluated on the split `test`, trained on other `data` or the data set's own (None)."""
    return dataclasses.replace(
        protocol,
        source=f"{protocol.source} {why}",
        train_on=data,
        splits=(test,) if data else ("train", test),
        reported_on=test,
        **changes,
    )


def transfer(test: str) -> tuple[TrackingProtocol, ...]:
    """Return the protocols that train on the embedded world only."""
    why = "Trained on the embedded world only: rendered videos with another camera and other objects."
    kinds = (SCENES_FINETUNE, SCENES_FROZEN, SCENES_ONE_STREAM)
    names = ("from-scenes", "from-scenes-frozen", "from-scenes-one-stream")
    return tuple(
        reported(kind, SCENES, test, why, name=name, expected=UNPUBLISHED, command="")
        for kind, name in zip(kinds, names, strict=True)
    )


def full(
    where: str, data: Dataset | None, why: str, published: Mapping[str, tuple[str, str]]
) -> tuple[TrackingProtocol, ...]:
    """Return the papers' protocols on the test split; `published` has the backbone and number of some by name."""
    found = []
    for protocol in (FINETUNE, FROZEN, ONE_STREAM):
        weights, expected = published.get(protocol.name, ("", UNPUBLISHED))
        run = f"python -m bench.run --gpus 8 --task tracking/{where} --data-root DIR --backbone"
        command = f"{run} {weights} --protocol {protocol.name}" if weights else ""
        found.append(reported(protocol, data, "test", why, expected=expected, command=command))
    return tuple(found)


SCENES_WHY = "half a minute on two cores, 30 videos of 32 frames, and small backbones"
SCENES_SIZE = {
    "epochs": 4,
    "batch_size": 16,
    "img_size": 128,
    "template_size": 64,
    "pairs": 1024,
    "lr": 2e-3,
    "warmup": 0.05,
    "primed": True,
    "drop_path": 0.0,
}
SMALL_FUSION = {"dim": 64, "heads": 4, "layers": 2, "fusion_drop_path": 0.0}
STILLS = (
    "Trained equally on the world's videos and, as still images, on the boxes of its scenes. Learning rate, priming "
    "and still images were chosen on 8 of the 30 training videos."
)


def on_scenes(protocol: TrackingProtocol, **changes: Any) -> TrackingProtocol:
    """Return a protocol of GOT-10k, scaled to the embedded world."""
    where = dataclasses.replace(protocol, splits=(), source=protocol.source.replace(OWN, STILLS))
    scaled = where.scaled(SCENES_WHY, **{**SCENES_SIZE, **changes})
    published = protocol.expected != UNPUBLISHED
    return scaled if published else dataclasses.replace(scaled, expected=UNPUBLISHED)


ALL = joint(LASOT, TRACKINGNET, GOT10K, COCO)
FOUR = "Trained equally on LaSOT, TrackingNet, GOT-10k and COCO."
OWN = "Trained on GOT-10k only, as its server requires."
OSTRACK = "OSTrack-256 (MAE ViT-B, with candidate elimination, its own head and losses):"

SIMMIM = "SimMIM on ImageNet-1k:"
ON_LASOT = {"finetune": (SWINV2_L, f"SwinV2-L, {SIMMIM} SUC 70.7"), "one-stream": (VIT_B, f"{OSTRACK} SUC 69.1")}
ON_GOT10K = {"finetune": (SWINV2_B, f"SwinV2-B, {SIMMIM} AO 70.8"), "one-stream": (VIT_B, f"{OSTRACK} AO 71.0")}
ON_TRACKINGNET = {"one-stream": (VIT_B, f"{OSTRACK} SUC 83.1")}
NEAREST = "none published with this recipe; the nearest, TransT-N4 (supervised ResNet-50):"
ON_OTB = {"finetune": (SWINV2_B, f"{NEAREST} SUC 69.4 (chenxin-dlut/TransT)")}

FULL_GOT10K = full("got10k", None, OWN, ON_GOT10K)
SCENES_FINETUNE = on_scenes(FULL_GOT10K[0], **SMALL_FUSION)
SCENES_LONG = on_scenes(FULL_GOT10K[0], **SMALL_FUSION, name="finetune-long", epochs=16)
SCENES_LARGE = on_scenes(
    FULL_GOT10K[0], **SMALL_FUSION, name="finetune-large", epochs=16, img_size=192, template_size=96
)
SCENES_FROZEN = on_scenes(FULL_GOT10K[1], **SMALL_FUSION, epochs=16)
SCENES_ONE_STREAM = on_scenes(FULL_GOT10K[2])

TASKS = (
    task(SCENES, (SCENES_FINETUNE, SCENES_FROZEN, SCENES_ONE_STREAM, SCENES_LONG, SCENES_LARGE)),
    task(LASOT, (*full("lasot", ALL, FOUR, ON_LASOT), *transfer("test"))),
    task(GOT10K, (*FULL_GOT10K, *transfer("val"))),
    task(TRACKINGNET, (*full("trackingnet", ALL, FOUR, ON_TRACKINGNET), *transfer("test"))),
    task(OTB, (*full("otb", ALL, FOUR, ON_OTB), *transfer("test"))),
)
