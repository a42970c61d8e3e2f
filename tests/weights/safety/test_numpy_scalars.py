"""NumPy scalars: what the authors' loop writes is read, and nothing beside it."""

import re
from pathlib import Path

import pytest

from midway_zoo import load_checkpoint
from midway_zoo.weights import archive
from tests.weights.safety.hostile import (
    STATES,
    Tiny,
    attributes,
    hostile_pickle,
    memory_limit,
    named,
    nothing_happens,
    refused,
    text,
    unsafe,
)

CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
PLAIN_STATE = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def dtype_of(kind: bytes, state: bytes = PLAIN_STATE) -> bytes:
    return named("numpy", "dtype") + kind + b"\x89\x88\x87R" + state


def encoded(value: str = "\0\0\0\0\0\0\xf8?", codec: bytes = text("latin1")) -> bytes:
    return named("_codecs", "encode") + text(value) + codec + b"\x86R"


def scalar_of(dtype: bytes, data: bytes, core: str = CORES[0]) -> bytes:
    return named(core, "scalar") + dtype + data + b"\x86R"


F8 = dtype_of(text("f8"))
SCALAR = scalar_of(F8, encoded())
# kind -> (opcodes, what the refusal names)
HOSTILE_SCALARS: dict[str, tuple[bytes, str]] = {
    "object dtype": (scalar_of(dtype_of(text("O8")), named("os", "system")), r"numpy\.dtype\('O8'\)"),
    "object dtype, short": (dtype_of(text("O")), r"numpy\.dtype\('O'\)"),
    "object dtype, by name": (dtype_of(text("object")), r"numpy\.dtype\('object'\)"),
    "structured dtype with objects": (
        scalar_of(dtype_of(text("V16"), b""), encoded()), r"numpy\.dtype\('V16'\)"
    ),
    "fields in the state": (
        dtype_of(text("f8"), b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}K\x10K\x01K\x1btb"), "structured"
    ),
    "subarray in the state": (
        dtype_of(text("f8"), b"(K\x03" + text("|") + dtype_of(text("O8")) + b"NNK\x10K\x01K\x1btb"), r"'O8'"
    ),
    "state of attributes": (dtype_of(text("f8"), b"N" + attributes(kind=text("O8")) + b"\x86b"), "structured"),
    "dtype of a list of fields": (dtype_of(b"]" + text("a") + text("O8") + b"\x86a"), r"numpy\.dtype of something"),
    "dtype of a class": (dtype_of(named("collections", "OrderedDict")), r"numpy\.dtype of something"),
    "dtype of a foreign global": (dtype_of(named("os", "system")), r"os\.system"),
    "dtype of names separated by commas": (dtype_of(text("f8,O")), r"numpy\.dtype\('f8,O'\)"),
    "dtype of a date": (dtype_of(text("M8")), r"numpy\.dtype\('M8'\)"),
    "dtype of a huge text": (dtype_of(text("U9999999999")), r"numpy\.dtype\('U9999999999'\)"),
    "codec rot13": (encoded("bf.flfgrz", text("rot13")), r"_codecs\.encode with the codec 'rot13'"),
    "codec bz2": (encoded("BZh9", text("bz2")), r"_codecs\.encode with the codec 'bz2'"),
    "codec of another spelling": (encoded("a", text("latin-1")), r"_codecs\.encode with the codec 'latin-1'"),
    "codec that is not a text": (encoded("a", b"N"), r"_codecs\.encode of something"),
    "encoding of an object": (named("_codecs", "encode") + SCALAR + text("latin1") + b"\x86R", r"_codecs\.encode"),
    "encoding with an error handler": (
        named("_codecs", "encode") + text("a") + text("latin1") + text("strict") + b"\x87R", r"_codecs\.encode"
    ),
    "scalar of a dict": (scalar_of(F8, b"}"), r"numpy\.core\.multiarray\.scalar of something"),
    "scalar without a dtype": (scalar_of(b"}", encoded()), r"numpy\.core\.multiarray\.scalar of something"),
    "scalar of a stand-in": (scalar_of(named("omegaconf.dictconfig", "DictConfig") + b")R", encoded()), "scalar of"),
    "three arguments": (named(CORES[1], "scalar") + F8 + encoded() + b"N\x87R", r"numpy\._core\.multiarray\.scalar"),
    "changed function": (named(CORES[0], "scalar") + attributes(__call__=named("typing", "Any")) + b"b", "change to"),
    "changed function, slots": (named("_codecs", "encode") + STATES["slots"] + b"b", "change to"),
    "changed bytes": (encoded() + attributes(text=b"N") + b"b", "change to"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_SCALARS)
def test_hostile_numpy_is_refused_by_name(tiny: Tiny, path: Path, kind: str) -> None:
    fragment, message = HOSTILE_SCALARS[kind]
    for place in ("optimizer", "args"):
        tiny.with_pickle(path, hostile_pickle(tiny, place, fragment))
        with nothing_happens(path.parent):
            assert re.search(message, unsafe(path))


DAMAGED_SCALARS = {
    "called": SCALAR + b")R",
    "called with a command": SCALAR + text("echo") + b"\x85R",
    "given attributes": SCALAR + attributes(real=b"K\x01") + b"b",
    "a dtype that is called": F8 + text("echo") + b"\x85R",
    "bytes that are called": encoded() + b")R",
    "made as an object": F8 + b")\x81",
    "too short": scalar_of(F8, encoded("abc")),
    "too long": scalar_of(F8, encoded("abc" * 1000)),
    "no latin1": scalar_of(F8, encoded("\u20ac" * 8)),
    "no character": scalar_of(
        dtype_of(text("U1"), b"(K\x03" + text("<") + b"NNNK\x04K\x04K\x08tb"), encoded("\xff\xff\xff\xff")
    ),
}


@pytest.mark.parametrize("kind", DAMAGED_SCALARS)
def test_a_numpy_scalar_is_nothing_but_a_number(tiny: Tiny, path: Path, kind: str) -> None:
    tiny.with_pickle(path, hostile_pickle(tiny, "optimizer", DAMAGED_SCALARS[kind]))
    with nothing_happens(path.parent):
        refused(path, r"file\.pth")


@pytest.mark.parametrize("core", CORES)
def test_numpy_scalars_of_opcodes_load(tiny: Tiny, path: Path, core: str) -> None:
    tiny.check(tiny.with_pickle(path, hostile_pickle(tiny, "optimizer", scalar_of(F8, encoded(), core))))
    with archive.open_archive(path) as opened:
        assert opened.content["optimizer"]["state"][0]["step"] == 1.5


def test_encoded_bytes_are_not_multiplied(tiny: Tiny, path: Path) -> None:
    """One long text encoded many times would fill the memory, were each a copy."""
    once = named("_codecs", "encode") + b"q\x00" + text("x" * 100_000) + b"q\x01" + text("latin1") + b"\x86q\x02R"
    many = b"](" + once + b"h\x00h\x02R" * 2000 + b"e"
    tiny.with_pickle(path, hostile_pickle(tiny, "optimizer", many))
    with memory_limit(32):
        load_checkpoint(path)
