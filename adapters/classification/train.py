"""Training on augmented images with mmengine: fine-tuning (`Finetune`) and MAE's linear probe (`LinearProbe`).

The loader decodes, crops and applies RandAugment per image. The model normalises a batch on the device, then
applies random erasing and mixup, which expect normalised images.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import timm.data
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel, BaseModule
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from PIL import Image
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from timm.models._manipulate import group_with_matcher
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.classification import data
from adapters.classification.data import reported_on, splits_of
from adapters.classification.metric import accuracies
from adapters.openmmlab import runner
from adapters.openmmlab.backbone import TimmBackbone
from bench.backbones import build
from bench.datasets.dataset import Dataset
from bench.tasks import Job, Outcome


def evaluate(job: Job, folder: Path, config: dict[str, Any]) -> Outcome:
    """Train and test by the upstream `config`, completed with the data in `folder` and the number of classes."""
    dataset = job.task.dataset
    train, _ = splits_of(dataset, folder, limit=job.protocol.limit)
    config["model"]["num_classes"] = len(train.classes)
    for split in ("train", "test"):
        config[f"{split}_dataloader"]["dataset"] |= {"root": str(folder), "dataset": dataset}
    return runner.run(config, job, reported_on=reported_on(dataset))


def posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Do as timm's posterize, which fails for 0 bits (the largest magnitude): Pillow 13 refuses them."""
    black = Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep) if bits_to_keep else black


auto_augment.NAME_TO_OP |= dict.fromkeys(("Posterize", "PosterizeIncreasing", "PosterizeOriginal"), posterize)


@DATASETS.register_module()
class ImageFolder:
    """A split as mmengine's models take it: uint8 RGB images, not normalised."""

    def __init__(
        self,
        root: str,
        split: str,
        img_size: int,
        crop_pct: float,
        interpolation: str,
        dataset: Dataset | None = None,
        limit: int | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the split; `augment`, arguments of timm.data.create_transform, gives the transform of training."""
        train, val = splits_of(dataset, Path(root), limit=limit)
        transform = timm.data.create_transform(
            (3, img_size, img_size),
            is_training=augment is not None,
            interpolation=interpolation,
            crop_pct=crop_pct,
            normalize=False,
            **(augment or {}),
        )
        self.images = data.Images(train if split == "train" else val, transform)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an image, uint8 [3, h, w], and its label, or labels [k]."""
        image, label = self.images[index]
        return {"inputs": image, "data_samples": label}


class Trunk(TimmBackbone):
    """A timm model with a new classifier, whose head the owner takes out by `take_head`.

    `LayerDecayConstructor` then finds the layers here, and the head outside, which learns at the full rate.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None,
        part: str | None = None,
        allow_partial: Sequence[str] = (),
        *,
        num_classes: int,
        img_size: int,
        drop_path_rate: float,
        drop_blocks: int = 0,
    ) -> None:
        """Build the model and load its weights; raises UserError where they do not fit."""
        BaseModule.__init__(self)
        size = data.size_argument(arch, img_size)
        self.arch, self.frozen = arch, False
        # Built without classes first, so that the classifier of a weights file is ignored, not a mismatch.
        self.model, self.load_report = build.build(
            arch,
            weights=weights,
            part=part,
            allow_partial=allow_partial,
            num_classes=0,
            drop_path_rate=drop_path_rate,
            drop_blocks=drop_blocks,
            **size,
        )
        self.model.reset_classifier(num_classes)

    def take_head(self) -> nn.ModuleDict:
        """Take out the modules that timm assigns to no layer: the classifier, and a norm after pooling.

        The model still calls them, but they are not among its parameters and state any more.
        """
        head = nn.ModuleDict()
        if not hasattr(self.model, "group_matcher"):  # LayerDecayConstructor raises the error
            return head
        named = chain(self.model.named_parameters(), [("<no layer>", None)])
        layers = group_with_matcher(named, self.model.group_matcher(coarse=False), reverse=True)
        children = dict(self.model.named_children())
        for parameter, layer in layers.items():
            name = parameter.partition(".")[0]
            if layer == layers["<no layer>"] and name in children and name not in head:
                head[name] = self.model._modules.pop(name)
                self.model.__dict__[name] = head[name]
        return head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [b, num_classes] of images [b, 3, h, w]."""
        logits: Tensor = self.model(inputs)
        return logits


@MODELS.register_module()
class TimmClassifier(BaseModel):  # type: ignore[misc]  # mmengine is untyped
    """A timm model with `num_classes` outputs, trained on mixed and smoothed labels."""

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        reprob: float = 0.0,
        smoothing: float = 0.0,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the model; `backbone` are the arguments of Trunk."""
        super().__init__(data_preprocessor)
        self.backbone = Trunk(**backbone, num_classes=num_classes)
        self.head = self.backbone.take_head()
        self.smoothing, self.reprob = smoothing, reprob
        self.mix = (
            timm.data.Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=num_classes)
            if mixup or cutmix
            else None
        )

    def init_weights(self) -> None:
        """Do nothing: mmengine would call timm's `init_weights`, which overwrites the loaded weights."""
        self._is_init = True

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = "tensor") -> Any:
        """Return logits [b, k] ("tensor"), the loss ("loss"), or the input of `Accuracies` ("predict").

        inputs: normalised images [b, 3, h, w]; data_samples: labels, int64 [b], or [b, k] for several classes.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples)
        logits = self.logits(inputs)
        if mode == "tensor":
            return logits
        return [{"logits": row, "label": y} for row, y in zip(logits, data_samples, strict=True)]

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits [b, num_classes] of normalised images [b, 3, h, w]."""
        logits: Tensor = self.backbone(inputs)
        return logits

    def loss(self, inputs: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy for erased and mixed images and smoothed labels.

        For images of several classes: the binary cross-entropy over the labels that count (not 0).
        """
        if self.reprob:
            device = str(inputs.device)
            inputs = RandomErasing(self.reprob, mode="pixel", device=device)(inputs)
        if label.ndim == 2:
            logits = self.backbone(inputs)
            present, counted = (label > 0).to(logits), (label != 0).to(logits)
            return {"loss": F.binary_cross_entropy_with_logits(logits, present, weight=counted)}
        if self.mix is not None:
            inputs, label = self.mix(inputs, label)
        smoothing = 0.0 if self.mix else self.smoothing  # mixed labels are smooth already
        logits = self.backbone(inputs)
        return {"loss": F.cross_entropy(logits, label, label_smoothing=smoothing)}


@METRICS.register_module()
class Accuracies(BaseMetric):  # type: ignore[misc]  # mmengine is untyped
    """`metric.accuracies` over the whole split."""

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Tensor]]) -> None:
        """Collect every image's logits and label."""
        self.results += [(s["logits"].float().cpu(), s["label"].cpu()) for s in data_samples]

    def compute_metrics(self, results: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return percentages by name."""
        logits, labels = zip(*results, strict=True)
        return accuracies(torch.stack(logits), torch.stack(labels))


# MAE's linear probe (arXiv 2111.06377, A.1): batch normalisation without affine parameters, then a linear layer, on
# a frozen backbone that sees augmented images; trained by LARS.

OPTIMIZERS.register_module(module=Lars)


@MODELS.register_module()
class AugmentedProbe(TimmClassifier):
    """A frozen timm model, batch normalisation and `num_classes` linear outputs."""

    def __init__(
        self, backbone: Mapping[str, Any], num_classes: int, data_preprocessor: Mapping[str, Any] | None = None
    ) -> None:
        """Build the model; `backbone` are the arguments of Trunk. The layer's weights have a std of 0.01, as MAE's."""
        BaseModel.__init__(self, data_preprocessor)
        self.backbone = Trunk(**backbone, num_classes=0)
        self.backbone.requires_grad_(False)
        width = self.backbone.model.head_hidden_size
        layer = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), layer)

    def train(self, mode: bool = True) -> "AugmentedProbe":
        """Switch the head's mode; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits [b, num_classes] of images [b, 3, h, w]; no gradient reaches the backbone."""
        with torch.no_grad():
            features = self.backbone(inputs)
        logits: Tensor = self.head(features)
        return logits

    def loss(self, inputs: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        return {"loss": F.cross_entropy(self.logits(inputs), label)}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LarsConstructor:
    """Builds timm's LARS over the trained parameters: it adapts the learning rate of matrices, not of vectors."""

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        """Store mmengine's settings."""
        assert not paramwise_cfg
        self.settings = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper."""
        wrapper = {"type": "OptimWrapper", **self.settings}
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "always_adapt": True},
            {"params": [p for p in trained if p.ndim <= 1], "always_adapt": False, "weight_decay": 0.0},
        ]
        built = OPTIMIZERS.build({**wrapper.pop("optimizer"), "params": groups})
        return OPTIM_WRAPPERS.build({**wrapper, "optimizer": built})
