"""Frames of a video, upright and with their times (PyAV, the ``video`` extra)."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError, MissingExtraError, MissingFileError


@dataclass(frozen=True)
class VideoFrame:
    """One decoded frame."""

    image: Tensor
    """(3, H, W) uint8, RGB, rotation flag applied."""
    pts_seconds: float
    """Presentation time."""
    index: int
    """Position in the file, from 0."""


def read_video(path: str | PathLike[str], *, stride: int = 1, fps: float | None = None) -> Iterator[VideoFrame]:
    """Decode a video frame by frame, in bounded memory.

    Args:
        path: anything FFmpeg decodes.
        stride: take frames 0, stride, 2 * stride, ...
        fps: instead, take the first frame at or after each tick of 1 / fps seconds from the start; a
            video with fewer frames per second gives each of its frames once.

    Raises:
        MissingExtraError: if PyAV is not installed.
        MissingFileError: if there is no such file.
        InputError: if it has no decodable video, or stride or fps make no sense.
    """
    check_sampling(stride, fps)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a video.")
    if not path.is_file():
        raise MissingFileError(f"there is no video {path}.")
    import_av()
    return _decode(path, stride, fps)


def check_sampling(stride: int, fps: float | None) -> None:
    """Raise :class:`InputError` unless stride is a positive integer and fps, if given, stands alone."""
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise InputError(f"stride={stride!r}: a positive integer is expected.")
    if fps is None:
        return
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise InputError(f"fps={fps!r}: a positive number of frames per second is expected.")
    if stride != 1:
        raise InputError(f"pass stride={stride} or fps={fps}, not both.")


def _decode(path: Path, stride: int, fps: float | None) -> Iterator[VideoFrame]:
    av = import_av()
    taken, ticks = 0, 0
    start: float | None = None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 25)
            for index, frame in enumerate(_frames(container, stream, path)):
                seconds = index / rate if frame.time is None else float(frame.time)
                start = seconds if start is None else start
                if fps is None:
                    if index % stride:
                        continue
                else:
                    # Containers round times to their time base; half of it keeps a frame on its tick.
                    passed = (seconds - start + float(stream.time_base) / 2) * fps + 1e-6
                    if passed < ticks:
                        continue
                    ticks = int(passed) + 1
                taken += 1
                yield VideoFrame(_upright(frame), seconds, index)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be decoded as video: {error}.") from error
    if not taken:
        raise InputError(f"{path} holds no video frame.")


def _frames(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Decoded frames; a file that breaks off is an error, not a shorter clip."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise InputError(f"{path} is damaged or breaks off in the middle of a frame. Get the file again.")
        yield from packet.decode()


def _upright(frame: Any) -> Tensor:
    image = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    # The display matrix says by how many degrees to turn the picture counter-clockwise.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return torch.rot90(image, turns, (1, 2)).contiguous()


def import_av() -> Any:
    """PyAV, or :class:`MissingExtraError`."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("reading videos needs PyAV: pip install 'midway-zoo[video]'") from error
    return av
