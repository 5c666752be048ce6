"""The protocols of the analyses and the data sets they run on, as plain values."""

import dataclasses
from typing import Any, Literal

from adapters.classification.config import upstream as classification_upstream
from adapters.classification.protocol import Frozen
from bench.datasets.dataset import Dataset, EmbeddedWorld, Facts
from bench.tasks import Protocol, Task

SAMPLE = (
    "1,000 images drawn by the seed (all where there are fewer), resized and cropped to 224 pixels, "
    "normalised as the weights were; nothing is trained."
)
DARK_SECRETS = "Revealing the Dark Secrets of MIM (arXiv 2205.13543)"
OCCLUSION_INVARIANT = "Understanding MIM via Learning Occlusion Invariant Feature (arXiv 2208.04164)"
DEBIASED = (
    "debiased linear CKA (HSIC1, Song et al. 2012) summed over minibatches of 32 before the division (arXiv 2010.15327)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis(Protocol):
    """The values of every analysis.

    Args:
        crop_pct: side of the centre crop as a fraction of the resized image's short side.
    """

    frozen: bool = True
    epochs: int = 1
    batch_size: int = 32
    img_size: int = 224
    limit: int | None = 1000
    crop_pct: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionProtocol(Analysis):
    """Attention's distance, entropy and diversity.

    Args:
        prefix_queries: whether class, distillation and register tokens count as queries for entropy and KL
            divergence; for the distance they never do, as they have no place in the image.
        eps: added to weights before the logarithm.
    """

    prefix_queries: bool = False
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceptiveFieldProtocol(Analysis):
    """The effective receptive field.

    Args:
        threshold: fraction of the largest gradient above which a pixel counts.
    """

    batch_size: int = 8  # gradients need every activation
    limit: int | None = 128
    threshold: float = 1 - 0.9545


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityProtocol(Analysis):
    """Similarity between layers.

    Args:
        features: of a layer: its mean patch, all its patches concatenated, or its class token.
    """

    features: Literal["pooled", "tokens", "class"] = "pooled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OcclusionProtocol(Analysis):
    """The change of features when a part of an image is hidden.

    Args:
        by: hidden cells are filled with the mean colour of the pretraining images, their patches are dropped before
            the first block, or replaced by the mask token of the weights; "occluders": an object is hidden by others,
            and compared with the same object uncovered.
        ratios: hidden fractions of the cells, or of an object.
        cell: side of a cell in pixels; 0: a patch of the backbone.
        neighbours: number of images that vote in k-NN; 0: no k-NN.
        temperature: of their votes.
        gallery: number of images that can vote.
        replicates: of the bootstrap.
    """

    by: Literal["mean-colour", "token-drop", "mask-token", "occluders"] = "mean-colour"
    ratios: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    cell: int = 32
    neighbours: int = 20
    temperature: float = 0.07
    gallery: int = 1000
    replicates: int = 500

    def smoke(self) -> "OcclusionProtocol":
        """Return the protocol on a few images, with a gallery of as few."""
        return dataclasses.replace(super().smoke(), gallery=4 * self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set's images are.

    Args:
        folder: below the data set's folder; contains `<split>/<class>`.
        images: the split that is analysed.
        gallery: the split of k-NN's neighbours, other images where it is the same; "": a flat folder of images
            without classes.
    """

    folder: str = "."
    images: str = "val"
    gallery: str = "train"


SCENES = EmbeddedWorld()
SCENES_LAYOUT = Layout(folder="species", images="train", gallery="train")
FOLDER = Dataset(
    name="folder",
    source="you: train/<class> and val/<class> folders of images",
    licence="that of the images",
    root=".",
    splits={"train": ("train",), "val": ("val",)},
)
FOLDER_LAYOUT = Layout()
IMAGENET_SAMPLES = Dataset(
    name="imagenet-samples",
    source="https://github.com/EliSchwartz/imagenet-sample-images: an image of each ILSVRC-2012 class",
    licence="ImageNet's terms: non-commercial research",
    root="imagenet-samples",
    splits={"val": (".",)},
    facts=Facts(counts={"val": 1_000}, gigabytes=0.11, known_from="EliSchwartz/imagenet-sample-images"),
)
FLAT_LAYOUT = Layout(gallery="")
DATASETS = ((SCENES, SCENES_LAYOUT), (FOLDER, FOLDER_LAYOUT), (IMAGENET_SAMPLES, FLAT_LAYOUT))


def name(analysis: str, dataset: Dataset) -> str:
    """Return the task's name: `analysis/attention` on the embedded world, `analysis/attention-folder` on folders."""
    scenes = isinstance(dataset, EmbeddedWorld)
    return f"analysis/{analysis}" if scenes else f"analysis/{analysis}-{dataset.name}"


def upstream(task: Task, protocol: Analysis, *, layout: Layout) -> dict[str, Any]:
    """Return the settings that no field of the protocol names."""
    return {
        "images": {"interpolation": "bicubic", **dataclasses.asdict(layout)},
        "model": "timm num_classes=0",
        **protocol.dropping,
    }


PAPER = "Geirhos et al., ImageNet-trained CNNs are biased towards texture (arXiv 1811.12231)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeirhosProtocol(Analysis):
    """Decisions of an ImageNet-1k classifier among sixteen classes.

    Args:
        aggregation: how the probabilities of the ImageNet classes of one of the sixteen are combined.
    """

    batch_size: int = 64
    limit: int | None = None
    aggregation: Literal["mean", "sum"] = "mean"


GEIRHOS_SOURCE = (
    f"{PAPER}: the stimuli whole at 224 pixels, the probabilities of ImageNet's classes {{}} over each of sixteen "
    f"(the mapping of rgeirhos/texture-vs-shape), the highest decides. Interval: percentile bootstrap over stimuli."
)
MEAN = GeirhosProtocol(
    name="frozen",
    source=GEIRHOS_SOURCE.format("averaged")
    + " Averaged, as the published mapping does and its authors recommend over summing.",
    expected="ResNet-50 of torchvision: shape bias 0.221; people: 0.959 (the authors' response files)",
    command="python -m bench.run --backbone resnet50.tv_in1k --task analysis/shape-bias-geirhos --data-root DIR",
)
SUM = GeirhosProtocol(
    name="frozen-sum",
    source=GEIRHOS_SOURCE.format("summed")
    + " Summed: a class that stands for more of ImageNet's is decided for more often.",
    aggregation="sum",
)
PROBE = Frozen(
    name="frozen",
    source=f"After {PAPER}, for backbones without ImageNet's classes: classification's linear probe on images whose "
    "classes have each their own texture, shown the same classes with textures swapped. Interval: percentile "
    "bootstrap over stimuli.",
    img_size=128,
    crop_pct=1.0,
)
GEIRHOS = Dataset(
    name="geirhos",
    source="https://github.com/rgeirhos/texture-vs-shape (stimuli/style-transfer-preprocessed-512), with a list "
    "cue_conflict.csv: path,shape,texture",
    licence="CC BY 4.0",
    root="cue_conflict",
    splits={"test": ("cue_conflict.csv", "images")},
    facts=Facts(
        counts={"test": 1_200},
        classes=16,
        gigabytes=0.136,
        known_from="rgeirhos/texture-vs-shape: 1,280 stimuli, of which 80 have shape and texture of one class",
    ),
)
SHAPE_BIAS_METRICS = ("shape_bias", "shape_top1", "texture_top1")


def shape_bias_upstream(task: Task, protocol: GeirhosProtocol | Frozen) -> dict[str, Any]:
    """Return the settings that no field of the protocol names."""
    if isinstance(protocol, GeirhosProtocol):
        return {"model": "timm num_classes=1000", "mapping": 16, "interpolation": "bicubic"}
    return {"probe": classification_upstream(task, protocol), "stimuli": "cue_conflict"}
