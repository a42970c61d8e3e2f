"""Unpickling without running anything.

The released checkpoints pickle an OmegaConf configuration, so ``torch.load(weights_only=True)``
refuses them, and full unpickling would run any code that a file carries. Here every global is
resolved through an allow-list: tensors become inert references, NumPy scalars become plain numbers, and every class
that the released files mention becomes an inert stand-in. Anything else is refused by name before it is created.
"""

import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import torch

from midway_zoo.errors import CheckpointError, MidwayZooError, UnsafeFileError


def short(text: Any, limit: int = 80) -> str:
    """Text from a file, made safe for a message: short, without control characters."""
    text = str(text)
    text = text if len(text) <= limit else f"{text[:limit]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def refused(asked: str) -> UnsafeFileError:
    """The error for something outside the allow-list."""
    return UnsafeFileError(
        f"it asks for {short(asked)}, which no released Midway checkpoint needs. It was refused and nothing of the "
        "file was run. Get the file again from where it is published; do not unpickle it in full."
    )


# NumPy scalars are read as plain numbers, without NumPy; arrays are refused. Training loops read learning rates out of
# a schedule array and leave NumPy scalars in the optimizer's groups. Such a scalar is pickled as three calls,
# scalar(dtype("f8", False, True), encode("...", "latin1")). The stand-ins below take exactly that, for kinds of plain
# numbers and text, and refuse everything else by name.
_KINDS = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,6}")
_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd",
}  # fmt: skip
_LONGEST_TEXT = 256  # bytes; longer texts are not needed and stay undecoded


# None of these has a __dict__: a pickle can set attributes on whatever it is given.
class EncodedBytes:
    """Bytes that a pickle of protocol 2 spells as text. Kept as text: repeated calls must not
    multiply it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: Any) -> None:
        raise refused("a change to the result of _codecs.encode")


class DtypeStandIn:
    """A NumPy dtype of one plain number or text: its kind, such as "f8", and its byte order."""

    __slots__ = ("kind", "order", "size")

    def __init__(self, kind: str) -> None:
        self.kind, self.order = kind, "<"
        count = int(kind[1:])
        self.size = 4 * count if kind[0] == "U" else count

    def __setstate__(self, state: Any) -> None:
        """Take the state that NumPy pickles: (version, byte order, subarray, names, fields, size, alignment, flags)."""
        if type(state) is not tuple or len(state) != 8 or state[2:5] != (None, None, None):
            raise refused("a structured numpy.dtype")
        version, order, _, _, _, *numbers = state
        if version != 3 or type(order) is not str or order not in ("<", ">", "=", "|"):
            raise refused(f"numpy.dtype({self.kind!r}) with an unknown state")
        if any(type(number) is not int for number in numbers) or numbers[0] not in (-1, self.size):
            raise refused(f"numpy.dtype({self.kind!r}) of the wrong size")
        self.order = ">" if order == ">" else "<"


class _RefusedError(Exception):
    """Arguments that NumPy does not write for a scalar; the text completes the message after the global's name."""


def _encode(text: Any = None, codec: Any = None, *others: Any) -> EncodedBytes:
    if type(text) is not str or type(codec) is not str or others:
        raise _RefusedError(" of something other than text and a codec")
    if codec != "latin1":
        raise _RefusedError(f" with the codec {short(codec, 20)!r}")
    return EncodedBytes(text)


def _dtype(kind: Any = None, *flags: Any) -> DtypeStandIn:
    if type(kind) is not str or any(type(flag) not in (bool, int) for flag in flags) or len(flags) > 2:
        raise _RefusedError(" of something other than a plain kind")
    if not _KINDS.fullmatch(kind):
        raise _RefusedError(f"({short(kind, 20)!r}){' (Python objects)' if 'O' in kind else ''}")
    return DtypeStandIn(kind)


def _scalar(dtype: Any = None, data: Any = None, *others: Any) -> Any:
    """The Python number or text; None if Python has no equivalent."""
    if type(dtype) is not DtypeStandIn or type(data) not in (EncodedBytes, bytes) or others:
        raise _RefusedError(" of something other than a plain number")
    length = len(data) if isinstance(data, bytes) else len(data.text)
    if length != dtype.size:
        raise CheckpointError(
            f"a NumPy scalar of {dtype.kind} has {length} bytes instead of {dtype.size}. The file is damaged; get it "
            "again."
        )
    code = _CODES.get(dtype.kind)
    if code is None and (dtype.kind[0] not in "SU" or length > _LONGEST_TEXT):
        return None
    try:
        raw = data if isinstance(data, bytes) else data.text.encode("latin1")
        if code is None:
            encoding = "latin1" if dtype.kind[0] == "S" else "utf-32-le" if dtype.order == "<" else "utf-32-be"
            return raw.decode(encoding).rstrip("\0")
        numbers = struct.unpack(dtype.order + code, raw)
    except ValueError as error:
        raise CheckpointError(f"a NumPy scalar is unreadable ({error}). The file is damaged; get it again.") from error
    return complex(*numbers) if len(numbers) == 2 else numbers[0]


class _Call:
    """A function that a pickle may call, and nothing else; errors name the requested global."""

    __slots__ = ("_asked", "_function")

    def __init__(self, asked: str, function: Callable[..., Any]) -> None:
        self._asked, self._function = asked, function

    def __setstate__(self, state: Any) -> None:
        raise refused(f"a change to {self._asked}")

    def __call__(self, *args: Any) -> Any:
        try:
            return self._function(*args)
        except _RefusedError as error:
            raise refused(f"{self._asked}{error}") from error


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,  # NumPy 1
    ("numpy._core.multiarray", "scalar"): _scalar,  # NumPy 2
}


def numpy_stand_in(module: str, name: str) -> Any:
    """The stand-in for a global in NumPy's pickles of scalars; None for any other global."""
    function = _FUNCTIONS.get((module, name))
    return None if function is None else _Call(f"{module}.{name}", function)


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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}

_BUILTINS = (
    *("dict", "list", "tuple", "set", "frozenset", "int", "long", "float", "complex", "str", "unicode", "bool"),
    *("bytes", "bytearray", "slice", "range", "xrange", "Ellipsis"),
)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_DTYPES = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_INERT = {
    *(("typing", name) for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
    *(("collections", name) for name in ("OrderedDict", "defaultdict", "Counter", "deque")),
    *(("omegaconf.base", name) for name in ("Metadata", "ContainerMetadata", "UnionNode")),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    *(("omegaconf.nodes", f"{kind}Node") for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
    *((module, name) for module in ("builtins", "__builtin__") for name in _BUILTINS),
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    # What a training loop saves beside its state dicts: metrics, a date, the path of the data, versions, a run's id.
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(("torch", name) for name in ("Size", "device", *_DTYPES)),
    ("torch.torch_version", "TorchVersion"),
    ("time", "struct_time"),
    *(("uuid", name) for name in ("UUID", "SafeUUID")),
    *(("decimal", "Decimal"), ("fractions", "Fraction")),
}
_ITEMS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
_ATTRIBUTES = ("argparse.Namespace", "types.SimpleNamespace")

_DAMAGED = "The file is damaged; get it again."
_MAX_NODES = 100_000  # in a configuration; the released ones have about a hundred


class Inert(dict[Any, Any]):
    """Stand-in for an object of a class that must not be loaded; keeps its items and state as plain data."""

    kind: str = ""
    """Module and name of the class."""
    state: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be in a set, or a key of a dict

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Drop an item of a list-like object."""

    extend = add = append

    @property
    def content(self) -> Any:
        """The dict, list or value of a configuration; None for anything else."""
        if self.kind in _ITEMS:
            return dict(self)
        state = self.state if isinstance(self.state, Mapping) else {}
        return dict(state) if self.kind in _ATTRIBUTES else state.get("_content", state.get("_val"))


# Named tuples: a pickle can set attributes on most objects that it has built, but not on these.
class StorageRef(NamedTuple):
    """A storage that the pickle refers to: an entry of the zip, not read yet."""

    key: str
    dtype: torch.dtype
    numel: int


class TensorRef(NamedTuple):
    """A tensor that the pickle describes; its values are still in the file."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """Larger than the storage's if numbers are repeated (stride 0)."""
        return math.prod(self.shape)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Fresh functions and classes every time: a pickle can set attributes on what it is given.
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: _tensor_ref(storage, offset, size, stride)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _INERT:
            return type(name, (Inert,), {"kind": f"{module}.{name}"})
        if (stand_in := numpy_stand_in(module, name)) is not None:
            return stand_in
        if module.partition(".")[0] == "midway_zoo":
            raise UnsafeFileError(
                f"it asks for {short(f'{module}.{name}')}: a whole object of this package, as torch.save(network) "
                "writes it. It was refused and nothing of the file was run. Where the network is at hand, save it with "
                "network.save_pretrained(FOLDER) instead, and pass the folder."
            )
        if not all(part.isidentifier() for part in module.split(".")):  # text that happens to start like a pickle
            raise pickle.UnpicklingError("it names no module")
        raise refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> StorageRef:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(numel), *_) if numel >= 0:
                return StorageRef(key, dtype, numel)
        raise CheckpointError(f"it holds an unreadable storage record. {_DAMAGED}")


def _tensor_ref(storage: Any, offset: Any, size: Any, stride: Any) -> TensorRef:
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    shaped = isinstance(storage, StorageRef) and len(size) == len(stride) <= 64
    if not shaped or any(type(number) is not int or number < 0 for number in numbers):
        raise CheckpointError(f"a tensor record is malformed. {_DAMAGED}")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.numel:
        raise CheckpointError(f"a tensor reaches beyond its storage. {_DAMAGED}")
    return TensorRef(storage, offset, size, stride)


def safe_unpickle(file: BinaryIO, name: str) -> Any:
    """Unpickle one object through the allow-list; tensors come back as :class:`TensorRef`.

    Raises:
        UnsafeFileError: if the pickle requests a global outside the allow-list.
        CheckpointError: if it is damaged.
    """
    try:
        _check_memo(file)
        return _Unpickler(file, encoding="utf-8").load()
    except MidwayZooError as error:
        raise type(error)(f"{name}: {error}") from error
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
        reason = short(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{name}: its structure (pickle) is damaged ({reason}). Get the file again.") from error


def _check_memo(file: BinaryIO) -> None:
    """Refuse a memo index beyond the pickle's length: the unpickler would allocate that many entries."""
    start = file.tell()
    highest = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                highest = max(highest, int(argument or 0))
    except (ValueError, EOFError, IndexError, KeyError, OverflowError, UnicodeDecodeError):
        pass  # damaged, or refused below; only what comes before the damage counts
    length = file.tell() - start
    file.seek(start)
    if highest > max(length, 255):
        raise CheckpointError(f"its structure (pickle) has an absurd memo index. {_DAMAGED}")


def plain(value: Any) -> Any:
    """Stand-ins of configurations (OmegaConf, Namespace) as plain dicts, lists and scalars; all else becomes None.

    Interpolations (``${key}``) stay as they are written; see :mod:`midway_zoo.weights.run_config`.

    Raises:
        CheckpointError: for a configuration too deep, too large or with absurd numbers.
    """
    left = _MAX_NODES

    def convert(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth == 0 or left < 0:
            raise CheckpointError(f"the pickled configuration is too deep or too large. {_DAMAGED}")
        if isinstance(item, Inert):
            return convert(item.content, depth - 1)
        if isinstance(item, Mapping):
            return {key: convert(one, depth - 1) for key, one in item.items()}
        if isinstance(item, list | tuple):
            return [convert(one, depth - 1) for one in item]
        if isinstance(item, int) and abs(item) >= 2**63:
            raise CheckpointError(f"the pickled configuration holds an absurd number. {_DAMAGED}")
        return item if isinstance(item, str | int | float | bool | None) else None

    return convert(value, 32)
