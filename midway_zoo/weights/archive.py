"""Reading a ``torch.save`` zip without running it.

The released checkpoints pickle an OmegaConf configuration, so ``torch.load(weights_only=True)``
refuses them, and a full unpickling would run whatever code a file carries. This reader resolves
every global through an allow-list: tensors become inert references, every class that the released
files mention becomes an inert stand-in, anything else is refused by name before it exists.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from midway_zoo.errors import CheckpointError, MidwayZooError, MissingFileError, UnsafeFileError

MAX_PICKLE_BYTES = 64 * 2**20
"""A released file's structure takes a quarter of a megabyte; a far larger one is not a checkpoint."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_BUILTINS = ("dict", "list", "tuple", "set", "int", "long", "float", "str", "unicode", "bool", "bytes")
_INERT = {
    ("typing", "Any"),
    ("collections", "defaultdict"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    *(("omegaconf.nodes", f"{kind}Node") for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
    *((module, name) for module in ("builtins", "__builtin__") for name in _BUILTINS),
}


class Inert(dict[Any, Any]):
    """Stands in for an object of a class that must not be loaded; keeps its state as plain data."""

    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass(frozen=True)
class StorageRef:
    """A storage that the pickle names: an entry of the zip, not read yet."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor that the pickle describes; its numbers are still in the file."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count * self.dtype.itemsize


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        # Fresh functions and classes per file: a pickle can set attributes on what it is given.
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: _tensor_ref(storage, offset, size, stride)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _INERT:
            return type(name, (Inert,), {})
        raise UnsafeFileError(
            f"{self._name} asks for {module}.{name}, which no released Midway checkpoint needs. It was refused and "
            "nothing of the file was run. Get the file again from where it is published; do not unpickle it in full."
        )

    def persistent_load(self, pid: Any) -> StorageRef:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(numel), *_) if numel >= 0:
                return StorageRef(key, dtype, numel)
        raise CheckpointError(f"{self._name}: unreadable storage record {pid!r:.80}. The file is damaged.")


def _tensor_ref(storage: Any, offset: Any, size: Any, stride: Any) -> TensorRef:
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, StorageRef)
        or len(size) != len(stride)
        or any(type(n) is not int or n < 0 for n in numbers)
    ):
        raise CheckpointError("a tensor record is malformed. The file is damaged; get it again.")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.numel:
        raise CheckpointError("a tensor reaches beyond its storage. The file is damaged; get it again.")
    return TensorRef(storage, offset, size, stride)


def safe_unpickle(file: BinaryIO, name: str) -> Any:
    """Unpickle one object through the allow-list; tensors come back as :class:`TensorRef`.

    Raises:
        UnsafeFileError: if the pickle asks for a global outside the allow-list.
        CheckpointError: if it is damaged.
    """
    try:
        return _Unpickler(file, name).load()
    except MidwayZooError:
        raise
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        ImportError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{name}: its structure (pickle) is damaged: {type(error).__name__}: {error}. Get the file again."
        ) from error


def plain(value: Any, depth: int = 32) -> Any:
    """OmegaConf stand-ins as plain dicts, lists and scalars; other inert objects become None."""
    if depth == 0:
        raise CheckpointError("the pickled configuration is nested too deeply. The file is damaged.")
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, Mapping) else {}
        return plain(state.get("_content", state.get("_val")), depth - 1)
    if isinstance(value, Mapping):
        return {key: plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth - 1) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else None


class TorchArchive:
    """An open ``torch.save`` zip: its structure, and its tensors on request.

    Args:
        file: a seekable binary file.
        name: what to call the file in messages.
    """

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self.name = name
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _check_signature(file, name)
        try:
            with zipfile.ZipFile(file) as directory:
                self.entries = self._index(directory)
                pickled = next((info for path, info in self.entries.items() if path == "data.pkl"), None)
                if pickled is None:
                    raise CheckpointError(f"{name} is a zip file but no torch.save file: it holds no data.pkl.")
                if pickled.file_size > MAX_PICKLE_BYTES:
                    raise CheckpointError(
                        f"{name}: data.pkl claims {pickled.file_size} bytes; no checkpoint needs that."
                    )
                content = directory.read(pickled)
                order = self.entries.get("byteorder")
                if order is not None and directory.read(order).strip() != b"little":
                    raise CheckpointError(
                        f"{name} was written on a big-endian machine; re-save it on a little-endian one."
                    )
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f"{name} is truncated or damaged: {error}. It has {self.size} bytes; get the file again."
            ) from error
        self.content: Any = safe_unpickle(io.BytesIO(content), name)

    def _index(self, directory: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        """Entries by path below the archive's single top folder."""
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in directory.infolist():
            path = info.filename.partition("/")[2]
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.file_size != info.compress_size:
                raise CheckpointError(f"{self.name}: entry {info.filename} is compressed; torch.save never does that.")
            if path in entries:
                raise CheckpointError(f"{self.name}: two entries are called {info.filename}. The file is damaged.")
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
    whole = ref.offset == 0 and ref.nbytes == len(raw)
    tensor = flat.as_strided(ref.shape, ref.stride, ref.offset)
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def open_archive(path: Path) -> Iterator[TorchArchive]:
    """Open a released-layout file on disk.

    Raises:
        MissingFileError: if there is no such file.
        UnsafeFileError: if its pickle asks for anything outside the allow-list.
        CheckpointError: if it is no such file, or damaged.
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
    """Refuse, by what they are, the files that people mistake for checkpoints."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return
    start = head.lstrip()[:64].lower()
    if not head:
        raise CheckpointError(f"{name} is empty. Get the file again.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(f"{name} is a web page, not a checkpoint: use the file's download link, not its page.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{name} is a git-lfs pointer, not the file: run `git lfs pull` or download the file itself."
        )
    if head.startswith(b"\x80") or head.startswith((b"c", b"(")):
        _refuse_legacy(file, name)
    raise CheckpointError(f"{name} is no torch.save file (it starts with {head[:8]!r}). Pass a released .pth file.")


def _refuse_legacy(file: BinaryIO, name: str) -> None:
    """A plain pickle or a torch.save file from before 1.6: say whether it is hostile, then refuse it."""
    position = -1
    while file.tell() > position:  # magic number, version, system info, then the object itself
        position = file.tell()
        try:
            found = safe_unpickle(file, name)
        except UnsafeFileError:
            raise
        except CheckpointError:
            break
        if isinstance(found, list):  # the storage keys: raw numbers follow
            break
    raise CheckpointError(
        f"{name} is a plain pickle or a torch.save file in the format before torch 1.6, which cannot be read safely "
        "piece by piece. Re-save it with torch.save on a machine where you trust it."
    )
