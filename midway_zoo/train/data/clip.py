"""What the index knows of one video: when its frames are, which are keyframes, how to read them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.train.data.decoding import read_frames
from midway_zoo.train.data.sources import Kind, read_images, stamp

Runs: TypeAlias = list[list[int]]
"""Run-length code of integers: ``[[value, times], ...]``."""

REGULAR = 0.25
"""A video whose frames all lie within this share of the frame interval of an even grid is taken to be on it."""


@dataclass(frozen=True)
class Clip:
    """One usable video; presentation times are in ticks."""

    path: str
    """Relative to the base folder of the root."""
    kind: Kind
    size: int
    """Bytes of a video file, 0 for a folder; with ``changed_ns`` it tells a file that changed."""
    changed_ns: int
    frames: int
    height: int
    """Of the upright frame, in pixels."""
    width: int
    rotation: int
    """Degrees counter-clockwise by which the decoder's picture is turned."""
    tick: float | None
    """Seconds per tick. None for frames of a folder at an assumed rate, whose tick is the frame."""
    first: int
    last: int
    keyframes: Runs
    """Distances in frames between keyframes, the first counted from frame 0."""
    steps: Runs | None = None
    """Distances in ticks between frames; None for evenly spaced ones."""

    @property
    def pts(self) -> npt.NDArray[np.float64]:
        """(frames,) presentation times in ticks, ascending."""
        if self.steps is None:
            return np.linspace(self.first, self.last, self.frames)
        return self.first + np.concatenate([[0], np.cumsum(unpacked(self.steps))]).astype(np.float64)

    def duration(self, frames_fps: float) -> float:
        """Seconds from the first frame to the last; ``frames_fps`` is assumed for folders that do not know theirs."""
        return (self.last - self.first) * self._tick(frames_fps)

    def seconds(self, frames_fps: float) -> npt.NDArray[np.float64]:
        """(frames,) times of the frames in seconds."""
        return self.pts * self._tick(frames_fps)

    def _tick(self, frames_fps: float) -> float:
        return 1 / frames_fps if self.tick is None else self.tick

    def read(
        self, base: Path, indices: Sequence[int], short_side: int | None = None
    ) -> tuple[dict[int, Tensor], dict[int, str]]:
        """Frames by their positions, uint8 (3, H, W): (those that were read, reasons for the others).

        Raises:
            InputError: if the file cannot be opened or changed since it was indexed.
            MissingFileError: if it is not there any more.
        """
        path = base / self.path
        if stamp(path, self.kind) != (self.size, self.changed_ns):
            raise InputError(f"{path} changed since it was indexed. Index the data again.")
        if self.kind == "frames":
            return read_images(path, indices, self.frames, short_side)
        wanted = list(indices)
        pts = self.pts
        images, failed = read_frames(
            path,
            [float(pts[index]) for index in wanted],
            keyframes=[float(pts[index]) for index in np.cumsum(unpacked(self.keyframes))],
            tolerance=0.4 * float(np.diff(pts).min()),
            short_side=short_side,
        )
        return (
            {wanted[place]: image for place, image in images.items()},
            {wanted[place]: f"{path}: {reason}" for place, reason in failed.items()},
        )


def timing_fields(pts: Sequence[int]) -> dict[str, Any]:
    """``frames``, ``first``, ``last`` and ``steps`` of a :class:`Clip` with these times (ascending, two or more)."""
    times = np.asarray(pts, dtype=np.int64)
    grid = np.linspace(times[0], times[-1], len(times))
    interval = (times[-1] - times[0]) / (len(times) - 1)
    even = bool(np.abs(times - grid).max() <= REGULAR * interval)
    steps = None if even else packed(np.diff(times).tolist())
    return {"frames": len(times), "first": int(times[0]), "last": int(times[-1]), "steps": steps}


def packed(values: Iterable[int]) -> Runs:
    """Run-length code of integers."""
    runs: Runs = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([int(value), 1])
    return runs


def unpacked(runs: Runs) -> npt.NDArray[np.int64]:
    """The integers of a run-length code."""
    if not runs:
        return np.zeros(0, np.int64)
    values, times = np.asarray(runs, dtype=np.int64).T
    return np.repeat(values, times)
