"""The methods: each is a pair of views and a similarity; MIM and contrastive methods differ in nothing else.

    minimise E_x similarity( f(T1(x)), f(T2(x)) )          (Kong & Zhang, arXiv 2208.04164)

`views` names (T1, T2) and `similarity` what compares their encodings; what the similarity learns with
the encoder (a decoder, a projector, a predictor) is part of it. In masked image modelling T2(x) is
pixels, which stand for their own encoding.
"""

import dataclasses
import math
from typing import Any, Literal

from bench.errors import UserError, unknown

# Which similarities have a sense for which views.
COMBINATIONS = {
    "visible-pixels": ("pixel-l2",),
    "masked-pixels": ("pixel-l1", "pixel-l2"),
    "mask-complement": ("relaxed-l2", "infonce", "cosine"),
    "two-crops": ("infonce", "cosine"),
    "image-label": ("cross-entropy",),
}
REASONS = {
    "visible-pixels": "the encoder never sees a masked patch, so only a decoder can say its pixels",
    "masked-pixels": "the second view is pixels, which only a distance of pixels compares with",
    "mask-complement": "both views are encoded, and need a similarity of two encodings",
    "two-crops": "the patches of two crops do not lie on each other, so only what is pooled is alike",
    "image-label": "the second view is a class",
    "pixel-l1": "it compares the pixels of patches, which need no target encoder",
    "pixel-l2": "it compares the pixels of patches, which need no target encoder",
    "relaxed-l2": "one encoder and one decoder make pixels of both views",
    "cross-entropy": "one class is said of a whole image",
}
# What a pair of views or a similarity is not without.
NEEDED = {
    "two-crops": {"level": "pooled"},
    "pixel-l1": {"level": "tokens", "target": "shared"},
    "pixel-l2": {"level": "tokens", "target": "shared"},
    "relaxed-l2": {"level": "tokens", "target": "shared"},
    "cross-entropy": {"level": "pooled", "target": "shared"},
}
# What else a change to it changes with it, unless that is given too.
USUAL: dict[str, dict[str, Any]] = {
    "pixel-l1": {"symmetric": False, "stop_gradient": False},
    "pixel-l2": {"symmetric": False, "stop_gradient": False},
    "relaxed-l2": {"symmetric": False, "stop_gradient": False},
    "infonce": {"stop_gradient": False},
    "cosine": {"stop_gradient": True},
}
MASKED = ("visible-pixels", "masked-pixels", "mask-complement")
MASKINGS = ("random", "block", "grid", "occluders")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """All that defines a method but its architecture and recipe.

    Attributes:
        name: what it is called on the command line.
        views, similarity: the pair, as `COMBINATIONS` has them.
        target: encodes the second view: the encoder itself ("shared") or its moving average ("ema").
        level: encodings are compared "tokens" by tokens at hidden positions, or "pooled" as the model pools.
        masking, mask_ratio, mask_unit: which patches are hidden, their share, the side of a unit in pixels
            (0: a patch).
        complement_share: of the patches hidden in the first view, how many the second one shows and is
            compared at. R-MAE learns from both views, and costs 2.8 times MAE with all of them, 1.3 times with
            a third, where both views show equally many (ViT-B, mask ratio 0.75, in operations).
        init: "mae" and "moco" have fixed sin-cos positions and their papers' initialisation, "timm" its own.
        symmetric: the views change places, and the two losses are averaged.
        stop_gradient: nothing is learnt from the second view's side of the comparison.
        freeze_patch_embed: the patch embedding stays random (MoCo v3, section 4).
        norm_pix_loss: the target is normalised by each patch's own mean and deviation (MAE).
        norm_window: the target is normalised in windows of so many pixels (SimMIM for SwinV2: 47; 0: not).
        reconstruction_weight: lambda of R-MAE.
        temperature, momentum: of InfoNCE; of the moving average at the start, which rises to 1 by a cosine.
        decoder_dim, decoder_depth, decoder_heads: of the decoder, where the similarity has one.
        projector_dim, projection_dim: hidden width of the projector and predictor (0: four times the
            width of what goes in), and of what is compared.
        label_smoothing: of the cross-entropy.
        source: of the definition; `expected`: ImageNet-1k top-1 of ViT-B fine-tuned, where it is published.
    """

    name: str
    views: str
    similarity: str
    target: Literal["shared", "ema"] = "shared"
    level: Literal["tokens", "pooled"] = "tokens"
    masking: str = "random"
    mask_ratio: float = 0.75
    mask_unit: int = 0
    complement_share: float = 1.0
    init: Literal["mae", "moco", "timm"] = "mae"
    symmetric: bool = False
    stop_gradient: bool = False
    freeze_patch_embed: bool = False
    norm_pix_loss: bool = True
    norm_window: int = 0
    reconstruction_weight: float = 1.0
    temperature: float = 0.2
    momentum: float = 0.99
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    projector_dim: int = 0
    projection_dim: int = 256
    label_smoothing: float = 0.1
    source: str = ""
    expected: str = ""

    def __post_init__(self) -> None:
        """Raise UserError for what makes no sense."""
        similarities = {name for names in COMBINATIONS.values() for name in names}
        if self.views not in COMBINATIONS:
            raise unknown("pair of views", self.views, COMBINATIONS)
        if self.similarity not in similarities:
            raise unknown("similarity", self.similarity, similarities)
        if self.similarity not in COMBINATIONS[self.views]:
            raise _senseless(self)
        _check_values(self)
        if self.masks:
            _check_masking(self)
        for given in (self.views, self.similarity):
            for field, needed in NEEDED.get(given, {}).items():
                if getattr(self, field) != needed:
                    raise UserError(
                        f"The {field} of {given} is {needed}, and {getattr(self, field)} was given: {REASONS[given]}. "
                        f"Leave it out, or take other views or another similarity."
                    )

    @property
    def masks(self) -> bool:
        """Whether patches are hidden."""
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

# Who alone reads a field; a change of it elsewhere is refused.
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
            raise UserError(f"The {field} of a method is {low} to {high}, and {number} was given.")
    if given.norm_window and given.norm_window % 2 == 0:
        raise UserError(
            f"The norm_window is {given.norm_window}: a window around a pixel has an odd side, as SimMIM's 47. Give "
            f"an odd number, or 0 for none."
        )
    if given.decoder_dim % math.lcm(4, given.decoder_heads):
        raise UserError(
            f"A decoder of {given.decoder_dim} channels does not divide into {given.decoder_heads} heads and the four "
            f"parts of a sin-cos position. Give a decoder_dim that is a multiple of both."
        )


def _check_masking(given: Method) -> None:
    if not 0 < given.mask_ratio < 1:
        raise UserError(
            f"A mask ratio of {given.mask_ratio} was given: at 0 nothing is hidden and nothing is to be learnt, at 1 "
            f"the encoder sees nothing. Give a share between them: 0.75 for MAE, 0.6 for SimMIM."
        )
    if given.masking not in MASKINGS:
        raise unknown("masking", given.masking, MASKINGS)


def _senseless(given: Method) -> UserError:
    """The views and the similarity do not go together; name the ones that do."""
    pairs = "; ".join(f"{views}: {', '.join(names)}" for views, names in COMBINATIONS.items())
    return UserError(
        f"The views {given.views} and the similarity {given.similarity} make no method: "
        f"{REASONS[given.views]}. What goes together is {pairs}."
    )


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
    """A method of the table with fields changed, None being no change; raises UserError.

    With new views or a new similarity comes what they need (`NEEDED`) and usually have (`USUAL`), so that
    every pair of `COMBINATIONS` is two changes away from every method.
    """
    table = {entry.name: entry for entry in METHODS}
    if name not in table:
        raise unknown("method", name, table)
    changes = {field: value for field, value in changes.items() if value is not None}
    fields = {field.name for field in dataclasses.fields(Method)} - {"name", "source", "expected"}
    for field in changes:
        if field not in fields:
            raise unknown("field of a method", field, fields)
    followed: dict[str, Any] = {}
    for new in (changes[field] for field in ("views", "similarity") if field in changes):
        followed |= {**USUAL.get(new, {}), **NEEDED.get(new, {})}
    made = dataclasses.replace(table[name], **{**followed, **changes})
    for field in changes:
        readers = READ_BY.get(field, (made.views,))
        if not {made.views, made.similarity, made.target}.intersection(readers):
            raise UserError(
                f"The {field} would change nothing in {made.views} with {made.similarity}: only {', '.join(readers)} "
                f"read it. Leave it out, or change the views or the similarity as well."
            )
    return made
