"""Small videos as cameras, editors and broken downloads make them; each frame's grey level says which it is."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

STEP = 6
"""Grey levels between neighbouring frames, more than a codec's error."""
HEIGHT, WIDTH = 48, 64


def grey(index: int, *, noise: bool = False) -> np.ndarray:
    """Frame ``index``; ``noise`` in its upper half makes packets large enough to damage."""
    image = np.full((HEIGHT, WIDTH, 3), STEP * index, np.uint8)
    if noise:
        random = np.random.default_rng(index)
        image[: HEIGHT // 2] = random.integers(0, 256, (HEIGHT // 2, WIDTH, 3))
    return image


def level(image: Tensor) -> int:
    """Which :func:`grey` frame a picture (3, H, W) shows."""
    return round(float(image[:, 2 * image.shape[1] // 3 :].float().mean()) / STEP)


def write(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int | Fraction = 20,
    bframes: int = 0,
    gop: int = 8,
    pixels: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    matrix: int | None = None,
    full_range: bool | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    further: dict[str, str] | None = None,
) -> Path:
    """Encode RGB images. ``matrix`` (ITU-T H.273) and ``full_range`` are converted to and written as tags; ``options``
    are the container's, ``further`` the encoder's."""
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.thread_count = 1
        if codec == "libx264":
            keys = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "preset": "ultrafast", "crf": "6"}
            context.options = {**keys, "bf": str(bframes), "b_strategy": "0", **(further or {})}
        elif codec in ("mpeg4", "mpeg2video"):
            context.options = {
                "g": str(gop),
                "bf": str(bframes),
                "sc_threshold": "1000000000",
                "qmin": "1",
                "qmax": "2",
            }
        if milliseconds is not None:
            context.time_base = Fraction(1, 1000)
        if matrix is not None:
            context.colorspace = matrix
        if full_range is not None:
            context.color_range = 2 if full_range else 1
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range=None if full_range is None else 1 + full_range
            )
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def packets(path: Path) -> list[tuple[int, bytes, bool]]:
    """(presentation time, content, key) of the packets, in the order in which they are stored."""
    with av.open(str(path)) as file:
        found = file.demux(file.streams.video[0])
        return [(packet.pts, bytes(packet), packet.is_keyframe) for packet in found if packet.size]


def damage_packet(path: Path, number: int) -> None:
    """Flip the bits of the middle third of a stored packet."""
    content = bytearray(path.read_bytes())
    data = packets(path)[number][1]
    start = content.index(data) + len(data) // 3
    for place in range(start, start + len(data) // 3):
        content[place] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file, as a download that stopped."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def with_sound(path: Path, images: Sequence[np.ndarray], rate: int = 20) -> Path:
    """As a phone that streams records: one fragment, in which the sound is stored behind the pictures."""
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as file:
        video, sound = file.add_stream("libx264", rate=rate), file.add_stream("aac", rate=16000)
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt, sound.layout = "yuv420p", "mono"
        video.codec_context.options = {"g": "1000", "bf": "0", "preset": "ultrafast", "crf": "6"}
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            file.mux(video.encode(frame))
        for start in range(0, 16000 * len(images) // rate - 1023, 1024):
            tone = np.random.default_rng(start).normal(0, 0.1, (1, 1024)).astype(np.float32)
            piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16000, start, Fraction(1, 16000)
            file.mux(sound.encode(piece))
        file.mux(video.encode())
        file.mux(sound.encode())
    return path
