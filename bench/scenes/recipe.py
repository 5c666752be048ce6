"""The recipe of an embedded world, and the hashes that identify it and its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from bench.errors import UserError

GENERATOR_VERSION = 4  # raise it when any pixel or label of any world changes; the golden test detects that

_LIMITS = {
    "train": (10, 1_000_000), "val": (10, 1_000_000), "videos": (4, 100_000), "frames": (2, 10_000),
    "swaps": (1, 1_000), "size": (64, 1_024), "seed": (0, 2**31 - 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class World:
    """The recipe of a world, which determines every byte of it; raises UserError for a value out of range.

    Args:
        train: scenes in the training split; likewise val.
        videos: tracking videos, three of four for training; `frames` each.
        swaps: cue-conflict images of each (shape, texture) pair of two classes.
        size: width and height of every image in pixels.
        seed: another seed is another world.
    """

    train: int = 2000
    val: int = 400
    videos: int = 40
    frames: int = 32
    swaps: int = 8
    size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for a value out of range."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"A world's {name} is {value!r}, which is outside {low} to {high}. "
                    "(A split needs at least ten scenes: one of each species.)"
                )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the recipe and the generator's version."""
        return sha256(json.dumps({**asdict(self), "generator": GENERATOR_VERSION}, sort_keys=True).encode())


def combined_hash(hashes: dict[str, str]) -> str:
    """Return the SHA-256 of a folder from the hashes of its files."""
    return sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode())


def sha256(content: bytes) -> str:
    """Return the SHA-256 as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
