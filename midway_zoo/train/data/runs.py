"""Compact run-length codes of integers: an index may hold the times of 70,000 unevenly timed videos."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt


class Runs:
    """``[[value, times], ...]``; as lists, one uneven clip of 40 s would take a quarter of a megabyte.

    Args:
        pairs: integers.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: "Sequence[Sequence[int]] | Runs") -> None:
        wide: npt.NDArray[np.integer[Any]] = (
            pairs._pairs if isinstance(pairs, Runs) else np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        )
        small = wide.size and np.abs(wide).max() < 2**15
        self._pairs: npt.NDArray[np.integer[Any]] = wide.astype(np.int16 if small else np.int64)

    def tolist(self) -> list[list[int]]:
        """The code in JSON types."""
        pairs: list[list[int]] = self._pairs.tolist()
        return pairs

    def values(self) -> npt.NDArray[np.int64]:
        """The integers themselves."""
        return np.repeat(self._pairs[:, 0].astype(np.int64), self._pairs[:, 1])

    @property
    def nbytes(self) -> int:
        """Memory of the code in bytes."""
        return self._pairs.nbytes

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self.tolist() == (other.tolist() if isinstance(other, Runs) else other)

    def __hash__(self) -> int:
        return hash(self._pairs.tobytes())

    def __repr__(self) -> str:
        return repr(self.tolist())


def packed(values: Iterable[int]) -> Runs:
    """Run-length code of integers."""
    return Runs([[int(value), len(list(times))] for value, times in groupby(values)])


def unpacked(runs: Runs) -> npt.NDArray[np.int64]:
    """The integers of a run-length code."""
    return runs.values()


def as_json(value: object) -> list[list[int]]:
    """``default`` of ``json.dumps``."""
    if isinstance(value, Runs):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
