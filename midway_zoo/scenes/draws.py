"""Random numbers that are a pure function of (seed, index, place in the sequence), for a whole batch at once."""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
_Bits: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: _Bits) -> _Bits:
    """SplitMix64's finaliser (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Draws:
    """Hands out numbers for B samples; each call continues where the last ended, for all samples.

    Counter-based: one generator object per sample would cost more than rendering a small scene.

    Args:
        seed: any whole number of 64 bits.
        indices: (B,) int64, of the samples.
    """

    def __init__(self, seed: int, indices: npt.NDArray[np.int64]) -> None:
        key = _mix(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
        self._keys = _mix(_mix(indices.astype(np.uint64) * _GOLDEN) ^ key)
        self._used = 0

    def _bits(self, shape: tuple[int, ...]) -> _Bits:
        count = math.prod(shape)
        counters = np.arange(self._used + 1, self._used + count + 1, dtype=np.uint64) * _GOLDEN
        self._used += count
        return _mix(self._keys[:, None] + counters).reshape(len(self._keys), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Array:
        """(B, *shape), in [low, high)."""
        unit = (self._bits(shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def log_uniform(self, *shape: int, low: float, high: float) -> Array:
        """(B, *shape), in [low, high), log-uniform."""
        return np.exp(self.uniform(*shape, low=math.log(low), high=math.log(high)))

    def whole(self, *shape: int, low: int, high: int) -> npt.NDArray[np.int64]:
        """(B, *shape), from low to high, both included."""
        return low + (self.uniform(*shape) * (high - low + 1)).astype(np.int64)

    def vectors(self, *shape: int, longest: float) -> Array:
        """(B, *shape, 2): lengths uniform up to ``longest``, directions uniform."""
        angle = self.uniform(*shape, high=2 * math.pi)
        return self.uniform(*shape, high=longest)[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def keys(self, *shape: int) -> npt.NDArray[np.int32]:
        """(B, *shape): 32 random bits."""
        return (self._bits(shape) >> np.uint64(32)).astype(np.uint32).view(np.int32)
