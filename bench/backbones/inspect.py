"""Inspect a weights file: format, architecture, sizes, pretraining and hash, from the file alone."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.backbones import checkpoints, formats
from bench.files import cache_dir, content_sha256, digest, file_sha256, write_atomic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """Facts about a weights file.

    Attributes:
        path, sha256: the file.
        part, parts: the set of weights that was read, and all sets; "" and () for tensors without a set.
        format: its name in `bench.backbones.formats`, or "timm"; "" if none fits.
        method: of pretraining, if the format determines it.
        archs: timm's names of the architectures with these shapes; only one if the format determines it.
        options: of `timm.create_model` that the weights need.
        img_size, patch_size: (height, width) in pixels, from position and patch embeddings.
        parameters: of the encoder, its batch statistics included.
        normalisation: (mean, std) of images in 0-1, if the format determines it.
        leftover: how many tensors belong to the pretraining or task.
        keys: the first of the file's keys, for a file of no known format.
    """

    path: str
    sha256: str
    part: str
    parts: tuple[str, ...]
    format: str = ""
    method: str | None = None
    archs: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    img_size: tuple[int, int] | None = None
    patch_size: tuple[int, int] | None = None
    parameters: int = 0
    normalisation: tuple[formats.RGB, formats.RGB] | None = None
    leftover: int = 0
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A few lines for a person."""
        parts = f", {self.part} of {', '.join(self.parts)}" if self.part else ""
        size = " x ".join(map(str, self.img_size)) if self.img_size else "not stated"
        patch = " x ".join(map(str, self.patch_size)) if self.patch_size else "not stated"
        archs = ", ".join(self.archs[:6]) + (", ..." if len(self.archs) > 6 else "")
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        mean_std = "mean {}, std {}".format(*self.normalisation) if self.normalisation else ""
        rows = {
            "file": f"{self.path}{parts}",
            "format": self.format or f"not known; keys: {', '.join(self.keys)}, ...",
            "architecture": f"{archs or 'no timm model'}{options and f' with{options}'}",
            "input size": size,
            "patch size": patch,
            "parameters": f"{self.parameters:,} of the encoder; {self.leftover} other tensors",
            "pretraining": self.method or "not stated",
            "normalisation": mean_std or "not stated",
            "sha256": self.sha256,
        }
        return "\n".join(f"{name:14} {value}" for name, value in rows.items())


def inspect(path: Path, part: str | None = None) -> Inspection:
    """Return the facts about a weights file, cached by its hash. Raises UserError if it cannot be read."""
    sha256 = file_sha256(path)
    rules = sorted(Path(formats.__file__).parent.glob("*.py"))
    code = content_sha256(rules[0].parent, [*rules])
    memory = cache_dir() / "inspected" / f"{digest([sha256, part, code])}.json"
    if memory.is_file():
        return _parse(json.loads(memory.read_text()) | {"path": str(path)})
    found = _inspect(path, part, sha256)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(memory, json.dumps(dataclasses.asdict(found), default=str))
    return found


def _parse(cached: dict[str, Any]) -> Inspection:
    for name in ("parts", "archs", "img_size", "patch_size", "keys"):
        cached[name] = cached[name] and tuple(cached[name])
    if cached["normalisation"]:
        cached["normalisation"] = tuple(tuple(values) for values in cached["normalisation"])
    return Inspection(**{**cached, "parts": cached["parts"] or (), "archs": cached["archs"] or ()})


def _inspect(path: Path, part: str | None, sha256: str) -> Inspection:
    from bench.backbones import architectures

    state, taken, parts = checkpoints.read(path, part)
    about: dict[str, Any] = {"path": str(path), "sha256": sha256, "part": taken, "parts": parts}
    encoder = formats.recognise(state, lambda inside: bool(architectures.matching(_shapes(inside))))
    if encoder is None:
        return Inspection(**about, keys=tuple(list(state)[:5]))
    archs = (encoder.arch,) if encoder.arch else architectures.matching(_shapes(encoder.state))
    patch = _patch_size(encoder.state)
    return Inspection(
        **about,
        format=encoder.format,
        method=encoder.method,
        archs=tuple(archs),
        options=dict(encoder.options),
        patch_size=patch,
        img_size=patch and _img_size(encoder.state, patch),
        parameters=sum(
            v.numel() for k, v in encoder.state.items() if v.is_floating_point() and not architectures.HEAD.match(k)
        ),
        normalisation=encoder.normalisation,
        leftover=len(encoder.leftover) + len(encoder.outside),
    )


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _patch_size(state: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the patch embedding's kernel; None if it is odd: it overlaps (Hiera's) and does not cut patches."""
    weight = state.get("patch_embed.proj.weight")
    if weight is None or weight.ndim != 4 or weight.shape[-1] % 2:
        return None
    return tuple(weight.shape[-2:])


def _img_size(state: Mapping[str, Any], patch: tuple[int, int]) -> tuple[int, int] | None:
    """Return the square that position embeddings cover, with up to 5 prefix tokens."""
    length = state["pos_embed"].shape[1] if "pos_embed" in state else 0
    sides = [math.isqrt(length - prefix) for prefix in range(min(length, 6))]
    exact = [side for prefix, side in enumerate(sides) if side * side == length - prefix]
    return (exact[0] * patch[0], exact[0] * patch[1]) if exact else None
