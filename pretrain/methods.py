"""The methods: masked image modelling and contrastive learning differ only in their views and their similarity.

    minimise E_x similarity( f(T1(x)), f(T2(x)) )          (Kong & Zhang, arXiv 2208.04164)

`views` names (T1, T2), see `pretrain.views`; `similarity` names what compares their encodings, see
`pretrain.similarity`. What is learnt with the encoder (a decoder, a projector, a predictor) belongs to the
similarity. In masked image modelling T2(x) is the pixels themselves.
"""

import dataclasses
import math
from typing import Any, Literal

from bench.errors import UserError, unknown

# The similarities that each pair of views can have.
COMBINATIONS = {
    "visible-pixels": ("pixel-l2",),
    "masked-pixels": ("pixel-l1", "pixel-l2"),
    "mask-complement": ("relaxed-l2", "infonce", "cosine"),
    "two-crops": ("infonce", "cosine"),
    "image-label": ("cross-entropy",),
}
SIMILARITIES = tuple(dict.fromkeys(name for names in COMBINATIONS.values() for name in names))
REASONS = {
    "visible-pixels": "the encoder never sees a masked patch, so a decoder has to predict its pixels",
    "masked-pixels": "the second view is pixels, which need a distance of pixels",
    "mask-complement": "both views are encoded, and need a similarity of two encodings",
    "two-crops": "the patches of two crops do not coincide, so only pooled features can be compared",
    "image-label": "the second view is a class",
    "pixel-l1": "it compares the pixels of patches, which need no target encoder",
    "pixel-l2": "it compares the pixels of patches, which need no target encoder",
    "relaxed-l2": "one encoder and one decoder predict the pixels of both views",
    "cross-entropy": "an image has one class",
}
# Fields that a pair of views or a similarity determines.
NEEDED = {
    "two-crops": {"level": "pooled"},
    **{key: {"level": "tokens", "target": "shared"} for key in ("pixel-l1", "pixel-l2", "relaxed-l2")},
    "cross-entropy": {"level": "pooled", "target": "shared"},
}
# Defaults of a similarity, which `method` applies when the similarity is changed.
USUAL: dict[str, dict[str, Any]] = {
    **{key: {"symmetric": False, "stop_gradient": False} for key in ("pixel-l1", "pixel-l2", "relaxed-l2")},
    "infonce": {"stop_gradient": False},
    "cosine": {"stop_gradient": True},
}
MASKED = ("visible-pixels", "masked-pixels", "mask-complement")
MASKINGS = ("random", "block", "grid", "occluders")


def _field(default: Any, meaning: str) -> Any:
    """Define a field of Method; `meaning` is the help of its option of `python -m pretrain.run`."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """All that defines a method except its architecture and recipe.

    `source` is the paper of the definition; `expected` the ImageNet-1k top-1 of ViT-B fine-tuned, if published.
    """

    name: str
    views: str = dataclasses.field(metadata={"help": f"The pair of views: {', '.join(COMBINATIONS)}."})
    similarity: str = dataclasses.field(metadata={"help": f"What compares their encodings: {', '.join(SIMILARITIES)}."})
    target: Literal["shared", "ema"] = _field(
        "shared", "The encoder of the second view: the encoder itself (shared) or its moving average (ema)."
    )
    level: Literal["tokens", "pooled"] = _field(
        "tokens", "Compare tokens at hidden positions (tokens), or images pooled as the model pools (pooled)."
    )
    masking: str = _field("random", f"How patches to hide are chosen: {', '.join(MASKINGS)}.")
    mask_ratio: float = _field(0.75, "The share of patches that is hidden.")
    mask_unit: int = _field(0, "The side of a masked square in pixels; 0 for one patch.")
    # R-MAE learns from both views. With all of the complement it costs 2.8 times MAE; with a third, where both views
    # show equally many patches, 1.3 times (ViT-B, mask ratio 0.75, in operations).
    complement_share: float = _field(
        1.0, "The share of the first view's hidden patches that the second view shows and is compared at."
    )
    init: Literal["mae", "moco", "timm"] = _field(
        "mae", "The initialisation: a paper's, with fixed sin-cos positions (mae, moco), or timm's own (timm)."
    )
    symmetric: bool = _field(False, "Also swap the views, and average the two losses.")
    stop_gradient: bool = _field(False, "Stop gradients on the second view's side of the comparison.")
    freeze_patch_embed: bool = _field(False, "Leave the patch embedding random (MoCo v3, section 4).")
    norm_pix_loss: bool = _field(True, "Normalise each target patch by its own mean and deviation (MAE).")
    norm_window: int = _field(
        0, "Normalise the target in windows of that many pixels (SimMIM for SwinV2: 47); 0 for none."
    )
    reconstruction_weight: float = _field(1.0, "The weight lambda of R-MAE's reconstruction term.")
    temperature: float = _field(0.2, "The temperature of InfoNCE.")
    momentum: float = _field(0.99, "The moving average's momentum at the start; it rises to 1 by a cosine.")
    decoder_dim: int = _field(512, "The decoder's width.")
    decoder_depth: int = _field(8, "The decoder's number of blocks.")
    decoder_heads: int = _field(16, "The decoder's number of attention heads.")
    projector_dim: int = _field(0, "The hidden width of projector and predictor; 0 for four times their input's width.")
    projection_dim: int = _field(256, "The width of the projections that are compared.")
    label_smoothing: float = _field(0.1, "The label smoothing of the cross-entropy.")
    source: str = ""
    expected: str = ""

    def __post_init__(self) -> None:
        """Raise UserError for fields that contradict each other or are out of range."""
        if self.views not in COMBINATIONS:
            raise unknown("pair of views", self.views, COMBINATIONS)
        if self.similarity not in SIMILARITIES:
            raise unknown("similarity", self.similarity, SIMILARITIES)
        if self.similarity not in COMBINATIONS[self.views]:
            pairs = "; ".join(f"{views}: {', '.join(names)}" for views, names in COMBINATIONS.items())
            raise UserError(
                f"The views {self.views} cannot be combined with the similarity {self.similarity}: "
                f"{REASONS[self.views]}. Possible combinations are {pairs}."
            )
        _check_values(self)
        if self.masks:
            _check_masking(self)
        for given in (self.views, self.similarity):
            for field, needed in NEEDED.get(given, {}).items():
                if getattr(self, field) != needed:
                    raise UserError(
                        f"The {field} of {given} must be {needed}, and {getattr(self, field)} was given: "
                        f"{REASONS[given]}. Leave it out, or choose other views or another similarity."
                    )

    @property
    def masks(self) -> bool:
        """Return whether patches are hidden."""
        return self.views in MASKED


CHOICES = {"target": ("shared", "ema"), "level": ("tokens", "pooled"), "init": ("mae", "moco", "timm")}
RANGES = {
    "mask_unit": (0, 4096),
    "norm_window": (0, 4096),
    "complement_share": (0.01, 1),
    "reconstruction_weight": (0, 1e6),
    "temperature": (1e-3, 100),
    "momentum": (0, 1),
    "decoder_dim": (4, 65536),
    "decoder_depth": (0, 64),
    "decoder_heads": (1, 256),
    "projector_dim": (0, 65536),
    "projection_dim": (4, 65536),
    "label_smoothing": (0, 1),
}

# The views, similarities and targets that read a field; changing it for others is an error.
READ_BY = {
    "masking": MASKED,
    "mask_ratio": MASKED,
    "mask_unit": MASKED,
    "complement_share": ("mask-complement",),
    "reconstruction_weight": ("relaxed-l2",),
    "temperature": ("infonce",),
    "momentum": ("ema",),
    "label_smoothing": ("cross-entropy",),
}


def _check_values(given: Method) -> None:
    for field, choices in CHOICES.items():
        if (value := getattr(given, field)) not in choices:
            raise unknown(field, str(value), choices)
    for field, (low, high) in RANGES.items():
        if not low <= (number := getattr(given, field)) <= high:
            raise UserError(f"The {field} of a method must be {low} to {high}, and {number} was given.")
    if given.norm_window and given.norm_window % 2 == 0:
        raise UserError(
            f"The norm_window {given.norm_window} is even: a window around a pixel has an odd side, such as SimMIM's "
            f"47. Give an odd number, or 0 for none."
        )
    if given.decoder_dim % math.lcm(4, given.decoder_heads):
        raise UserError(
            f"A decoder of {given.decoder_dim} channels does not divide into {given.decoder_heads} heads and the four "
            f"parts of a sin-cos position. Give a decoder_dim that is a multiple of both."
        )


def _check_masking(given: Method) -> None:
    if not 0 < given.mask_ratio < 1:
        raise UserError(
            f"The mask ratio {given.mask_ratio} is not between 0 and 1: at 0 nothing is hidden, at 1 the encoder sees "
            f"nothing. Give a share in between: 0.75 for MAE, 0.6 for SimMIM."
        )
    if given.masking not in MASKINGS:
        raise unknown("masking", given.masking, MASKINGS)


METHODS = (
    Method(
        name="mae",
        views="visible-pixels",
        similarity="pixel-l2",
        source="He et al., arXiv 2111.06377",
        expected="83.3 after 400 epochs, 83.5 after 1600 (mmpretrain)",
    ),
    Method(
        name="r-mae",
        views="mask-complement",
        similarity="relaxed-l2",
        complement_share=1 / 3,
        source="Kong & Zhang, arXiv 2208.04164, equations 4-6; lambda, stop-gradient, complement share: our reading",
    ),
    Method(
        name="c-mae",
        views="mask-complement",
        similarity="infonce",
        target="ema",
        decoder_depth=2,
        source="Kong & Zhang, arXiv 2208.04164; temperature, target and heads after MoCo v3, our reading",
    ),
    Method(
        name="simmim",
        views="masked-pixels",
        similarity="pixel-l1",
        mask_ratio=0.6,
        mask_unit=32,
        init="timm",
        norm_pix_loss=False,
        source="Xie et al., arXiv 2111.09886",
        expected="83.8 after 800 epochs (SimMIM, with relative position bias)",
    ),
    Method(
        name="moco",
        views="two-crops",
        similarity="infonce",
        target="ema",
        level="pooled",
        init="moco",
        symmetric=True,
        freeze_patch_embed=True,
        projector_dim=4096,
        source="Chen, Xie, He, arXiv 2104.02057 (MoCo v3)",
    ),
    Method(
        name="simsiam-mask",
        views="mask-complement",
        similarity="cosine",
        level="pooled",
        mask_ratio=0.5,
        symmetric=True,
        stop_gradient=True,
        source="the framework's fourth corner; SimSiam (Chen & He, arXiv 2011.10566) on masks",
    ),
    Method(
        name="supervised",
        views="image-label",
        similarity="cross-entropy",
        level="pooled",
        init="timm",
        source="Touvron et al., arXiv 2012.12877 (DeiT)",
    ),
)


def method(name: str, **changes: Any) -> Method:
    """Return a method of the table with changed fields (None: unchanged); raises UserError.

    New views or a new similarity also set the fields they need (`NEEDED`) and their defaults (`USUAL`), so every
    pair of `COMBINATIONS` can be reached from every method by two changes.
    """
    table = {entry.name: entry for entry in METHODS}
    if name not in table:
        raise unknown("method", name, table)
    changes = {field: value for field, value in changes.items() if value is not None}
    fields = {field.name for field in dataclasses.fields(Method)} - {"name", "source", "expected"}
    for field in changes:
        if field not in fields:
            raise unknown("field of a method", field, fields)
    implied: dict[str, Any] = {}
    for new in (changes[field] for field in ("views", "similarity") if field in changes):
        implied |= {**USUAL.get(new, {}), **NEEDED.get(new, {})}
    changed = dataclasses.replace(table[name], **{**implied, **changes})
    for field in changes:
        readers = READ_BY.get(field, (changed.views,))
        if not {changed.views, changed.similarity, changed.target}.intersection(readers):
            raise UserError(
                f"The {field} would change nothing in {changed.views} with {changed.similarity}: only "
                f"{', '.join(readers)} read it. Leave it out, or change the views or the similarity as well."
            )
    return changed
