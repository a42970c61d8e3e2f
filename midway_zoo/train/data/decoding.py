"""The wanted frames of a video in one ordered pass: one open, few seeks, no pixel work on other frames."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.train.data.sources import scaled_size

_OPEN_OPTIONS = {"probesize": "500000", "analyzeduration": "1000000"}
_SEEK_TRIES = 4


def import_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("training on video needs PyAV: pip install 'midway-zoo[train]'") from error
    return av


def frame_time(frame: Any) -> int | None:
    """Presentation time of a frame or packet in ticks; AVI and the like only say when it is decoded."""
    return frame.pts if frame.pts is not None else frame.dts


def upright(frame: Any, short_side: int | None = None) -> Tensor:
    """A decoded frame as uint8 (3, H, W), RGB, rotation flag applied, shorter side at most ``short_side``."""
    height, width = scaled_size(frame.height, frame.width, short_side)
    # One thread: a converter's own threads die in a forked worker, which then crashes when it is freed.
    size = {} if (height, width) == (frame.height, frame.width) else {"height": height, "width": width}
    frame = frame.reformat(format="rgb24", interpolation="BICUBIC" if size else None, threads=1, **size)
    image = torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)
    # The display matrix says by how many degrees to turn the picture counter-clockwise.
    return torch.rot90(image, quarter_turns(frame), (1, 2)).contiguous()


def quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that bring a frame upright."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def read_frames(
    path: Path,
    pts: Sequence[float],
    *,
    keyframes: Sequence[float],
    tolerance: float,
    short_side: int | None = None,
    threads: int = 1,
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Decode the frames at the given times.

    The file is opened once and the frames are decoded in the order of their times. It seeks only where
    a keyframe lies between the last decoded frame and the next wanted one, otherwise it decodes on.
    Whether a frame can be read depends on the frames since its own keyframe alone, never on which others
    were asked for.

    Args:
        path: of the video.
        pts: wanted presentation times in ticks of the stream's time base.
        keyframes: times of the keyframes, ascending.
        tolerance: in ticks, less than half the distance between frames.
        short_side: frames are scaled down to this shorter side, in pixels; None keeps their size.
        threads: of the decoder.

    Returns:
        (frames by position in ``pts``, uint8 (3, H, W); reasons by position for those that cannot be read).

    Raises:
        InputError: if the file cannot be opened or has no video stream.
    """
    av = import_av()
    try:
        with av.open(str(path), options=_OPEN_OPTIONS) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            reader = _OrderedReader(av, container, stream, keyframes, sorted(set(pts)), tolerance)
            images: dict[float, Tensor] = {}
            failed: dict[float, str] = {}
            for wanted in reader.wanted:
                try:
                    images[wanted] = upright(reader.frame_at(wanted), short_side)
                except (av.FFmpegError, OSError, ValueError) as error:
                    failed[wanted] = f"frame at {float(wanted * stream.time_base):.3f} s: {error}"
                    reader.lose_place()
            reader.close()
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be decoded as video: {error}.") from error
    return (
        {position: images[time] for position, time in enumerate(pts) if time in images},
        {position: failed[time] for position, time in enumerate(pts) if time in failed},
    )


class _OrderedReader:
    """A decoder that moves forward through ascending times."""

    def __init__(
        self, av: Any, container: Any, stream: Any, keyframes: Sequence[float], wanted: list[float], tolerance: float
    ) -> None:
        self.wanted = wanted
        self._relevant = wanted
        self._av = av
        self._container = container
        self._stream = stream
        self._keyframes = keyframes
        self._tolerance = tolerance
        self._frames: Iterator[Any] | None = None
        self._last: float | None = None

    def close(self) -> None:
        """Let go of the decoder: reader and generator refer to each other."""
        self._frames = None

    def lose_place(self) -> None:
        """Seek before the next frame: what follows damage must not depend on having passed it."""
        self._last = None

    def frame_at(self, wanted: float) -> Any:
        """The frame at a time; its keyframe is sought first if it lies ahead."""
        try:
            if self._last is not None and self._key_of(wanted) <= self._last:
                found = self._advance(wanted)
                if found is not None:
                    return found
            return self._sought(wanted)
        except (self._av.FFmpegError, InputError):
            # The damage may lie in a frame that only another wanted one needs: try as if it were alone.
            self._relevant = [wanted]
            try:
                return self._sought(wanted)
            finally:
                self._relevant = self.wanted
                self.lose_place()

    def _sought(self, wanted: float) -> Any:
        key = max(bisect_right(self._keyframes, wanted + self._tolerance) - 1, 0)
        for attempt in range(_SEEK_TRIES):
            # Some containers land behind the keyframe that was asked for: go for earlier and earlier ones.
            self._seek(0 if attempt == _SEEK_TRIES - 1 else max(key + 1 - 2**attempt, 0))
            found = self._advance(wanted)
            if found is not None:
                return found
        raise InputError("the index names it, the file does not have it")

    def _key_of(self, wanted: float) -> float:
        key = bisect_right(self._keyframes, wanted + self._tolerance) - 1
        return self._keyframes[key] if key >= 0 else -math.inf

    def _seek(self, key: int) -> None:
        if key == 0 and self._frames is None:
            self._frames = self._decoded()
            return
        target = self._keyframes[key] if self._keyframes else 0
        self._container.seek(round(target), stream=self._stream, backward=True, any_frame=False)
        self._frames = self._decoded()

    def _advance(self, wanted: float) -> Any | None:
        """The frame at a time, or None if the decoder is past it."""
        assert self._frames is not None
        for frame in self._frames:
            time = frame_time(frame)
            if time is None:
                continue
            self._last = time
            if time >= wanted - self._tolerance:
                if time > wanted + self._tolerance:
                    return None
                if frame.is_corrupt:
                    raise InputError("it is damaged")
                return frame
        return None

    def _decoded(self) -> Iterator[Any]:
        """Decoded frames from here on; frames that none refers to and none wants are not even decoded."""
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise InputError("the file is damaged or breaks off there")
            context.skip_frame = "DEFAULT" if self._is_wanted(packet) else "NONREF"
            yield from packet.decode()

    def _is_wanted(self, packet: Any) -> bool:
        time = packet.pts
        if time is None:
            return True
        place = bisect_left(self._relevant, time - self._tolerance)
        return place < len(self._relevant) and self._relevant[place] <= time + self._tolerance
