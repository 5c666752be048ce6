"""Backbone: an architecture with its weights; LoadReport: which of the weights were loaded."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.backbones import formats
from bench.records import weights8

RGB = formats.RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """Architecture and weights under test.

    Attributes:
        name, arch: the user's name for it; timm's name of its architecture.
        method: how it was pretrained, if the file states it; "baseline" marks a result without any backbone.
        weights, part, sha256: the file, which of its sets of weights (None: the preferred one), and its hash.
        pretraining: the file's header.
        mean, std: RGB, of images in 0-1; they override the file's and timm's.
        tag: timm's tag whose mean and std the weights were trained with.
        allow_partial: patterns of keys that may be missing, unexpected or misshapen.
    """

    name: str
    arch: str
    method: str = "scratch"
    weights: Path | None = None
    part: str | None = None
    sha256: str | None = None
    pretraining: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mean: RGB | None = None
    std: RGB | None = None
    tag: str = ""
    allow_partial: tuple[str, ...] = ()

    @property
    def weights8(self) -> str:
        """The part of a record's path that distinguishes backbones of one name."""
        return weights8({**vars(self), "weights_sha256": self.sha256})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was done with every key of a weights file and of the model.

    Attributes:
        format: of the file; "" without weights.
        matched: number of the model's tensors that the file filled.
        missing: the model's keys that were left at their initialisation: the classifier's, or allowed ones.
        unexpected: the file's encoder keys that the model does not have: allowed ones only.
        leftover: the file's keys of its pretraining or task (heads, decoders, the other network of a siamese pair),
            and buffers that the model computes.
        resampled: "key from -> to": tensors adapted to another size.
        cast: number of tensors converted from another number format, by its name.
    """

    format: str = ""
    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    leftover: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()
    cast: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """One line."""
        cast = "".join(f", {n} cast from {kind}" for kind, n in self.cast.items())
        return (
            f"{self.format}: {self.matched} matched, {_counted('missing', self.missing)}, "
            f"{_counted('unexpected', self.unexpected)}, {_counted('resampled', self.resampled)}{cast}, "
            f"{_counted('of its pretraining left over', self.leftover)}"
        )


def _counted(what: str, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {what}" + (f" ({shown})" if keys else "")
