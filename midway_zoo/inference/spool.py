"""Tables of tensors that grow row by row, in bounded memory: kept on disk, then written as one file."""

import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from midway_zoo.files import atomic
from midway_zoo.reading import METADATA_KEY

SUFFIXES = (".safetensors", ".npz")
_TYPES = {
    torch.float64: ("F64", "<f8"),
    torch.float32: ("F32", "<f4"),
    torch.float16: ("F16", "<f2"),
    torch.bfloat16: ("BF16", ""),
    torch.int64: ("I64", "<i8"),
    torch.uint8: ("U8", "|u1"),
    torch.bool: ("BOOL", "|b1"),
}
_Entry = tuple[str, torch.dtype, tuple[int, ...], Path, int, int]
"""Name, dtype, shape, and the file, offset and bytes of the values."""


class TensorSpool:
    """Named tensors to which rows are added. A context manager that removes what it kept on disk.

    Rows of one shape become one tensor (N, ...), rows of different shapes ``name.0``, ``name.1``, ... each.

    Args:
        path: of the file to write; its ending says which kind: .safetensors, or .npz, which holds the metadata as a
            JSON text, ``metadata``, and bfloat16 as float32.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        self._files: dict[str, BinaryIO] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def __enter__(self) -> "TensorSpool":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, name: str, rows: "Tensor | list[Tensor]") -> None:
        """Add rows (n, ...), or a list of them of different shapes."""
        for row in rows:
            row = row.detach().cpu().contiguous()
            if row.dtype == torch.bfloat16 and self.path.suffix.lower() == ".npz":
                row = row.float()
            if name not in self._files:
                self._files[name] = (self._folder / str(len(self._files))).open("wb")
                self._dtypes[name], self._shapes[name] = row.dtype, []
            self._files[name].write(row.reshape(-1).view(torch.uint8).numpy().tobytes())
            self._shapes[name].append(tuple(row.shape))

    def write(self, metadata: Mapping[str, Any], *, rows: int | None = None, overwrite: bool = False) -> None:
        """Write the file, with the first ``rows`` of everything: an interruption may have left further ones torn."""
        for file in self._files.values():
            file.flush()
        with atomic(self.path, overwrite=overwrite) as temporary:
            writer = _write_npz if self.path.suffix.lower() == ".npz" else _write_safetensors
            writer(temporary, self._entries(rows), json.dumps(metadata, sort_keys=True))

    def describe(self, rows: int | None = None) -> str:
        """Names, types and shapes, for people."""
        shown = []
        for name, shapes in self._shapes.items():
            several = [len(shapes[:rows]), *shapes[0]] if len(set(shapes[:rows])) == 1 else "various shapes"
            shown.append(f"{name}={str(self._dtypes[name]).removeprefix('torch.')}{several}")
        return ", ".join(shown)

    def _entries(self, rows: int | None) -> list[_Entry]:
        entries: list[_Entry] = []
        for name, written in self._shapes.items():
            shapes = written[:rows]
            kind, path = self._dtypes[name], Path(self._files[name].name)
            sizes = [int(np.prod(shape, dtype=np.int64)) * kind.itemsize for shape in shapes]
            if len(set(shapes)) == 1:
                entries.append((name, kind, (len(shapes), *shapes[0]), path, 0, sum(sizes)))
                continue
            offset = 0
            for index, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
                entries.append((f"{name}.{index}", kind, shape, path, offset, size))
                offset += size
        return entries


def _copy(entry: _Entry, target: Any) -> None:
    *_, path, offset, left = entry
    with path.open("rb") as source:
        source.seek(offset)
        while left and (block := source.read(min(left, 2**22))):
            target.write(block)
            left -= len(block)


def _write_safetensors(path: Path, entries: list[_Entry], metadata: str) -> None:
    """The format is a length, a JSON header and the values; its own writer wants them all in memory."""
    # Wider types first, as its writer does, so that every tensor begins at a multiple of its own width.
    entries = sorted(entries, key=lambda entry: (-entry[1].itemsize, entry[0]))
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: metadata}}
    begin = 0
    for name, kind, shape, _, _, size in entries:
        header[name] = {"dtype": _TYPES[kind][0], "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            _copy(entry, file)


def _write_npz(path: Path, entries: list[_Entry], metadata: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for entry in entries:
            name, kind, shape, *_ = entry
            facts = {"descr": _TYPES[kind][1], "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, facts)
                _copy(entry, file)
        with archive.open("metadata.npy", "w") as file:
            np.lib.format.write_array(file, np.array(metadata), allow_pickle=False)
