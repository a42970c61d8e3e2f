"""The zip that ``torch.save`` writes: its structure, and single tensors on request.

torch stores entries uncompressed, each with its CRC-32 in the central directory, so that one tensor can
be read and checked without the others.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from midway_zoo.errors import CheckpointError, MidwayZooError, MissingFileError, UnsafeFileError
from midway_zoo.reading import HEAD, stand_in_of
from midway_zoo.weights.pickles import StorageRef, TensorRef, safe_unpickle, short

MAX_PICKLE_BYTES = 64 * 2**20
"""A released file's structure takes a quarter of a megabyte; a far larger one is not a checkpoint."""


class TorchArchive:
    """An open ``torch.save`` zip: its structure, and its tensors on request.

    Args:
        file: a seekable binary file: on disk, or a RemoteFile.
        name: what to call the file in messages.
    """

    def __init__(self, file: Any, name: str) -> None:
        self.name = name
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _check_signature(file, name)
        try:
            with zipfile.ZipFile(file) as directory:
                self.all_entries = directory.infolist()
                self.directory_offset = directory.start_dir
                self.entries = self._index(directory)
                content = self._read_structure(directory)
        except MidwayZooError:
            raise
        except (
            zipfile.BadZipFile,
            zlib.error,
            struct.error,
            EOFError,
            NotImplementedError,
            OSError,
            OverflowError,
            RuntimeError,
            ValueError,
        ) as error:
            raise CheckpointError(
                f"{name} is truncated or damaged: {short(error)}. It has {self.size} bytes; get the file again."
            ) from error
        self.content: Any = safe_unpickle(io.BytesIO(content), name)

    def _read_structure(self, directory: zipfile.ZipFile) -> bytes:
        """The pickle that describes the file's content."""
        pickled = self.entries.get("data.pkl")
        if pickled is None:
            raise CheckpointError(f"{self.name} is a zip file but not a torch.save file: it holds no data.pkl.")
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{self.name}: data.pkl claims {pickled.file_size} bytes; no checkpoint needs that.")
        order = self.entries.get("byteorder")
        if order is not None and directory.read(order).strip() != b"little":
            raise CheckpointError(
                f"{self.name} was written on a big-endian machine; re-save it on a little-endian one."
            )
        return directory.read(pickled)

    def _index(self, directory: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        """Entries by path below the archive's single top folder."""
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in directory.infolist():
            path = info.filename.partition("/")[2]
            if not path:  # outside the folder that torch.save writes
                continue
            entry = f"{self.name}: entry {short(info.filename)}"
            if info.flag_bits & 0x1:
                raise CheckpointError(f"{entry} is encrypted; torch.save never does that.")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise CheckpointError(f"{entry} is compressed; torch.save never does that.")
            if path in entries:
                raise CheckpointError(f"{self.name}: two entries are called {short(path)}. Get the file again.")
            entries[path] = info
        return entries

    def storage_entry(self, storage: StorageRef) -> zipfile.ZipInfo:
        """The zip entry of a storage, its size checked against what the pickle says."""
        info = self.entries.get(f"data/{storage.key}")
        expected = storage.numel * storage.dtype.itemsize
        if info is None or info.file_size != expected:
            found = "no entry" if info is None else f"{info.file_size} bytes"
            raise CheckpointError(
                f"{self.name}: storage {storage.key} should have {expected} bytes and has {found}. Get the file again."
            )
        return info

    def read(self, ref: TensorRef) -> torch.Tensor:
        """Read one tensor (a copy in memory of its own) and check its CRC-32."""
        info = self.storage_entry(ref.storage)
        start = info.header_offset + local_header_size(self._pread(info.header_offset, 30), info, self.name)
        if start + info.file_size > self.size:
            raise CheckpointError(f"{self.name} is truncated: {info.filename} ends beyond its {self.size} bytes.")
        raw = torch.empty(info.file_size, dtype=torch.uint8)
        self._file.seek(start)
        if info.file_size and self._file.readinto(raw.numpy().data) != info.file_size:
            raise CheckpointError(f"{self.name} is truncated inside {info.filename}. Get the file again.")
        return tensor_from_bytes(raw, ref, info, self.name)

    def _pread(self, offset: int, count: int) -> bytes:
        if not 0 <= offset < self.size:
            raise CheckpointError(f"{self.name} is truncated or damaged: an entry lies outside of it.")
        self._file.seek(offset)
        return self._file.read(count)


def local_header_size(header: bytes, info: zipfile.ZipInfo, name: str) -> int:
    """Bytes between an entry's start and its data, from the first 30 bytes of its local header."""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{name} is truncated or damaged before {info.filename}. Get the file again.")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return 30 + name_length + extra_length


def tensor_from_bytes(raw: torch.Tensor, ref: TensorRef, info: zipfile.ZipInfo, name: str) -> torch.Tensor:
    """The tensor that ``ref`` describes from its storage's bytes (uint8), after the CRC-32 check."""
    found = zlib.crc32(raw.numpy().data)
    if found != info.CRC:
        raise CheckpointError(
            f"{name}: {info.filename} is damaged: CRC-32 {found:08x}, expected {info.CRC:08x}. Get the file again."
        )
    flat = raw.view(ref.dtype)
    whole = ref.offset == 0 and ref.numel * ref.dtype.itemsize == len(raw)
    tensor = flat.as_strided(ref.shape, ref.stride, ref.offset)
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def open_archive(path: Path) -> Iterator[TorchArchive]:
    """Open a released-layout file on disk.

    Raises:
        MissingFileError: if there is no such file.
        UnsafeFileError: if its pickle requests anything outside the allow-list.
        CheckpointError: if it is not such a file, or damaged.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a torch.save file.")
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path}.") from error
    with file:
        yield TorchArchive(file, path.name)


def _check_signature(file: BinaryIO, name: str) -> None:
    """Refuse files that are commonly mistaken for checkpoints, saying what they are."""
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return
    if problem := stand_in_of(head):
        raise CheckpointError(f"{name} {problem}")
    if head[8:10] == b'{"':
        raise CheckpointError(f"{name} is a safetensors file: rename it to end in .safetensors.")
    if head[:1] in (b"\x80", b"c", b"(", b"}", b"]"):
        _refuse_pickle(file, name)
    raise CheckpointError(
        f"{name} is not a torch.save file (it starts with {head[:8]!r}). Pass a released .pth file, a .safetensors "
        "file or exported folder of this package, or a training run."
    )


def _refuse_pickle(file: BinaryIO, name: str) -> None:
    """Refuse a plain pickle or a torch.save file from before 1.6, saying first whether it is hostile."""
    found: list[Any] = []
    while not (found and isinstance(found[-1], list)):  # the list of storage keys: raw numbers follow it
        try:
            found.append(safe_unpickle(file, name))  # magic number, version, system info, then the object
        except UnsafeFileError:
            raise
        except CheckpointError:
            break
    if found:
        raise CheckpointError(
            f"{name} is a plain pickle or a torch.save file in the format before torch 1.6, which cannot be read "
            "safely piece by piece. Re-save it with torch.save on a machine where you trust it."
        )
