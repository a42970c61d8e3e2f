"""Frames to a video file (PyAV, the ``video`` extra)."""

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError
from midway_zoo.files import atomic
from midway_zoo.inference.video import import_av


def write_video(path: Path, frames: Iterable[Tensor], *, fps: float, overwrite: bool = False) -> int:
    """Write an mp4, frame by frame, in bounded memory.

    H.264 where this PyAV has its encoder, else MPEG-4. An odd side is padded by one pixel, as both need even ones.

    Args:
        path: the file.
        frames: uint8 (3, H, W), RGB, all of one size.
        fps: frames per second.
        overwrite: replace an existing file.

    Returns:
        The number of frames.

    Raises:
        MissingExtraError: if PyAV is not installed.
        InputError: if there is no frame, sizes differ, or fps makes no sense.
        OutputExistsError: if the file exists and ``overwrite`` is false.
    """
    av = import_av()
    if not 0 < fps < math.inf:
        raise InputError(f"fps={fps!r}: a positive number of frames per second is expected.")
    written, size = 0, (0, 0)
    with atomic(path, overwrite=overwrite) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = None
        for frame in frames:
            even = _even(frame)
            if stream is None:
                size = (even.shape[1], even.shape[2])
                stream = _stream(av, container, fps, size)
            if (even.shape[1], even.shape[2]) != size:
                raise InputError(f"frame {written} has {tuple(frame.shape)}; all must have one size.")
            picture = av.VideoFrame.from_ndarray(even.permute(1, 2, 0).contiguous().cpu().numpy(), format="rgb24")
            container.mux(stream.encode(picture))
            written += 1
        if stream is None:
            raise InputError(f"there are no frames to write to {path.name}.")
        container.mux(stream.encode())
    return written


def _stream(av: Any, container: Any, fps: float, size: tuple[int, int]) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # MPEG-4 keeps the rate's parts in 16 bits; 1001 is the denominator of television's rates.
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    return stream


def _even(frame: Tensor) -> Tensor:
    height, width = frame.shape[1:]
    return F.pad(frame[None].float(), (0, width % 2, 0, height % 2), mode="replicate")[0].to(frame.dtype)
