"""Files of every flow format, written byte by byte."""

import struct
import zlib
from io import BytesIO
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")
SUFFIXES = [".flo", ".npy", ".pfm", ".flo5"]
"""Formats of 32-bit floats; KITTI's .png has tests of its own below."""


def flo(width: int, height: int, content: bytes = b"") -> bytes:
    return b"PIEH" + struct.pack("<ii", width, height) + content


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(text: str, content: bytes = b"") -> bytes:
    """A version 1.0 file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + content


def header(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def some_flow(height: int = 4, width: int = 5) -> Tensor:
    return torch.randn(2, height, width) * 30


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, raw: bytes, *, bits: int = 16, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG with given filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pfm(header: str, content: bytes = b"") -> bytes:
    return header.encode() + content


def flo5(make: Any) -> bytes:
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        make(file)
    return buffer.getvalue()
