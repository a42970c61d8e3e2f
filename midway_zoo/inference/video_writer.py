"""Frames to a video file (PyAV, the ``video`` extra)."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError
from midway_zoo.files import atomic
from midway_zoo.inference.video_file import import_av

_TICK = Fraction(1, 60000)
"""Seconds: the usual rates divide it, and MPEG-4 keeps the denominator in 16 bits."""


@dataclass(frozen=True)
class Colours:
    """How a video's numbers become colours, by the codes of ITU-T H.273."""

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    full_range: bool = False

    @property
    def range(self) -> int:
        """FFmpeg's number of the range."""
        return 2 if self.full_range else 1


class VideoWriter:
    """An mp4 that is written frame by frame. A context manager; leaving it by an error leaves the file unfinished.

    Args:
        path: of the file, which is replaced.
        rate: frames per second on average.
        tick: seconds of the times.
        colours: what the frames' numbers mean; written into the file.
        options: of the encoder.
        threads: of the encoder; 0 lets FFmpeg choose.
        metadata: written into the file as its comment, as JSON.
    """

    def __init__(
        self,
        path: Path,
        *,
        rate: Fraction,
        tick: Fraction = _TICK,
        colours: Colours | None = None,
        options: Mapping[str, str] | None = None,
        threads: int = 0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.colours = colours or Colours()
        self._av = import_av()
        self._rate, self._tick, self._threads = rate, tick, threads
        # No B-frames: no frame waits for later ones, and the last to be stored is the last to be shown.
        self._options = {"bf": "0", **(options or {})}
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        if metadata is not None:
            self._container.metadata["comment"] = json.dumps(metadata, sort_keys=True)
        self._stream: Any = None
        self._durations: dict[int, int] = {}
        self._offset = 0
        self.frames = 0
        """Written so far."""

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, picture: Any, ticks: int, duration: int = 0) -> None:
        """Write a PyAV frame (yuv420p, even sides, all of one size) to be shown at a time."""
        if self._stream is None:
            self._stream = self._start(picture.height, picture.width)
            self._offset = max(0, -ticks)  # players and FFmpeg leave out what an mp4 shows before its zero
        ticks += self._offset
        picture.pts, picture.time_base = ticks, self._tick
        picture.pict_type = self._av.video.frame.PictureType.NONE
        self._durations[ticks] = duration
        self._mux(self._stream.encode(picture))
        self.frames += 1

    def add_rgb(self, image: Tensor, ticks: int, duration: int = 0) -> None:
        """Write a uint8 image (3, H, W); an odd side is padded by one pixel."""
        height, width = image.shape[1:]
        even = F.pad(image[None].float(), (0, width % 2, 0, height % 2), mode="replicate")[0].to(image.dtype)
        pixels = even.permute(1, 2, 0).contiguous().cpu().numpy()
        picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        to = {"dst_colorspace": self.colours.matrix, "dst_color_range": self.colours.range}
        self.add(picture.reformat(format="yuv420p", threads=1, **to), ticks, duration)

    def _start(self, height: int, width: int) -> Any:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=self._rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.time_base, context.thread_count = self._tick, self._threads
        context.colorspace, context.color_range = self.colours.matrix, self.colours.range
        context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer
        context.options = self._options
        return stream

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            self._container.mux(packet)


class TimedWriter:
    """A :class:`VideoWriter` of RGB frames with times in seconds; the first frame begins the video.

    Args:
        path: of the file, which is replaced.
        rate: frames per second on average, a hint for the encoder.
        metadata: as of :class:`VideoWriter`.
    """

    def __init__(self, path: Path, *, rate: Fraction = Fraction(25), metadata: Mapping[str, Any] | None = None) -> None:
        self._writer = VideoWriter(path, rate=rate, metadata=metadata)
        self._size: Any = None
        self._zero, self._last = 0.0, -1

    @property
    def frames(self) -> int:
        """Written so far."""
        return self._writer.frames

    def __enter__(self) -> "TimedWriter":
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._writer.__exit__(kind, *rest)

    def add(self, frame: Tensor, start: float, stop: float) -> None:
        """Write uint8 (3, H, W), shown from ``start`` to ``stop`` seconds.

        Raises:
            InputError: for another size than before, or times that do not ascend.
        """
        self._zero = float(start) if self._size is None else self._zero
        self._size = frame.shape if self._size is None else self._size
        if frame.shape != self._size:
            raise InputError(f"frame {self.frames} has {tuple(frame.shape)}; all must have one size.")
        ticks, until = (round((float(seconds) - self._zero) / _TICK) for seconds in (start, stop))
        if not self._last < ticks < until:
            raise InputError(f"frame {self.frames} is shown from {start} to {stop} s; times must ascend.")
        self._writer.add_rgb(frame, ticks, until - ticks)
        self._last = ticks


def write_video(
    path: Path,
    frames: Iterable[Tensor] | Iterable[tuple[Tensor, float, float]],
    *,
    fps: float | None = None,
    overwrite: bool = False,
) -> int:
    """Write an mp4, frame by frame, in bounded memory.

    H.264 where this PyAV has its encoder, else MPEG-4. An odd side is padded by one pixel, as both need even ones.

    Args:
        path: the file.
        frames: with ``fps``, uint8 (3, H, W), RGB, all of one size; without, each with the seconds from and to which
            it is shown, ascending. Times are kept to 1/60000 s; the first frame begins the video.
        fps: frames per second.
        overwrite: replace an existing file.

    Returns:
        The number of frames.

    Raises:
        MissingExtraError: if PyAV is not installed.
        InputError: if there is no frame, sizes differ, or times or fps make no sense.
        OutputExistsError: if the file exists and ``overwrite`` is false.
    """
    import_av()
    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"fps={fps!r}: a positive number of frames per second is expected.")
    rate = Fraction(fps if fps is not None else 25).limit_denominator(1001)
    with atomic(path, overwrite=overwrite) as temporary, TimedWriter(temporary, rate=rate) as writer:
        for number, given in enumerate(frames):
            writer.add(*(given if isinstance(given, tuple) else (given, number / rate, (number + 1) / rate)))
        if not writer.frames:
            raise InputError(f"there are no frames to write to {path.name}.")
    return writer.frames
