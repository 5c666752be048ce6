"""What tells one tracking protocol from another, and the published ones by name. Pure: no torch."""

import dataclasses

from bench.tasks import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingProtocol(Protocol):
    """AdamW; the rate rises over the first part of the epochs, and falls to a tenth once.

    Args:
        img_size, template_size: pixels of a side of the search crop and of the template.
        one_stream: a plain ViT sees both crops at once; else each by itself, and a transformer joins them.
        pairs: of an epoch.
        limit: sequences of each split and data set that are used (None: all).
        dim, heads, layers: of that transformer's encoder; the decoder has one layer.
        primed: the model starts from what a long training would find by itself, as `model` says.
        lr: of all but the backbone, which learns at `backbone_lr` times that.
        layer_decay: factor of the learning rate from each of the backbone's layers to the one before it.
        clip_grad: largest norm of the gradients; 0 clips none.
        warmup, drop_at: parts of the epochs.
        drop_path, fusion_drop_path: of the backbone's last layer, and of the transformer's.
        gap: most frames between template and search crop of a pair.
        scale, translation, grey, colour: augmentation, as `pairs.Pairs` has it.
        window: weight of the Hann window in the choice of a cell.
        reported_on: the split whose sequences are followed.
    """

    template_size: int
    one_stream: bool = False
    pairs: int
    dim: int = 0
    heads: int = 0
    layers: int = 0
    primed: bool = False
    lr: float
    backbone_lr: float
    layer_decay: float | None = None
    weight_decay: float
    clip_grad: float
    warmup: float = 0.01
    drop_at: float = 0.7
    drop_path: float = 0.0
    fusion_drop_path: float = 0.0
    gap: int = 100
    scale: float = 0.25
    translation: float = 3.0
    grey: float = 0.05
    colour: float = 0.4
    window: float = 0.49
    reported_on: str = "test"

    def smoke(self) -> "TrackingProtocol":
        """The same protocol on four batches of pairs and four sequences of each split."""
        return dataclasses.replace(super().smoke(), pairs=4 * self.batch_size, limit=4)
