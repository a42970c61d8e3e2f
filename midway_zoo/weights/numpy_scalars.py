"""NumPy scalars in a pickle, read without NumPy: plain numbers instead, and no arrays.

Training loops read learning rates out of a schedule array and leave NumPy scalars in the optimizer's groups. Such a
scalar is pickled as three calls, ``scalar(dtype("f8", False, True), encode("...", "latin1"))``. The stand-ins here
take exactly that, for kinds of plain numbers and text, and refuse everything else by name.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

from midway_zoo.errors import CheckpointError, UnsafeFileError

_KINDS = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,6}")
_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd",
}  # fmt: skip
_LONGEST_TEXT = 256  # bytes; a longer one is of no use to a reader and stays undecoded


def short(text: Any, limit: int = 80) -> str:
    """Text from a file as it may stand in a message: short, without control characters."""
    text = str(text)
    text = text if len(text) <= limit else f"{text[:limit]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def refused(asked: str) -> UnsafeFileError:
    """The error about something outside the allow-list."""
    return UnsafeFileError(
        f"it asks for {short(asked)}, which no released Midway checkpoint needs. It was refused and nothing of the "
        "file was run. Get the file again from where it is published; do not unpickle it in full."
    )


# No __dict__ in any of these: a pickle can set attributes on whatever it is given.
class EncodedBytes:
    """Bytes that a pickle of protocol 2 spells as text. Kept as text: repeated calls must not multiply it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: Any) -> None:
        raise refused("a change of what _codecs.encode gave")


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
            raise refused(f"numpy.dtype({self.kind!r}) of another size than its own")
        self.order = ">" if order == ">" else "<"


class _RefusedError(Exception):
    """Arguments outside what NumPy writes for a scalar: how they go on behind the global's name."""


def _encode(text: Any = None, codec: Any = None, *others: Any) -> EncodedBytes:
    if type(text) is not str or type(codec) is not str or others:
        raise _RefusedError(" of something that is no text and codec")
    if codec != "latin1":
        raise _RefusedError(f" with the codec {short(codec, 20)!r}")
    return EncodedBytes(text)


def _dtype(kind: Any = None, *flags: Any) -> DtypeStandIn:
    if type(kind) is not str or any(type(flag) not in (bool, int) for flag in flags) or len(flags) > 2:
        raise _RefusedError(" of something that is no plain kind")
    if not _KINDS.fullmatch(kind):
        raise _RefusedError(f"({short(kind, 20)!r}){' (Python objects)' if 'O' in kind else ''}")
    return DtypeStandIn(kind)


def _scalar(dtype: Any = None, data: Any = None, *others: Any) -> Any:
    """The Python number or text; None for what Python has no such thing for."""
    if type(dtype) is not DtypeStandIn or type(data) not in (EncodedBytes, bytes) or others:
        raise _RefusedError(" of something that is no plain number")
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
    """A function that a pickle may call and do nothing else with; what it refuses is named by the global asked for."""

    __slots__ = ("_asked", "_function")

    def __init__(self, asked: str, function: Callable[..., Any]) -> None:
        self._asked, self._function = asked, function

    def __setstate__(self, state: Any) -> None:
        raise refused(f"a change of {self._asked}")

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
    """What stands in for a global of NumPy's pickles of scalars; None for any other global."""
    function = _FUNCTIONS.get((module, name))
    return None if function is None else _Call(f"{module}.{name}", function)
