"""The protocols of the real data sets, with published results and the command that reproduces each."""

import dataclasses
from typing import Any, TypeVar

from adapters.classification.protocol import (
    DINO,
    DINOV2,
    FINETUNE_SOURCE,
    FROZEN_SOURCE,
    FULL_FINETUNE,
    FULL_FROZEN,
    FULL_KNN,
    KNN_SOURCE,
    MAE,
    SIZE,
    FewShot,
    LinearProbe,
)
from bench.tasks import UNPUBLISHED, Protocol

TRANSFER_SOURCE = (
    "Logistic regression on frozen features after Kornblith et al. (arXiv 1805.08974) and DINOv2 (arXiv 2304.07193). "
    "Differs: SGD with momentum in place of L-BFGS, features standardised, the architecture's own pooling; learning "
    "rate and weight decay chosen on the official validation split where there is one, else on a fifth of train."
)
SMALL_SET = " In batches of 256, for data sets of a few thousand images."
MANY_LABELS = (
    " Each class is a question of its own (sigmoid), without mixup, cutmix or smoothing; images in which it is hard "
    "to see count neither way."
)
PROBE_SOURCE = (
    "MAE's linear probe (arXiv 2111.06377, A.1; main_linprobe.py): LARS, batch normalisation without affine "
    "parameters before the linear layer, random resized crops and flips, cosine with warm-up. Differs: the "
    "architecture's own pooling."
)
COG_SOURCE = (
    "ImageNet-CoG's protocol (arXiv 2012.05649; naver/cog, logreg.py): logistic regression on frozen features of "
    "images whose short side is 224 px, learning rate and weight decay chosen on the fifth of train that is held out; "
    "five seeds. Differs: a grid in place of 30 draws by Optuna, features standardised, the architecture's own pooling."
)
FEW_SOURCE = (
    "ImageNet-CoG's few-shot protocol (arXiv 2012.05649; naver/cog, logreg.py): logistic regression on the frozen "
    "features of {shots} training image(s) a class, drawn by the run's seed; learning rate and weight decay chosen on "
    "the fifth of train that is held out. Differs: a grid in place of 30 draws by Optuna, features standardised."
)
P = TypeVar("P", bound=Protocol)


def _published(task: str, protocol: P, backbone: str, expected: str) -> P:
    """Return the protocol with a published result on a task, and the command that reproduces it."""
    which = " --gpus 8" if protocol.name == "finetune" else f" --protocol {protocol.name}"
    if isinstance(protocol, LinearProbe):
        which += " --gpus 8"
    command = f"python -m bench.run --backbone {backbone} --task classification/{task} --data-root DATA{which}"
    return dataclasses.replace(protocol, expected=expected, command=command)


def _own(protocol: P, source: str) -> P:
    return dataclasses.replace(protocol, source=source, expected=UNPUBLISHED, command="")


LARGE_FINETUNE = _own(FULL_FINETUNE, FINETUNE_SOURCE)
FINETUNE = dataclasses.replace(LARGE_FINETUNE, source=FINETUNE_SOURCE + SMALL_SET, batch_size=256)
FROZEN = _own(FULL_FROZEN, TRANSFER_SOURCE)
KNN = _own(FULL_KNN, KNN_SOURCE)
LARGE = (LARGE_FINETUNE, FROZEN, KNN)
SMALL = (FINETUNE, FROZEN, KNN)
MULTI_LABEL = (
    dataclasses.replace(FINETUNE, source=FINETUNE.source + MANY_LABELS, mixup=0.0, cutmix=0.0, smoothing=0.0),
    dataclasses.replace(FROZEN, source=TRANSFER_SOURCE + MANY_LABELS),
)
LINEAR_PROBE = LinearProbe(name="frozen-linear-probe", source=PROBE_SOURCE, **SIZE)
FEW_SHOT = tuple(
    FewShot(name=f"frozen-few-shot-{shots}", source=FEW_SOURCE.format(shots=shots), shots=shots, **SIZE)
    for shots in (1, 2, 4, 8, 16, 32, 64, 128)
)

IMAGENET = (
    _published(
        "imagenet",
        LARGE_FINETUNE,
        MAE,
        "MAE ViT-B/16, 1600 epochs: top1 83.6 (arXiv 2111.06377; four seeds 83.57 +- 0.08)",
    ),
    _published(
        "imagenet",
        _own(FULL_FROZEN, FROZEN_SOURCE),
        DINOV2,
        "DINOv2 ViT-B/14, distilled, linear: top1 84.5 (facebookresearch/dinov2; its own search over more layers)",
    ),
    _published("imagenet", KNN, DINO, "DINO ViT-B/16, 20 nearest neighbours: top1 76.1 (facebookresearch/dino)"),
    _published(
        "imagenet",
        LINEAR_PROBE,
        MAE,
        "MAE ViT-B/16, 1600 epochs: top1 68.0 (arXiv 2111.06377; its code's own rerun 67.8)",
    ),
    *FEW_SHOT,
)
INATURALIST = (
    _published(
        "inaturalist2018",
        LARGE_FINETUNE,
        MAE,
        "MAE ViT-B/16: top1 75.4 (arXiv 2111.06377, Table 6; epochs and rate tuned to the data set)",
    ),
    _published("inaturalist2018", FROZEN, DINOV2, "DINOv2 ViT-B/14, distilled: top1 76.4 (arXiv 2304.07193, Table 7)"),
    KNN,
)
PLACES = (
    _published(
        "places365",
        LARGE_FINETUNE,
        MAE,
        "MAE ViT-B/16: top1 57.9 (arXiv 2111.06377, Table 6; epochs and rate tuned to the data set)",
    ),
    FROZEN,
    KNN,
)
# DINOv2's Table 8 (arXiv 2304.07193): a linear layer on frozen features of its distilled ViT-B/14.
DINOV2_FROZEN = {
    "food101": 92.8,
    "cifar10": 98.7,
    "cifar100": 91.3,
    "sun397": 77.3,
    "cars": 88.2,
    "aircraft": 79.4,
    "voc2007": 88.2,
    "dtd": 83.3,
    "pets": 96.2,
    "caltech101": 96.1,
    "flowers": 99.6,
    "cub": 89.6,
}
# DINO's Table 6 (arXiv 2104.14294): its ViT-B/16, fine-tuned by DeiT's recipe.
DINO_FINETUNED = {"cifar10": 99.1, "cifar100": 91.7, "flowers": 98.8, "cars": 93.0}


def transferred(task: str, metric: str, protocols: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
    """Return the protocols of one of Kornblith et al.'s data sets, with the published results on it."""

    def with_published(protocol: Protocol) -> Protocol:
        if protocol.name == "frozen":
            number = f"{metric} {DINOV2_FROZEN[task]} (arXiv 2304.07193, Table 8)"
            return _published(task, protocol, DINOV2, f"DINOv2 ViT-B/14, distilled: {number}")
        if protocol.name == "finetune" and task in DINO_FINETUNED:
            number = f"top1 {DINO_FINETUNED[task]} (arXiv 2104.14294, Table 6; DeiT's recipe)"
            return _published(task, protocol, DINO, f"DINO ViT-B/16: {number}")
        return protocol

    return tuple(map(with_published, protocols))


CUB = (
    _published(
        "cub", FINETUNE, MAE, "MAE ViT-B/16 at 224 px: top1 83.5 (one user's rerun of SemMAE's comparison, its issue 2)"
    ),
    FROZEN,
    KNN,
)
_WHOLE: dict[str, Any] = {"crop_pct": 1.0}  # short side 224 px, as in naver/cog


def cog(level: int) -> tuple[Protocol, ...]:
    """Return the protocols of a level of ImageNet-CoG."""
    frozen = dataclasses.replace(FROZEN, source=COG_SOURCE, **_WHOLE)
    expected = (
        "UNIC ViT-B/16: on concept generalization 3.5 % above the best of its four teachers (naver/unic@02269db: a "
        "relative number, not by level); top1 by level is in arXiv 2012.05649, of which no numbers could be read"
    )
    return (
        LARGE_FINETUNE,
        _published(f"cog-{level}", frozen, DINO, expected),
        dataclasses.replace(KNN, **_WHOLE),
        *(dataclasses.replace(few, **_WHOLE) for few in FEW_SHOT),
    )
