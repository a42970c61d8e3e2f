"""An indexed video, whose frames are read with one open, few seeks and an ordered pass."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, read_animation
from midway_zoo.inference.image_files import to_uint8
from midway_zoo.inference.sources import Kind
from midway_zoo.inference.video_file import VideoFile, upright
from midway_zoo.inference.video_order import DecodedFrame
from midway_zoo.train.data.runs import Runs, packed, unpacked
from midway_zoo.train.data.video_files import read_images, stamp

Read: TypeAlias = tuple[dict[int, Tensor], dict[int, str]]
"""Frames by their positions, uint8 (3, H, W), and reasons for those that cannot be read."""

REGULAR = 0.25
"""A video counts as evenly timed if all frames are within this share of the frame interval of an even grid."""
_SEEK_TRIES = 4


@dataclass(frozen=True)
class IndexedVideo:
    """One usable video; presentation times are in ticks."""

    path: str
    """Relative to the base folder of the root."""
    kind: Kind
    size: int
    """Size and ``changed_ns`` detect a changed source; see :func:`~midway_zoo.train.data.video_files.stamp`."""
    changed_ns: int
    frames: int
    height: int
    """Of the upright frame, in pixels."""
    width: int
    rotation: int
    """Degrees counter-clockwise by which the decoder's picture is rotated."""
    tick: float | None
    """Seconds per tick. None for folders of frames at an assumed rate, whose tick is one frame."""
    first: int
    last: int
    keyframes: Runs
    """Distances in frames between keyframes, the first counted from frame 0."""
    steps: Runs | None = None
    """Distances in ticks between frames; None for evenly spaced ones."""
    stored: Runs | None = None
    """If the container has no presentation times and frames are not stored in display order: by how many ticks each
    frame's packet is later than the frame itself."""

    def __post_init__(self) -> None:
        for name in ("keyframes", "steps", "stored"):  # lists if read from JSON
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, Runs(getattr(self, name)))

    @property
    def pts(self) -> npt.NDArray[np.float64]:
        """(frames,) presentation times in ticks, ascending."""
        if self.steps is None:
            return np.linspace(self.first, self.last, self.frames)
        return self.first + np.concatenate([[0], np.cumsum(unpacked(self.steps))]).astype(np.float64)

    def duration(self, frames_fps: float) -> float:
        """Seconds from the first frame to the last; ``frames_fps`` is assumed for folders without times."""
        return (self.last - self.first) * self._tick(frames_fps)

    def seconds(self, frames_fps: float) -> npt.NDArray[np.float64]:
        """(frames,) times of the frames in seconds."""
        return self.pts * self._tick(frames_fps)

    def _tick(self, frames_fps: float) -> float:
        return 1 / frames_fps if self.tick is None else self.tick

    def unchanged(self, base: Path) -> Path:
        """The path of the video, after a check that it did not change.

        Raises:
            InputError: if it changed since it was indexed.
            MissingFileError: if it no longer exists.
        """
        path = base / self.path
        if stamp(path, self.kind) != (self.size, self.changed_ns):
            raise InputError(f"{path} changed since it was indexed. Index the data again.")
        return path

    def read(self, base: Path, indices: Sequence[int], short_side: int | None = None) -> Read:
        """Frames by their positions, uint8 (3, H, W): (those that were read, reasons for the others).

        Damaged frames are not read, nor those after damage up to the next keyframe. Whether a frame can be read never
        depends on which others are requested.

        Raises:
            InputError: if the file cannot be opened or changed since it was indexed.
            MissingFileError: if it no longer exists.
        """
        path = self.unchanged(base)
        if self.kind == "frames":
            return read_images(path, indices, self.frames, short_side)
        read = _read_animation if path.suffix.lower() in ANIMATION_SUFFIXES else self._read_video
        images, failed = read(path, sorted(set(indices)), short_side)
        return images, {index: f"{path}: {reason}" for index, reason in failed.items()}

    def _read_video(self, path: Path, indices: Sequence[int], short_side: int | None) -> Read:
        images: dict[int, Tensor] = {}
        failed: dict[int, str] = {}
        with VideoFile(path) as video:
            video.timeless |= self.stored is not None
            reader = _OrderedReader(video, self)
            for index in indices:
                try:
                    images[index] = upright(reader.frame(index).picture, short_side, enlarge=False)
                except (InputError, OSError, ValueError) as error:
                    failed[index] = f"frame at {float(self.pts[index] * video.tick):.3f} s: {error}"
        return images, failed


class _OrderedReader:
    """A decoder that moves forward through a video, and seeks if there is a keyframe in between."""

    def __init__(self, video: VideoFile, known: IndexedVideo) -> None:
        self._video = video
        self._pts = known.pts
        self._tolerance = 0.4 * float(np.diff(self._pts).min())
        self._packets = self._pts if known.stored is None else np.rint(self._pts) + unpacked(known.stored)
        # In a container without presentation times, packets are identified by their own times.
        self._shown: Mapping[int, float] | None = None
        if known.stored is not None:
            self._shown = {round(packet): float(shown) for packet, shown in zip(self._packets, self._pts, strict=True)}
        self._keys: list[int] = np.cumsum(unpacked(known.keyframes)).tolist()
        self._untouched = True
        self._frames: Iterator[DecodedFrame] | None = None
        self._last = -math.inf

    def frame(self, index: int) -> DecodedFrame:
        """Frame ``index``, later than the one before.

        Raises:
            InputError: if it is damaged, depends on a damaged frame, or does not exist.
        """
        wanted = float(self._pts[index])
        key = bisect_right(self._keys, index) - 1
        if self._frames is not None and (self._video.linear or key < 0 or self._pts[self._keys[key]] <= self._last):
            found, _ = self._advance(wanted)
        else:
            found = self._sought(wanted, key)
        if found is None:
            self._frames = None  # the frame found instead may be the next one wanted
            raise InputError("the index names it, the file does not have it or it cannot be decoded")
        if found.concealed:
            raise InputError("it is damaged, or builds on a damaged frame")
        return found

    def _sought(self, wanted: float, key: int) -> DecodedFrame | None:
        for attempt in range(_SEEK_TRIES):
            # Some containers seek to a later keyframe than requested: try earlier and earlier ones.
            last = key < 0 or attempt == _SEEK_TRIES - 1
            self._seek(None if last else max(key + 1 - 2**attempt, 0))
            found, landed_before = self._advance(wanted)
            if found is not None or landed_before:
                return found
        return None

    def _seek(self, key: int | None) -> None:
        """Continue at a keyframe; None for the start of the file."""
        if key is not None and (key > 0 or not self._untouched):
            self._video.seek(round(self._packets[self._keys[key]]))
        elif not self._untouched:
            self._video.rewind()
        self._untouched = False
        self._frames = self._video.frames()

    def _advance(self, wanted: float) -> tuple[DecodedFrame | None, bool]:
        """(the frame at a time, or None if the decoder is past it; whether an earlier frame was found on the way)."""
        assert self._frames is not None
        earlier = False
        for frame in self._frames:
            time = frame.packet if self._shown is None else self._shown.get(frame.packet)
            if time is None:
                continue
            self._last = time
            if time >= wanted - self._tolerance:
                return (frame if time <= wanted + self._tolerance else None), earlier
            earlier = True
        return None, earlier


def _read_animation(path: Path, indices: Sequence[int], short_side: int | None) -> Read:
    images: dict[int, Tensor] = {}
    reason = "the index names it, the file does not have it"
    try:
        for index, (image, _) in enumerate(read_animation(path, warn=False)):
            if index in indices:
                images[index] = to_uint8(image, short_side, enlarge=False)
            if index >= max(indices):
                break
    except InputError as error:
        reason = str(error)
    return images, {index: reason for index in indices if index not in images}


def timing_fields(pts: Sequence[int]) -> dict[str, Any]:
    """``frames``, ``first``, ``last`` and ``steps`` of a video with these times (ascending, two or more)."""
    times = np.asarray(pts, dtype=np.int64)
    grid = np.linspace(times[0], times[-1], len(times))
    interval = (times[-1] - times[0]) / (len(times) - 1)
    even = bool(np.abs(times - grid).max() <= REGULAR * interval)
    steps = None if even else packed(np.diff(times).tolist())
    return {"frames": len(times), "first": int(times[0]), "last": int(times[-1]), "steps": steps}
