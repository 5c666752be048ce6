"""The fields of a tracking protocol: plain values, no torch."""

import dataclasses

from bench.tasks import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingProtocol(Protocol):
    """Training by AdamW, with a linear warm-up and one drop of the learning rate to a tenth.

    Args:
        img_size, template_size: side in pixels of the search crop and of the template.
        one_stream: a plain ViT sees both crops at once; else it sees each separately, and a transformer fuses them.
        pairs: training pairs of an epoch.
        limit: number of sequences of each split and data set that are used (None: all).
        dim, heads, layers: of the transformer's encoder; its decoder has one layer.
        primed: start the model with what a long training would learn by itself, see `model.PairModel`.
        lr: of all parameters but the backbone's, whose rate is `backbone_lr` times that.
        layer_decay: factor of the learning rate from each of the backbone's layers to the one before it.
        clip_grad: largest norm of the gradients; 0 for no clipping.
        warmup, drop_at: shares of the epochs.
        drop_path, fusion_drop_path: of the backbone's last layer, and of the transformer's.
        gap: largest distance, in frames, of a pair's template and search crop.
        scale, translation, grey, colour: augmentation, see `pairs.Pairs`.
        window: weight of the Hann window in the choice of a cell.
        reported_on: the split whose sequences are evaluated.
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
        """Return the protocol with four batches of pairs and four sequences of each split."""
        return dataclasses.replace(super().smoke(), pairs=4 * self.batch_size, limit=4)
