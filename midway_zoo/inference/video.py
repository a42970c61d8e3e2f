"""Reading videos frame by frame: which frames are wanted, and their pictures (PyAV, extra ``video``)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.checks import check_integer, is_integer, is_number, is_size
from midway_zoo.errors import InputError, InputTypeError, MissingFileError
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, read_animation
from midway_zoo.inference.image_files import to_uint8
from midway_zoo.inference.video_entry import find_beginning
from midway_zoo.inference.video_file import VideoFile, import_av, upright
from midway_zoo.inference.video_order import Entry

_LARGEST = 16_384  # pixels a side; FFmpeg's scaler refuses much more with an error that says nothing


@dataclass(frozen=True)
class VideoFrame:
    """One decoded frame."""

    image: Tensor
    """(3, H, W) uint8, RGB, turned and mirrored as the file's display matrix says."""
    pts_seconds: float
    """Presentation time. Ascending; where the container has none (AVI, raw streams), at its regular rate."""
    index: int
    """Position in the file, from 0."""
    concealed: bool = False
    """The frame's data are damaged, or those of a frame it builds on: what is shown is the decoder's guess. True from
    the damage to the next key frame."""


def read_video(
    path: str | PathLike[str],
    *,
    stride: int = 1,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    size: int | tuple[int, int] | None = None,
) -> Iterator[VideoFrame]:
    """Decode a video frame by frame, in bounded memory.

    A damaged or truncated file is read as far as it goes: frames that the decoder had to guess say so in
    ``concealed``, and one warning is logged with the file, the time of the first damage and the number of frames.

    Args:
        path: anything FFmpeg decodes, or an animated GIF, WebP or PNG (for which Pillow is enough).
        stride: take frames 0, stride, 2 * stride, ... of those from ``start`` on.
        fps: instead, take the first frame at or after each tick of 1 / fps seconds from the first frame taken; a
            video with fewer frames per second gives each of its frames once.
        start: seconds from the video's first frame; earlier frames are left out, and not decoded up to the last key
            frame before it.
        end: seconds from the video's first frame; frames from there on are left out.
        size: None keeps the pixels; an int scales to this shorter side, (height, width) to exactly that.

    Returns:
        An iterator of :class:`VideoFrame`, decoded as they are asked for.

    Raises:
        MissingExtraError: if PyAV is not installed.
        MissingFileError: if there is no such file.
        InputTypeError: if ``path`` is not a path.
        InputError: if it has no decodable video, or an argument makes no sense.
    """
    check_sampling(stride, fps)
    _check_window(start, end)
    _check_size(size)
    if not isinstance(path, str | PathLike):
        raise InputTypeError(f"path is a {type(path).__name__}: the path of a video file is expected.")
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a video.")
    if not path.exists():
        raise MissingFileError(f"there is no video {path}.")
    if not path.is_file():
        raise InputError(
            f"{path} is a pipe or a device: videos are read from files, for some parts are read twice. Save it to one "
            "first; from a camera push frames into a MotionStream."
        )
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _sampled(_animated(path, size), path, _Wanted(stride, fps, start, end))
    import_av()
    return _from_start(path, size, stride, fps, start, end)


def _from_start(
    path: Path,
    size: int | tuple[int, int] | None,
    stride: int,
    fps: float | None,
    start: float | None,
    end: float | None,
) -> Iterator[VideoFrame]:
    beginning = find_beginning(path, start) if start else None
    wanted = _Wanted(stride, fps, start, end, zero=None if beginning is None else beginning.zero)
    yield from _sampled(_decoded(path, size, Entry() if beginning is None else beginning.entry), path, wanted)


def check_sampling(stride: int, fps: float | None) -> None:
    """Raise :class:`InputError` unless stride is a positive integer and fps, if given, stands alone."""
    check_integer("stride", stride, 1)
    if fps is None:
        return
    if not is_number(fps) or fps <= 0:
        raise InputError(f"fps={fps!r}: a positive number of frames per second is expected.")
    if stride != 1:
        raise InputError(f"pass stride={stride} or fps={fps}, not both.")


def _check_window(start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and (not is_number(value) or value < 0):
            raise InputError(f"{name}={value!r}: seconds from the first frame, 0 or more, are expected.")
    if start is not None and end is not None and end <= start:
        raise InputError(f"start={start} and end={end}: end must be later than start.")


def _check_size(size: Any) -> None:
    if size is None:
        return
    if not is_integer(size, 1) and not is_size(size):
        raise InputError(f"size={size!r}: None, a shorter side in pixels or (height, width) is expected.")
    if max(size if isinstance(size, Sequence) else (size,)) > _LARGEST:
        raise InputError(f"size={size!r}: frames are scaled to {_LARGEST} pixels a side at most.")


# Which frames to take.


class _Wanted:
    """Says of frames in ascending order whether they are taken, and when there can be no more."""

    def __init__(
        self, stride: int, fps: float | None, start: float | None, end: float | None, zero: float | None = None
    ) -> None:
        self._stride, self._fps = stride, fps
        self._from, self._to = start or 0.0, float("inf") if end is None else end
        self._zero = zero
        self._first: float | None = None
        self._ticks = self._seen = 0

    def __call__(self, seconds: float, slack: float) -> bool:
        """``slack``: containers round times to their time base; half of it keeps a frame on its tick."""
        self._zero = seconds if self._zero is None else self._zero
        if seconds - self._zero < self._from - slack - 1e-9:
            return False
        self._first = seconds if self._first is None else self._first
        self._seen += 1
        if self._fps is None:
            return (self._seen - 1) % self._stride == 0
        passed = (seconds - self._first + slack) * self._fps + 1e-6
        if passed < self._ticks:
            return False
        self._ticks = int(passed) + 1
        return True

    def past(self, seconds: float, slack: float) -> bool:
        """Whether a frame lies behind the end."""
        return seconds - (seconds if self._zero is None else self._zero) >= self._to - slack


_Shown = tuple[int, float, float, bool, Callable[[], Tensor]]
"""Index, seconds, slack, concealed, and the picture once it is wanted: converting it costs as much as decoding."""


def _sampled(shown: Iterator[_Shown], path: Path, wanted: _Wanted) -> Iterator[VideoFrame]:
    index = -1
    try:
        for index, seconds, slack, concealed, picture in shown:
            if wanted.past(seconds, slack):
                break
            if wanted(seconds, slack):
                yield VideoFrame(picture(), seconds, index, concealed)
    finally:
        shown.close()  # type: ignore[attr-defined]
    if index < 0:
        raise InputError(f"{path} holds no video frame.")


def _animated(path: Path, size: int | tuple[int, int] | None) -> Iterator[_Shown]:
    for index, (image, seconds) in enumerate(read_animation(path)):
        yield index, seconds, 1e-3 / 2, False, lambda image=image: to_uint8(image, size)  # type: ignore[misc]


def _decoded(path: Path, size: int | tuple[int, int] | None, entry: Entry) -> Iterator[_Shown]:
    with VideoFile(path, threads=0) as video:
        frames = video.frames(entry)
        first = next(frames, None)
        # Some streams are refreshed little by little: what is marked as a key frame is then not shown at once.
        entered = entry.key is None or (first is not None and first.packet == entry.key)
        shown = chain([first], frames) if entered and first is not None else ()
        try:
            for index, frame in enumerate(shown, entry.frames):
                yield (
                    index,
                    float(frame.ticks * video.tick),
                    video.slack,
                    frame.concealed,
                    lambda frame=frame: upright(frame.picture, size),  # type: ignore[misc]
                )
        finally:
            if entered:
                video.warn()
    if not entered:
        yield from _decoded(path, size, Entry())
