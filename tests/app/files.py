"""Files as visitors drop them."""

import struct
import zlib
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor


def frames(count: int = 2, height: int = 48, width: int = 64) -> Tensor:
    """(count, 3, height, width) uint8: a texture that moves to the right by 4 pixels a frame."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, height // 4, (width + 4 * count) // 4, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + 4 * count), mode="bilinear")[0]
    return torch.stack([(wide[:, :, 4 * (count - at) :][:, :, :width] * 255).byte() for at in range(count)])


def write_pictures(folder: Path, count: int = 2, *, names: str = "frame{}.png", **size: int) -> list[Path]:
    paths = [folder / names.format(index) for index in range(count)]
    for path, frame in zip(paths, frames(count, **size), strict=True):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
    return paths


CODECS = {".webm": "libvpx", ".mpg": "mpeg2video", ".wmv": "wmv2", ".flv": "flv1", ".avi": "mpeg4"}


def write_clip(path: Path, count: int = 6, fps: int = 5, **size: int) -> Path:
    """A video in the container of its ending."""
    with av.open(str(path), "w") as container:
        # MPEG-1 and 2 know the rates of television alone.
        rate = 25 if path.suffix == ".mpg" else fps
        stream = container.add_stream(CODECS.get(path.suffix, "libx264"), rate=rate)
        pictures = frames(count, **size)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[2:], "yuv420p"
        for picture in pictures.repeat_interleave(rate // fps, 0):
            image = picture.permute(1, 2, 0).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_bomb(path: Path, side: int) -> Path:
    """A PNG of ``side`` x ``side`` black pixels in a few kilobytes a thousand lines."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    line = b"\0" * (1 + side // 8)
    data = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path
