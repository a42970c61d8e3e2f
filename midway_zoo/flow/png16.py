"""PNG with three channels of 16 bits, which Pillow would cut to 8 (ISO/IEC 15948).

torchvision's ``decode_png`` reads such files, but not those of strangers: damaged ones ended the process or were taken
(without their end), and it allocates what a header claims. With the checks below it would save only the row filters.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from midway_zoo.errors import InputError

MOST_COMPRESSED = 1040
"""Deflate expands a byte to at most 1032: a file that claims more is damaged, or made to fill the memory."""
_MAGIC = b"\x89PNG\r\n\x1a\n"
_PIXEL = 6  # bytes


def write_png16(path: Path, pixels: npt.NDArray[np.uint16]) -> None:
    """Write (H, W, 3) uint16."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, width * _PIXEL)
    filtered = np.full((height, 1 + width * _PIXEL), 2, np.uint8)  # 2: difference to the row above
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(filtered.tobytes(), 6)),
        (b"IEND", b""),
    )
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", _crc(kind, data)) for kind, data in chunks]
    path.write_bytes(_MAGIC + b"".join(parts))


def read_png16(path: Path) -> npt.NDArray[np.uint16]:
    """Read (H, W, 3) uint16.

    Raises:
        InputError: if the file is damaged, or no PNG of 3 x 16 bits that is not interlaced.
    """
    content = path.read_bytes()
    if not content.startswith(_MAGIC):
        raise InputError(f"{path.name} is not a PNG file.")
    header, packed = b"", []
    for kind, data in _chunks(content, path.name):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            packed.append(data)
    if len(header) != 13:
        raise InputError(f"{path.name} is a damaged PNG file: it has no header.")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if (depth, colour, interlaced) != (16, 2, 0):
        raise InputError(
            f"{path.name}: {depth} bits, colour type {colour}, interlace {interlaced}; KITTI flow is RGB (type 2) of "
            "16 bits, not interlaced. Is it a picture of a flow?"
        )
    size, given = height * (1 + width * _PIXEL), sum(map(len, packed))
    if min(width, height) < 1 or size > given * MOST_COMPRESSED:
        raise InputError(f"{path.name}: header says {width} x {height}, which its {given} bytes cannot hold.")
    unpack = zlib.decompressobj()
    try:
        raw = unpack.decompress(b"".join(packed), size)
    except zlib.error as error:
        raise InputError(f"{path.name} is a damaged PNG file: {error}.") from error
    if len(raw) != size:
        raise InputError(f"{path.name} is a damaged PNG file: it holds {len(raw)} of {size} bytes of pixels.")
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + width * _PIXEL)
    if rows[:, 0].max() > 4:
        raise InputError(f"{path.name} is a damaged PNG file: row filter {rows[:, 0].max()} does not exist.")
    return _unfilter(rows[:, 1:].reshape(height, width, _PIXEL), rows[:, 0]).view(">u2").astype(np.uint16)


def _chunks(content: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    place = len(_MAGIC)
    while place < len(content):
        start = content[place : place + 8]
        length = int.from_bytes(start[:4], "big")
        data = content[place + 8 : place + 8 + length]
        check = content[place + 8 + length : place + 12 + length]
        if len(check) < 4 or int.from_bytes(check, "big") != _crc(start[4:], data):
            raise InputError(f"{name} is a damaged PNG file: it breaks off, or a checksum is wrong.")
        yield start[4:], data
        if start[4:] == b"IEND":
            return
        place += 12 + length
    raise InputError(f"{name} is a damaged PNG file: it has no end.")


def _crc(kind: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(kind))


def _unfilter(rows: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the row filters of (H, W, bytes of a pixel).

    A pixel needs its left, upper and upper left neighbours, so one step handles the pixels of all rows on one
    diagonal (row + column constant): H + W steps of array work instead of a loop over pixels.
    """
    height, width, depth = rows.shape
    done = np.zeros((height + 1, width + 1, depth), np.int32)  # a border of zeros above and to the left
    kind = kinds.astype(np.int64)[:, None]
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        left, above, corner = done[y + 1, x], done[y, x + 1], done[y, x]
        guess = left + above - corner
        far_left, far_above, far_corner = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth: Any = np.where(far_above <= far_corner, above, corner)
        paeth = np.where((far_left <= far_above) & (far_left <= far_corner), left, paeth)
        predicted = np.choose(kind[y], [0, left, above, (left + above) // 2, paeth])
        done[y + 1, x + 1] = (rows[y, x] + predicted) & 255
    return np.ascontiguousarray(done[1:, 1:].astype(np.uint8))
