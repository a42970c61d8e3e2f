"""Reading videos: which frames, in what order and when, which way up, which are damaged (PyAV, extra ``video``).

Inference, training and preparation all read through this module, and so agree on every one of these."""

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.checks import check_integer, is_integer, is_number, is_size
from midway_zoo.errors import InputError, MissingExtraError, MissingFileError
from midway_zoo.extras import install_command
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, read_animation
from midway_zoo.inference.images import scaled_size, to_uint8
from midway_zoo.inference.video_order import Damage, DecodedFrame, Follower

_logger = logging.getLogger(__name__)

_BT709, _UNSAID, _BT601 = 1, 2, 5  # codes of colour matrices
_TIMELESS = {"avi"}
"""Containers that only say when a frame is decoded, though FFmpeg makes up presentation times for them."""


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
        start: seconds from the video's first frame; earlier frames are left out.
        end: seconds from the video's first frame; frames from there on are left out.
        size: None keeps the pixels; an int scales to this shorter side, (height, width) to exactly that.

    Returns:
        An iterator of :class:`VideoFrame`, decoded as they are asked for.

    Raises:
        MissingExtraError: if PyAV is not installed.
        MissingFileError: if there is no such file.
        InputError: if it has no decodable video, or an argument makes no sense.
    """
    check_sampling(stride, fps)
    _check_window(start, end)
    _check_size(size)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a video.")
    if not path.is_file():
        raise MissingFileError(f"there is no video {path}.")
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        shown = _animated(path, size)
    else:
        import_av()
        shown = _decoded(path, size)
    return _sampled(shown, path, _Wanted(stride, fps, start, end))


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
    if size is not None and not is_integer(size, 1) and not is_size(size):
        raise InputError(f"size={size!r}: None, a shorter side in pixels or (height, width) is expected.")


def import_av() -> Any:
    """PyAV, or :class:`MissingExtraError`."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"videos need PyAV: {install_command('video')}") from error
    return av


# Which frames to take.


class _Wanted:
    """Says of frames in ascending order whether they are taken, and when there can be no more."""

    def __init__(self, stride: int, fps: float | None, start: float | None, end: float | None) -> None:
        self._stride, self._fps = stride, fps
        self._from, self._to = start or 0.0, float("inf") if end is None else end
        self._zero: float | None = None
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


_Shown = tuple[float, float, bool, Callable[[], Tensor]]
"""Seconds, slack, concealed, and the picture once it is wanted: converting it costs as much as decoding."""


def _sampled(shown: Iterator[_Shown], path: Path, wanted: _Wanted) -> Iterator[VideoFrame]:
    index = -1
    try:
        for index, (seconds, slack, concealed, picture) in enumerate(shown):
            if wanted.past(seconds, slack):
                break
            if wanted(seconds, slack):
                yield VideoFrame(picture(), seconds, index, concealed)
    finally:
        shown.close()  # type: ignore[attr-defined]
    if index < 0:
        raise InputError(f"{path} holds no video frame.")


def _animated(path: Path, size: int | tuple[int, int] | None) -> Iterator[_Shown]:
    for image, seconds in read_animation(path):
        yield seconds, 1e-3 / 2, False, lambda image=image: to_uint8(image, size)  # type: ignore[misc]


def _decoded(path: Path, size: int | tuple[int, int] | None) -> Iterator[_Shown]:
    with VideoFile(path, threads=0) as video:
        try:
            for frame in video.frames():
                yield (
                    float(frame.ticks * video.tick),
                    float(video.tick) / 2,
                    frame.concealed,
                    lambda frame=frame: upright(frame.picture, size),  # type: ignore[misc]
                )
        finally:
            video.warn()


# What a file says.


class UnreadableVideoError(InputError):
    """A file that is no video, or one that nothing can be read of."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}.")
        self.reason = reason


class VideoFile:
    """A video that is open: the stream that players show, never a cover picture. A context manager.

    Args:
        path: of the file.
        threads: of the decoder; 0 lets FFmpeg choose. Frames are the same for any number.

    Raises:
        MissingExtraError: if PyAV is not installed.
        InputError: on entering, if the file cannot be opened or has no video stream.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.path = path
        self.damage = Damage()
        self._threads = threads
        self._av = import_av()
        self._file: Any = None
        self._read = 0  # packets
        self._ended = False

    def __enter__(self) -> "VideoFile":
        with self._errors():
            self._container = self._open()
            try:
                self._choose_stream()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()
        if self._file is not None:
            self._file.close()

    def _open(self) -> Any:
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # FFmpeg takes names in UTF-8 only
            self._file = self.path.open("rb")
            return self._av.open(self._file)
        return self._av.open(str(self.path))

    def _choose_stream(self) -> None:
        streams, kinds = self._container.streams.video, self._av.stream.Disposition
        moving = [one for one in streams if not one.disposition & kinds.attached_pic]
        if not moving:
            raise UnreadableVideoError(self.path, "has no video stream" + (", only a cover" if streams else ""))
        # Of several the first that is marked as the default, so that a preview before it is not taken for the film.
        self.stream = stream = next((one for one in moving if one.disposition & kinds.default), moving[0])
        # Not by frames: threads of frames report damage late, and then not of every frame.
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = self._threads
        rates = [stream.average_rate, stream.guessed_rate]
        # Of a raw stream the average is FFmpeg's default, the guess is what the stream itself says.
        raw = stream.start_time is None and stream.duration is None and self._container.duration is None
        self.rate = next((Fraction(rate) for rate in (rates[::-1] if raw else rates) if rate), Fraction(25))
        """Frames per second, on average."""
        self.tick = Fraction(stream.time_base) if stream.time_base else 1 / self.rate
        """Seconds."""
        self.timeless = self._container.format.name in _TIMELESS
        """The container does not know when frames are shown."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._undecodable(error) from error

    def _undecodable(self, error: Exception) -> UnreadableVideoError:
        return UnreadableVideoError(self.path, f"cannot be decoded as video: it is corrupt, or no video ({error})")

    @property
    def container_seconds(self) -> float:
        """How long the container says that it is, in its own units of a microsecond; 0 where it does not say."""
        return float(self._container.duration or 0) / 1e6

    @property
    def step(self) -> int:
        """Ticks from frame to frame at the average rate."""
        return max(1, round(1 / (self.rate * self.tick)))

    @property
    def reorders(self) -> bool:
        """Whether frames are shown in another order than they are stored in."""
        return bool(self.stream.codec_context.has_b_frames)

    def seek(self, ticks: int) -> None:
        """Go on at the last key frame at or before a time (of packets)."""
        with self._errors():
            if self._met_damage():  # FFmpeg's decoders keep traces of it, also over a seek
                self.__exit__()
                self._container = self._open()
                self._choose_stream()
            self._container.seek(ticks, stream=self.stream, backward=True, any_frame=False)

    def _met_damage(self) -> bool:
        if self.damage.at is not None:
            return True
        try:  # what the decoder holds back may be damaged too
            return any(picture.is_corrupt for picture in self.stream.codec_context.decode(None))
        except (self._av.FFmpegError, ValueError):
            return True

    def time_of(self, packet: Any) -> int | None:
        """Ticks that tell a packet from the others; None in raw streams, which have no times."""
        time: int | None = packet.dts if self.timeless or packet.pts is None else packet.pts
        return time

    def packets(self) -> Iterator[Any]:
        """PyAV's packets from where the file stands, to its end or to where it cannot be read on.

        Raises:
            InputError: if not even the first can be read.
        """
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (self._av.FFmpegError, OSError) as error:
                if not self._read:
                    raise self._undecodable(error) from error
                self.damage.broken_off = True
                packet = None
            if packet is None:
                self._ended = True
                return
            if packet.size:
                self._read += 1
                self.damage.broken_off |= packet.is_corrupt
                time = self.time_of(packet)
                if time is not None:
                    until = float((time + (packet.duration or 0)) * self.tick)
                    self.damage.reached = max(self.damage.reached, until)
            yield packet

    def frames(self) -> Iterator[DecodedFrame]:
        """Frames from where the file stands, in the order in which they are shown.

        A frame is concealed if it is damaged, or one that was decoded before it since its key frame. Frames wait
        until all that were decoded before them have come, so that this is known.
        """
        follower = Follower(self.tick, self.step, self.damage, timeless=self.timeless)
        for packet in self.packets():
            number = follower.enter(packet, self.time_of(packet))
            try:
                pictures = packet.decode()
            except (self._av.FFmpegError, ValueError):
                follower.lose(number)
                continue
            if packet.is_corrupt:
                follower.spoil(number)
            for picture in pictures:
                yield from follower.leave(picture)
        yield from follower.rest()

    def missing_seconds(self) -> float:
        """How much longer the container says the video is than what was read; 0 where it does not say."""
        container, stream = self._container.format.name, self.stream
        if self.timeless:
            return max(0.0, float((stream.frames - self._read) / self.rate))
        said = 0.0
        if "matroska" in container:
            said = _clock_seconds(stream.metadata.get("DURATION", ""))
        elif "mov" in container and stream.duration:
            said = float((stream.duration + (stream.start_time or 0)) * self.tick)
        missing = said - self.damage.reached
        return missing if missing > 1.5 * float(self.step * self.tick) else 0.0

    def warn(self) -> None:
        """Log one warning of the damage that was met."""
        text = self.damage.describe(self.missing_seconds() if self._ended else 0.0)
        if text:
            _logger.warning("%s %s. What could be read is used; get the file again for the rest.", self.path, text)


def _clock_seconds(text: str) -> float:
    """Seconds of a time such as 00:00:01.200000000; 0 if it is none."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


# Pictures.


def upright(picture: Any, size: int | tuple[int, int] | None = None, *, enlarge: bool = True) -> Tensor:
    """A decoded frame as uint8 (3, H, W), RGB, turned and mirrored as its display matrix says.

    Args:
        picture: PyAV's frame; its colours are read by its own matrix and range.
        size: None keeps the pixels; an int is the shorter side, (height, width) exactly that, both of the upright
            picture.
        enlarge: whether ``size`` may make it larger.
    """
    transposed, down, right = orientation(picture)
    stored = (picture.height, picture.width)
    wanted = _fitting(stored[::-1] if transposed else stored, size, enlarge)
    height, width = wanted[::-1] if transposed else wanted
    scaling: dict[str, Any] = {"height": height, "width": width, "interpolation": "BICUBIC"}
    scaling = {} if (height, width) == stored else scaling
    # One thread: a converter's own threads die in a forked worker, which then crashes when it is freed.
    if picture.colorspace == _UNSAID:
        scaling["src_colorspace"] = colour_matrix(picture)
    image = torch.from_numpy(picture.reformat(format="rgb24", threads=1, **scaling).to_ndarray()).permute(2, 0, 1)
    if transposed:
        image = image.transpose(1, 2)
    return image.flip([axis for axis, flipped in ((1, down), (2, right)) if flipped]).contiguous()


def colour_matrix(picture: Any) -> int:
    """H.273 code of a frame's YUV; where the file says none, what players take (FFmpeg takes BT.601 for HD too)."""
    if picture.colorspace != _UNSAID:
        return int(picture.colorspace)
    return _BT709 if picture.width >= 1280 or picture.height > 576 else _BT601


def orientation(picture: Any) -> tuple[bool, bool, bool]:
    """(transposed, then flipped top to bottom, then left to right): what brings a decoded frame upright.

    The nearest of the eight orientations to the display matrix, by which a stored point (x, y) is shown at
    (a x + c y, b x + d y); ISO/IEC 14496-12, 8.3.2.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _fitting(given: tuple[int, int], size: int | tuple[int, int] | None, enlarge: bool) -> tuple[int, int]:
    if size is None or isinstance(size, int):
        return scaled_size(*given, size, enlarge=enlarge)
    return size[0], size[1]
