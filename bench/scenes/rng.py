"""Random numbers, cosines and sines that have the same bits on every machine.

They use only integer arithmetic and the IEEE operations + - * /: the last bit of a library's sine depends on its
version, and so may the stream of a library's generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TAU = 6.283185307179586


def mix(value: int) -> int:
    """Scramble a 64-bit integer (the finaliser of SplitMix64: Steele, Lea & Flood, 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Draw:
    """A stream of random values, a pure function of its key: any integers, such as (seed, split, index)."""

    def __init__(self, *key: int) -> None:
        """Start the stream of a key."""
        self._state = 0
        for part in key:
            self._state = mix((self._state + _GOLDEN + part) & _MASK)
        self._count = 0

    def _bits(self) -> int:
        self._count += 1
        return mix((self._state + self._count * _GOLDEN) & _MASK)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a float in [low, high)."""
        return low + (high - low) * ((self._bits() >> 11) * 2.0**-53)

    def integer(self, count: int) -> int:
        """Draw an integer in [0, count)."""
        return ((self._bits() >> 32) * count) >> 32

    def chance(self, probability: float) -> bool:
        """Draw True with this probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of the options, all equally likely."""
        return options[self.integer(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Draw an order (Fisher-Yates)."""
        order = list(options)
        for last in range(len(order) - 1, 0, -1):
            other = self.integer(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def hashed_table(size: int) -> NDArray[np.float32]:
    """Return `size` hashed values in [0, 1), multiples of 2^-16: the lattice of the noise."""
    value = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value = value ^ (value >> np.uint64(31))
    return (value >> np.uint64(48)).astype(np.float32) * np.float32(2.0**-16)


def cos_sin(degrees: float) -> tuple[float, float]:
    """Return cosine and sine by their power series (error below 1e-15)."""
    turns = degrees * (1.0 / 360.0)
    quarter = (turns - float(int(turns * 4.0)) * 0.25) * _TAU
    square = quarter * quarter
    cosine = sine = 0.0
    for k in range(20, 0, -2):
        cosine = (1.0 + cosine) * (-square / ((k - 1) * k))
        sine = (1.0 + sine) * (-square / (k * (k + 1)))
    cosine, sine = 1.0 + cosine, quarter * (1.0 + sine)
    for _ in range(int(turns * 4.0) % 4):
        cosine, sine = -sine, cosine
    return cosine, sine
