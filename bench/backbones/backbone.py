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
        name, arch: the user's name for it, timm's for its architecture.
        method: how it was pretrained, as far as the file tells; "baseline" is of no backbone at all.
        weights, part, sha256: the file, which of its sets of weights (None: its best), and its hash.
        pretraining: what the file's header says.
        mean, std: RGB, of images in 0-1; they go before what the file or timm says.
        tag: timm's tag whose mean and std the weights were made with.
        allow_partial: patterns of keys that need not fit.
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
        """What tells two backbones of one name apart in a record's path."""
        return weights8({**vars(self), "weights_sha256": self.sha256})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every key of a weights file, and of every one that the model wants.

    Attributes:
        format: of the file; "" for a backbone without weights.
        matched: how many of the model's tensors the file filled.
        missing: the model's keys that were left at their initialisation: its classifier's, or allowed.
        unexpected: encoder-shaped keys of the file that nothing took: only ever allowed ones.
        leftover: the file's keys that belong to its pretraining or task (heads, decoders, the other
            network of a siamese pair), and buffers that the model computes for itself.
        resampled: "key (from) -> (to)": adapted to another size.
        cast: how many tensors came from another number format, by its name.
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
