"""A video file that is open: its stream, packets and frames in order, damage, display matrix and colours (PyAV).

The only module that opens videos. :func:`~midway_zoo.inference.video.read_video`, training and preparation read through
it, and so agree on which frames there are, in what order and when, which way up, and which are damaged."""

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.inference.image_files import scaled_size
from midway_zoo.inference.images import convert_hint
from midway_zoo.inference.video_end import ends_with_boundary, is_whole_avi, lacks_index
from midway_zoo.inference.video_order import Damage, DecodedFrame, Entry, Follower
from midway_zoo.reading import stand_in

_logger = logging.getLogger(__name__)

_BT709, _UNSAID, _BT601 = 1, 2, 5  # codes of colour matrices
_COUNTED = 2  # ticks from frame to frame, of containers that count frames or fields (AVI, Ogg, Y4M)
_TIMELESS = {"asf", "avi"}
"""Containers that only say when a frame is decoded, though FFmpeg makes up presentation times for them."""


def import_av() -> Any:
    """PyAV, or :class:`MissingExtraError`."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"videos need PyAV: {install_command('video')}") from error
    return av


class UnreadableVideoError(InputError):
    """A file that is not a video, or one of which nothing can be read."""

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
        self.timeless = False
        """The container does not know when frames are shown. Known once the first packet is read."""
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
        if stream.codec_context is None:
            reason = "holds a video of a codec that is not known here, or ends before it says which"
            raise UnreadableVideoError(self.path, reason)
        for other in self._container.streams:  # not read at all: sound that is cut off hides no frames behind it
            if other is not stream and hasattr(self._av.stream, "Discard"):  # PyAV 18
                other.discard = self._av.stream.Discard.all
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
        interval = 1 / (self.rate * self.tick)
        counted = interval.denominator == 1 and interval <= _COUNTED
        self.slack = 0.0 if counted else float(self.tick) / 2
        """Seconds by which a time may be rounded to ticks; none where frames are what is counted."""
        self.timeless |= self._container.format.name in _TIMELESS
        self.has_palette = stream.codec_context.pix_fmt == "pal8"
        """Colours are in a table that only the file's first packet brings."""
        self.linear = self.has_palette or self._container.format.name == "mxf"
        """Read from its start alone: in MXF whose index is missing, as in one that was cut off, FFmpeg guesses where to
        go on, and gives the frames there the times of those that were asked for."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._undecodable(error) from error

    def _undecodable(self, error: Exception) -> UnreadableVideoError:
        if problem := stand_in(self.path):
            return UnreadableVideoError(self.path, problem.removesuffix("."))
        reason = "it is corrupt, or no video" + convert_hint(self.path)
        if lacks_index(self.path):
            reason = "its index (moov), which is written last, is missing: recording or download did not end"
        return UnreadableVideoError(self.path, f"cannot be decoded as video: {reason} ({error})")

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
        """Go on at the last key frame at or before a time (of packets), or at the first where that would be wrong."""
        with self._errors():
            if self.linear or self._met_damage():  # FFmpeg's decoders keep traces of it, also over a seek
                self._reopen()
            if self.linear:
                return
            try:
                self._container.seek(ticks, stream=self.stream, backward=True, any_frame=False)
            except self._av.FFmpegError:  # not every container can
                self._reopen()

    def rewind(self) -> None:
        """Go on at the file's first packet."""
        with self._errors():
            self._reopen()

    def _reopen(self) -> None:
        self.__exit__()
        self._container = self._open()
        self._choose_stream()

    def _met_damage(self) -> bool:
        if self.damage.at is not None:
            return True
        try:  # what the decoder holds back may be damaged too
            return any(picture.is_corrupt for picture in self.stream.codec_context.decode(None))
        except (self._av.FFmpegError, ValueError):
            return True

    def has_time(self, packet: Any) -> bool:
        """Whether a packet's time is in the file. Of several frames in one packet of an MPEG stream only the first has
        one; FFmpeg guesses the others, and differently wherever reading begins."""
        guessed = "mpeg" in self._container.format.name and packet.pos is None
        return self.time_of(packet) is not None and not guessed

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
                # The closing line of a MIME stream is an error to FFmpeg.
                self.damage.broken_off = not (self._container.format.name == "mpjpeg" and ends_with_boundary(self.path))
                packet = None
            if packet is None:
                self._ended = True
                return
            if packet.size:
                self.timeless |= not self._read and self._packs(packet)
                self._read += 1
                self.damage.broken_off = packet.is_corrupt  # of the last one: others are gaps, as between recordings
                time = self.time_of(packet)
                ticks = self._read * self.step if time is None else time + (packet.duration or 0)
                self.damage.reached = max(self.damage.reached, float(ticks * self.tick))
            yield packet

    def _packs(self, packet: Any) -> bool:
        """Whether this is MPEG-4 with several frames in one packet and none in others, as DivX and XviD mark it."""
        if self.stream.codec_context.name != "mpeg4":
            return False
        content = (self.stream.codec_context.extradata or b"") + bytes(packet)
        return re.search(rb"\x00\x00\x01\xb2DivX[0-9]+(b|Build)[0-9]+p", content) is not None

    def frames(self, entry: Entry | None = None) -> Iterator[DecodedFrame]:
        """Frames from where the file stands, or from an entry on, in the order in which they are shown.

        A frame is concealed if it is damaged, or one that was decoded before it since its key frame. Frames wait
        until all that were decoded before them have come, so that this is known.
        """
        follower = Follower(self.tick, self.step, self.damage)
        for packet in self.packets() if entry is None else self._packets_from(entry):
            number = follower.enter(packet, self.time_of(packet), timeless=self.timeless)
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

    def _packets_from(self, entry: Entry) -> Iterator[Any]:
        before, leading = entry.packets, entry.key is not None
        for packet in self.packets():
            if before and packet.size:
                before -= 1
                continue
            time = self.time_of(packet) if packet.size and leading else None
            if time is not None and entry.key is not None:
                leading = time <= entry.key
                if time < entry.key:
                    continue
            yield packet

    def missing_seconds(self) -> float:
        """How much longer the container says the video is than what was read; 0 where it does not say."""
        container, stream = self._container.format.name, self.stream
        said = 0.0
        if "matroska" in container:
            said = _clock_seconds(stream.metadata.get("DURATION", ""))
        elif ("mov" in container or container == "mxf") and stream.duration:
            said = float((stream.duration + (stream.start_time or 0)) * self.tick)
        elif container == "avi" and stream.frames and not is_whole_avi(self.path):
            said = float(stream.frames / self.rate)  # also those that only say that the one before is shown longer
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
    if not isinstance(size, tuple | list):
        return scaled_size(*given, size, enlarge=enlarge)
    return size[0], size[1]
