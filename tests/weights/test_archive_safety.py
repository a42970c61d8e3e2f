"""Hostile and damaged files: nothing of them runs, and every refusal is a clear error of this package."""

import copyreg
import functools
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from midway_zoo import MidwayNetwork, MidwayZooError, load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError, UnsafeFileError
from midway_zoo.weights import archive
from tests.weights.released_files import TINY, assert_same_state, edit_zip, expected_state, write_released

# Where a hostile object can sit in a file: strings that a test replaces, in the pickle, by opcodes.
PLACES = {"top level": "@top@", "args": "@args@", "optimizer": "@optimizer@", "unread part": "@student@"}
HOOKS = re.compile(rb"(\x89h.\)R(?:q.|r....))t", re.DOTALL)
"""In ``data.pkl``: the empty hooks of the first tensor."""


class Tiny(NamedTuple):
    """A small released file whose bytes tests damage."""

    data: bytes
    pickled: bytes
    state: dict[str, torch.Tensor]
    folder: Path

    def write(self, path: Path, data: bytes | None = None) -> Path:
        path.write_bytes(self.data if data is None else data)
        return path

    def with_pickle(self, path: Path, pickled: bytes) -> Path:
        """The file with another ``data.pkl``, of right size and CRC."""
        edit_zip(self.write(path), {"data.pkl": pickled})
        return path

    def check(self, path: Path) -> None:
        """The file at ``path`` loads, bit by bit as the undamaged one."""
        assert_same_state(load_checkpoint(path).state_dict(), self.state)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    def add_places(checkpoint: dict[str, Any]) -> None:
        checkpoint["extra"] = PLACES["top level"]
        checkpoint["optimizer"] = {"state": {0: {"exp_avg": torch.randn(50), "step": PLACES["optimizer"]}}}
        checkpoint["student"]["module.dino_head.extra"] = PLACES["unread part"]

    folder = tmp_path_factory.mktemp("safety")
    path = folder / "tiny.pth"
    overrides = {"experiment": PLACES["args"]}
    checkpoint = write_released(path, optimizer=False, args_overrides=overrides, edit=add_places)
    with zipfile.ZipFile(path) as file:
        pickled = file.read("tiny/data.pkl")
    tiny = Tiny(path.read_bytes(), pickled, expected_state(checkpoint), folder)
    tiny.check(tiny.with_pickle(path, pickled))  # what only the first call imports is no effect of a later file
    return tiny


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "file.pth"


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Fail if Python objects worth more than this are alive at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 2**20, f"{peak / 2**20:.0f} MiB were allocated"


def refused(path: Path, match: str | None = None) -> None:
    """Assert that the file is refused as damaged, in a few printable words."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert isinstance(caught.value, MidwayZooError)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600


def unsafe(path: Path) -> str:
    """Assert that the file is refused as unsafe; return the message."""
    with pytest.raises(UnsafeFileError, match=re.escape(path.name)) as caught:
        load_checkpoint(path)
    assert isinstance(caught.value, MidwayZooError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def right_or_refused(tiny: "Tiny", path: Path) -> None:
    """Assert that the file either loads bit by bit or is refused."""
    try:
        network = load_checkpoint(path)
    except CheckpointError:
        return
    assert_same_state(network.state_dict(), tiny.state)


# Pickle opcodes


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def short_text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    return short_text(module) + short_text(name) + b"\x93"


def attributes(**values: bytes) -> bytes:
    """A dict of opcodes."""
    return b"}" + b"".join(text(key) + value + b"s" for key, value in values.items())


# Ways to get at a global and to call it; each leaves one object on the stack.
STYLES: dict[str, Callable[[str, str, bytes], bytes]] = {
    "REDUCE": lambda module, name, args: named(module, name) + b"(" + args + b"tR",
    "STACK_GLOBAL": lambda module, name, args: stack_named(module, name) + b"(" + args + b"tR",
    "INST": lambda module, name, args: b"(" + args + f"i{module}\n{name}\n".encode(),
    "OBJ": lambda module, name, args: b"(" + named(module, name) + args + b"o",
    "NEWOBJ": lambda module, name, args: named(module, name) + b"(" + args + b"t\x81",
    "NEWOBJ_EX": lambda module, name, args: named(module, name) + b"(" + args + b"t}\x92",
    "BUILD": lambda module, name, args: named(module, name) + b"}b",
    "never called": lambda module, name, args: named(module, name),
}
RUNNING = ("REDUCE", "STACK_GLOBAL", "INST", "OBJ")
"""The styles that call a plain function."""

FOREIGN = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "type"),
    ("builtins", "object"),
    ("__builtin__", "eval"),
    ("__main__", "anything"),
    ("subprocess", "Popen"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("importlib", "import_module"),
    ("copyreg", "_reconstructor"),
    ("types", "FunctionType"),
    ("io", "open"),
    ("pickle", "loads"),
    ("numpy", "add"),
    ("numpy", "ndarray"),
    ("numpy", "float64"),
    ("numpy", "frombuffer"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "scalar"),  # of text
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core._multiarray_umath", "_ufunc_reconstruct"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.dtypes", "Float64DType"),
    ("_codecs", "decode"),
    ("_codecs", "encode"),  # of one text, without a codec
    ("codecs", "encode"),
    ("torch", "load"),
    ("torch", "compile"),
    ("torch", "classes"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("omegaconf", "OmegaConf"),
    ("omegaconf.resolvers", "oc"),
    ("argparse", "FileType"),
    ("pathlib", "Path.write_text"),
    ("collections", "abc"),
    ("datetime", "sys"),
    ("midway_zoo.weights.archive", "Inert"),
    ("collections", "namedtuple"),
    ("no_such_module", "nothing"),
]


def hostile_pickle(tiny: Tiny, place: str, fragment: bytes) -> bytes:
    """The pickle of the tiny file with ``fragment``, which leaves one object, at a place."""
    if place == "hooks of a tensor":
        changed, count = HOOKS.subn(lambda found: found[1] + text("hook") + fragment + b"st", tiny.pickled, count=1)
    else:
        changed, count = tiny.pickled.replace(text(PLACES[place]), fragment), tiny.pickled.count(text(PLACES[place]))
    assert count == 1
    return changed


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload creates if it ever runs."""
    return tmp_path / "marker"


def command(marker: Path) -> str:
    return f"echo ran > {marker}"


@contextmanager
def nothing_happens(folder: Path) -> Iterator[None]:
    """Assert that no file appears, disappears or changes, and no module is imported."""

    def state() -> tuple[dict[Path, bytes], set[str]]:
        # Python loads its own text codecs when it first meets one, be it in a pickle.
        modules = {name for name in sys.modules if not name.startswith("encodings.")}
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}, modules

    before = state()
    yield
    assert state() == before


# Hostile files


def test_template_loads(tiny: Tiny, path: Path) -> None:
    """The file that the tests below make hostile is a good one."""
    tiny.check(tiny.write(path))
    tiny.check(tiny.with_pickle(path, tiny.pickled))
    tiny.check(tiny.with_pickle(path, hostile_pickle(tiny, "hooks of a tensor", text("harmless"))))


@pytest.mark.parametrize("style", RUNNING)
def test_payloads_are_live(marker: Path, style: str) -> None:
    """What is refused below does run where pickles are loaded without care."""
    pickle.loads(b"\x80\x02" + STYLES[style]("os", "system", text(command(marker))) + b".")
    assert marker.exists()


@pytest.mark.parametrize("place", [*PLACES, "hooks of a tensor"])
@pytest.mark.parametrize("style", STYLES)
def test_foreign_global_in_any_place_and_style(tiny: Tiny, path: Path, marker: Path, style: str, place: str) -> None:
    fragment = STYLES[style]("os", "system", text(command(marker)))
    tiny.with_pickle(path, hostile_pickle(tiny, place, fragment))
    with nothing_happens(path.parent):
        assert "os.system" in unsafe(path)
    assert not marker.exists()


@pytest.mark.parametrize(("module", "name"), FOREIGN, ids=".".join)
def test_foreign_global_is_named(tiny: Tiny, path: Path, module: str, name: str) -> None:
    for style in ("REDUCE", "STACK_GLOBAL"):
        tiny.with_pickle(path, hostile_pickle(tiny, "top level", STYLES[style](module, name, text("1"))))
        with nothing_happens(path.parent):
            assert f"{module}.{name}" in unsafe(path)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("collections", "OrderedDict.__init__"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections", "OrderedDict.__class__.__base__.__subclasses__"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "abc.sys.modules"),
        ("collections.OrderedDict", "__init__"),
        ("omegaconf.dictconfig", "DictConfig.__init__.__globals__"),
        ("omegaconf.dictconfig", "DictConfig.__setstate__"),
        ("typing", "Any.__class__"),
        ("builtins", "dict.__class__"),
        ("builtins", "str.format"),
        ("torch", "FloatStorage.__reduce__"),
        ("torch", "FloatStorage._new_shared"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "_rebuild_parameter.__code__"),
        ("torch._utils", "torch.os.system"),
    ],
    ids=".".join,
)
def test_attributes_of_allowed_names_are_out_of_reach(tiny: Tiny, path: Path, module: str, name: str) -> None:
    for style in ("REDUCE", "STACK_GLOBAL", "INST", "never called"):
        fragment = b"\x80\x04" + STYLES[style](module, name, text("1"))
        tiny.with_pickle(path, hostile_pickle(tiny, "args", fragment))
        assert f"{module}.{name}" in unsafe(path)


def test_refusal_imports_nothing(tiny: Tiny, path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "evil_on_import.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef run(*args): pass\n")
    monkeypatch.syspath_prepend(path.parent)
    tiny.with_pickle(path, hostile_pickle(tiny, "args", STYLES["REDUCE"]("evil_on_import", "run", b"")))
    assert "evil_on_import.run" in unsafe(path)
    assert not marker.exists()
    assert "evil_on_import" not in sys.modules


@pytest.mark.parametrize(
    "opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"], ids=["EXT1", "EXT2", "EXT4"]
)
def test_registered_extension_codes_are_globals_too(tiny: Tiny, path: Path, opcode: bytes) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        tiny.with_pickle(path, hostile_pickle(tiny, "args", opcode))
        assert "os.system" in unsafe(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    refused(path, "damaged")


class Payload:
    """Runs a call where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(marker: Path) -> dict[str, Payload]:
    """By the global that each asks for; protocol 2 writes the old name of ``builtins``."""
    shell = command(marker)
    return {
        rf"{os.name}\.system": Payload(os.system, shell),
        r"(subprocess|commands)\.Popen": Payload(subprocess.Popen, shell, -1, None, None, None, None, None, True, True),
        r"_*builtins?_*\.eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        r"_*builtins?_*\.(getattr|__import__)": Payload(getattr, Payload(__import__, "os"), "system"),
        r"_*builtins?_*\.__import__": Payload(__import__, "this"),
        r"functools\.partial": Payload(functools.partial, os.system, shell),
        r"torch\.storage\._load_from_bytes": Payload(torch.storage._load_from_bytes, b"\x80\x02}."),
        r"numpy\._?core\.multiarray\._reconstruct": Payload(*np.arange(3).__reduce__()[:2]),
        r"numpy.dtype\('O8'\).*Python objects": Payload(np.dtype, "O8", False, True),
    }


@pytest.mark.parametrize("container", ["zip", "zip, protocol 4", "legacy", "legacy, protocol 4"])
@pytest.mark.parametrize("kind", payloads(Path()))
def test_payload_as_python_pickles_it(tiny: Tiny, path: Path, marker: Path, container: str, kind: str) -> None:
    content = {"teacher": {"backbone.norm.bias": torch.zeros(3)}, "args": {"lr": payloads(marker)[kind]}}
    protocol = 4 if "4" in container else 2
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container.startswith("zip"))
    with nothing_happens(path.parent):
        assert re.search(kind, unsafe(path))
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nesting", ["bare", "dict", "list"])
def test_payload_in_a_plain_pickle(path: Path, marker: Path, protocol: int, nesting: str) -> None:
    payload = Payload(os.system, command(marker))
    content: Any = {"bare": payload, "dict": {"state": payload}, "list": [1, payload]}[nesting]
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with nothing_happens(path.parent):
        assert f"{os.name}.system" in unsafe(path)
    assert not marker.exists()


@pytest.mark.parametrize("style", RUNNING)
def test_opcodes_in_a_plain_pickle(path: Path, marker: Path, style: str) -> None:
    fragment = STYLES[style]("os", "system", b"S'" + command(marker).encode() + b"'\n")
    for head in (b"", b"\x80\x02", b"(lp0\n0", b"\x80\x04\x95" + struct.pack("<Q", len(fragment) + 1)):
        path.write_bytes(head + fragment + b".")
        with nothing_happens(path.parent):
            # what starts with a text object is not known for a pickle, and refused as an unknown file
            (unsafe if head or style != "STACK_GLOBAL" else refused)(path)
    assert not marker.exists()


@pytest.mark.parametrize("where", range(4))
def test_payload_in_any_pickle_of_a_legacy_file(path: Path, marker: Path, where: int) -> None:
    """The old format is a row of pickles: magic number, version, system, content."""
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"teacher": {}}]
    parts[where] = Payload(os.system, command(marker))
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    assert f"{os.name}.system" in unsafe(path)
    assert not marker.exists()


def test_harmless_legacy_file_is_explained(path: Path) -> None:
    torch.save({"teacher": {"weight": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    refused(path, r"file\.pth is .*before torch 1\.6.*torch\.save")


def test_second_pickle_behind_the_first_is_not_run(tiny: Tiny, path: Path, marker: Path) -> None:
    tail = STYLES["REDUCE"]("os", "system", text(command(marker))) + b"."
    tiny.check(tiny.with_pickle(path, tiny.pickled + b"\x80\x02" + tail))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["sys\x1b[2Jtem", "sys\r\ntem", "x" * 100_000], ids=["escape", "newline", "long"])
def test_message_about_a_strange_name_is_short_and_printable(tiny: Tiny, path: Path, name: str) -> None:
    tiny.with_pickle(path, hostile_pickle(tiny, "args", text("os") + text(name) + b"\x93"))
    message = unsafe(path)
    assert message.isprintable()
    assert len(message) < 1000


# Tricks on what the reader hands out

STAND_INS = {
    "configuration class": named("omegaconf.dictconfig", "DictConfig"),
    "configuration object": named("omegaconf.dictconfig", "DictConfig") + b")\x81",
    "rebuild function": named("torch._utils", "_rebuild_tensor_v2"),
    "parameter function": named("torch._utils", "_rebuild_parameter"),
    "storage type": named("torch", "FloatStorage"),
    "OrderedDict": named("collections", "OrderedDict"),
    "typing.Any": named("typing", "Any"),
    "defaultdict": named("collections", "defaultdict") + named("builtins", "dict") + b"\x85R",
}
TAMPERED = {name: text("tampered") for name in ("state", "__setstate__", "__new__", "__init__", "__class__", "items")}
STATES = {
    "dict": attributes(**TAMPERED, find_class=named("torch._utils", "_rebuild_parameter")),
    "slots": b"N" + attributes(**TAMPERED) + b"\x86",
    "code": b"N" + attributes(__defaults__=b")", __code__=b"N", __globals__=b"}", __dict__=b"}") + b"\x86",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stand_in", STAND_INS)
def test_a_file_cannot_change_how_the_next_is_read(tiny: Tiny, path: Path, stand_in: str, state: str) -> None:
    before = reader_state()
    fragment = STAND_INS[stand_in] + STATES[state] + b"b"
    right_or_refused(tiny, tiny.with_pickle(path, hostile_pickle(tiny, "top level", fragment)))
    assert reader_state() == before
    tiny.check(tiny.write(path))


def reader_state() -> list[Any]:
    """All that a pickle might change: the reader's module and classes, and what they share with others."""
    values = {key: dict(vars(value)) if isinstance(value, type) else value for key, value in vars(archive).items()}
    return [values, dict(vars(OrderedDict)), dict(vars(dict)), dir(torch.float32)]


# A tensor is pickled as (function, (storage, ...)) R: BUILD behind it would set attributes of what R made.
TENSOR_STATES = {
    "offset beyond the storage": attributes(offset=b"J" + struct.pack("<i", 10**6)),
    "negative offset": attributes(offset=b"J" + struct.pack("<i", -8)),
    "other shape": attributes(shape=text("abc")),
    "negative stride": attributes(stride=b"(J\xff\xff\xff\xffK\x01K\x01t"),
    "no storage": attributes(storage=b"N"),
    "slots": b"N" + attributes(offset=b"J" + struct.pack("<i", 10**6)) + b"\x86",
    "list": b"](NK\x09))e",
}


@pytest.mark.parametrize("state", TENSOR_STATES)
def test_a_checked_tensor_record_cannot_be_changed(tiny: Tiny, path: Path, state: str) -> None:
    start = tiny.pickled.index(b"backbone.cls_token", tiny.pickled.index(b"teacher"))
    record = re.compile(rb"t(q.|r....)R", re.DOTALL).search(tiny.pickled, start)
    assert record is not None
    changed = tiny.pickled[: record.end()] + TENSOR_STATES[state] + b"b" + tiny.pickled[record.end() :]
    refused(tiny.with_pickle(path, changed), r"file\.pth|tensor")


@pytest.mark.parametrize("hidden", ["items", "get", "keys", "__iter__", "__class__"])
@pytest.mark.parametrize("part", ["teacher", "args", None], ids=["part", "args", "whole"])
def test_instance_attributes_do_not_hide_methods(path: Path, hidden: str, part: str | None) -> None:
    ordered = named("collections", "OrderedDict") + b")R" + text("key") + b"K\x01s"
    ordered += attributes(**{hidden: text("tampered")}) + b"b"
    content = ordered if part is None else b"}" + text(part) + ordered + b"s"
    torch.save({}, path)
    edit_zip(path, {"data.pkl": b"\x80\x02" + content + b"."})
    refused(path, r"file\.pth")


# NumPy scalars: what the authors' loop writes is read, and nothing beside it

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
    "codec that is no text": (encoded("a", b"N"), r"_codecs\.encode of something"),
    "encoding of an object": (named("_codecs", "encode") + SCALAR + text("latin1") + b"\x86R", r"_codecs\.encode"),
    "encoding with an error handler": (
        named("_codecs", "encode") + text("a") + text("latin1") + text("strict") + b"\x87R", r"_codecs\.encode"
    ),
    "scalar of a dict": (scalar_of(F8, b"}"), r"numpy\.core\.multiarray\.scalar of something"),
    "scalar without a dtype": (scalar_of(b"}", encoded()), r"numpy\.core\.multiarray\.scalar of something"),
    "scalar of a stand-in": (scalar_of(named("omegaconf.dictconfig", "DictConfig") + b")R", encoded()), "scalar of"),
    "three arguments": (named(CORES[1], "scalar") + F8 + encoded() + b"N\x87R", r"numpy\._core\.multiarray\.scalar"),
    "changed function": (named(CORES[0], "scalar") + attributes(__call__=named("typing", "Any")) + b"b", "change of"),
    "changed function, slots": (named("_codecs", "encode") + STATES["slots"] + b"b", "change of"),
    "changed bytes": (encoded() + attributes(text=b"N") + b"b", "change of"),
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


# Files that ask for much memory


def repeated(item: bytes, times: int) -> bytes:
    """Opcodes of a list that holds one object many times."""
    return item + b"q\x000]q\x01(" + b"h\x00" * times + b"e"


BOMBS = {
    "memo index": b"}r" + struct.pack("<I", 2**24),
    "long text": b"\x8d" + struct.pack("<Q", 2**40),
    "long bytes": b"\x8e" + struct.pack("<Q", 2**40),
    "long integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "long frame": b"\x95" + struct.pack("<Q", 2**40),
    "nested lists": b"]" * 10_000 + b"a" * 9_999,
    "nested args": b"}" + text("args") + b"]" * 200 + b"a" * 199 + b"s",
    "args that contain themselves": b"}" + text("args") + b"]q\x00h\x00as",
    "args of one list many times": b"}" + text("args") + repeated(b"](" + b"N" * 2000 + b"e", 2000) + b"s",
    "storage record of one text many times": repeated(text("x" * 100_000), 500) + b"Q",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_pickle_takes_little_memory(path: Path, bomb: str) -> None:
    torch.save({}, path)
    edit_zip(path, {"data.pkl": b"\x80\x04" + BOMBS[bomb] + b"."})
    with memory_limit(16):
        refused(path, r"file\.pth|damaged")


class Record:
    """Pickles as a tensor record of given numbers, whether they make sense or not."""

    def __init__(self, offset: Any = 0, size: Any = (24,), stride: Any = (1,), numel: int = 24) -> None:
        self.storage = torch.ones(numel)._typed_storage()
        self.numbers = offset, size, stride

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.storage, *self.numbers, False, OrderedDict())


RECORDS = {
    "offset beyond": Record(offset=1),
    "far offset": Record(offset=2**63),
    "negative offset": Record(offset=-1),
    "fractional offset": Record(offset=0.5),
    "true offset": Record(offset=True),
    "size beyond": Record(size=(25,)),
    "huge size": Record(size=(2**62,)),
    "size of 71 bits": Record(size=(2**70,)),
    "negative size": Record(size=(-24,)),
    "product beyond 64 bits": Record(size=(2**40, 2**40), stride=(1, 1)),
    "repeated without end": Record(size=(2**45,), stride=(0,)),
    "repeated, 71 bits": Record(size=(2**70,), stride=(0,)),
    "stride beyond": Record(stride=(2,)),
    "huge stride": Record(stride=(2**62,)),
    "negative stride": Record(stride=(-1,)),
    "more sizes than strides": Record(size=(4, 6), stride=(1,)),
    "size is text": Record(size="24"),
    "size is null": Record(size=None),
    "many dimensions": Record(size=(1,) * 10_000, stride=(1,) * 10_000),
    "empty storage": Record(numel=0),
    "no storage": Record(),
}
RECORDS["no storage"].storage = 5  # type: ignore[assignment]


@pytest.mark.parametrize("record", RECORDS)
def test_impossible_tensor_record(path: Path, record: str) -> None:
    put = {"backbone.norm.bias": RECORDS[record]}
    write_released(path, optimizer=False, edit=lambda content: content["teacher"].update(put))
    with memory_limit(16):
        refused(path, r"tensor|damaged")


@pytest.mark.parametrize("tokens", [2**30, 2**40], ids=["4 GB", "4 TB"])
def test_one_number_cannot_fill_a_large_table(path: Path, tokens: int) -> None:
    """Shapes from which the network is built, all consistent, made of one number repeated."""

    def edit(content: dict[str, Any]) -> None:
        content["motion_loss"]["module.motion_tokens"] = torch.zeros(1).expand(1, tokens, TINY.motion_dim)

    write_released(path, optimizer=False, edit=edit)
    with address_space(megabytes=2000):
        refused(path, r"tensor|motion_tokens")


@contextmanager
def address_space(megabytes: int) -> Iterator[None]:
    """Let this process map only so much more memory, so that a failing test does not take the machine along."""
    resource = pytest.importorskip("resource")
    used = Path("/proc/self/statm")
    if not used.is_file():
        pytest.skip("needs Linux to limit this process's memory")
    old = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(used.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + megabytes * 2**20, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


# Damaged files


class Directory:
    """Where things are in a zip file."""

    def __init__(self, data: bytes) -> None:
        end = data.rindex(b"PK\x05\x06")
        self.end = end
        self.entries: dict[str, tuple[int, int, int, int]] = {}
        """By name below the folder: offsets of central header, local header and content, and content size."""
        position = self.start = struct.unpack_from("<I", data, end + 16)[0]
        while data[position : position + 4] == b"PK\x01\x02":
            size, name, extra, comment = struct.unpack_from("<I", data, position + 24)[0], *struct.unpack_from(
                "<HHH", data, position + 28
            )  # fmt: skip
            local = struct.unpack_from("<I", data, position + 42)[0]
            content = local + 30 + sum(struct.unpack_from("<HH", data, local + 26))
            key = data[position + 46 : position + 46 + name].decode().partition("/")[2]
            self.entries[key] = position, local, content, size
            position += 46 + name + extra + comment

    def central(self, name: str) -> int:
        return self.entries[name][0]

    def local(self, name: str) -> int:
        return self.entries[name][1]

    def content(self, name: str) -> range:
        return range(self.entries[name][2], self.entries[name][2] + self.entries[name][3])


@pytest.fixture(scope="session")
def directory(tiny: Tiny) -> Directory:
    return Directory(tiny.data)


@pytest.fixture(scope="session")
def keys(tiny: Tiny) -> dict[str, str]:
    """Entries of the zip that hold a kept tensor and one that is not kept."""
    path = tiny.write(tiny.folder / "keys.pth")
    with archive.open_archive(path) as opened:
        teacher, optimizer = opened.content["teacher"], opened.content["optimizer"]
        found = {
            "kept": teacher["backbone.blocks.1.attn.qkv.weight"],
            "same size": teacher["backbone.blocks.2.attn.qkv.weight"],
            "optimizer": optimizer["state"][0]["exp_avg"],
        }
    return {name: f"data/{ref.storage.key}" for name, ref in found.items()}


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


@pytest.mark.parametrize("part", [0.0005, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
def test_truncated(tiny: Tiny, path: Path, part: float) -> None:
    refused(tiny.write(path, tiny.data[: int(part * len(tiny.data))]), r"file\.pth is truncated or damaged.*again")


@pytest.mark.parametrize("missing", [1, 2, 21, 22, 23, 41, 42, 98, 99, 200])
def test_truncated_near_the_end(tiny: Tiny, path: Path, missing: int) -> None:
    refused(tiny.write(path, tiny.data[:-missing]), r"file\.pth is truncated or damaged")


@pytest.mark.parametrize("kept", [4, 5, 29, 30, 31, 64])
def test_truncated_near_the_start(tiny: Tiny, path: Path, kept: int) -> None:
    refused(tiny.write(path, tiny.data[:kept]), r"file\.pth is truncated or damaged")


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("entry", ["data.pkl", "kept", "same size"])
def test_flipped_byte_in_content_is_found(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, where: str
) -> None:
    content = directory.content(keys.get(entry, entry))
    position = {"first": content[0], "middle": content[len(content) // 2], "last": content[-1]}[where]
    refused(tiny.write(path, flipped(tiny.data, position)), r"file\.pth.*CRC-32")


def test_flipped_byte_in_the_optimizer_does_not_matter(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path
) -> None:
    content = directory.content(keys["optimizer"])
    assert len(content) == 200
    tiny.check(tiny.write(path, patched(tiny.data, content[0], bytes(200))))


@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_wrong_crc(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str) -> None:
    position = directory.central(keys.get(entry, entry)) + 16
    refused(tiny.write(path, flipped(tiny.data, position)), r"file\.pth.*CRC-32")


def regions(directory: Directory, keys: dict[str, str]) -> dict[str, range]:
    kept, pickled = keys["kept"], "data.pkl"
    return {
        "local header of a tensor": range(directory.local(kept), directory.content(kept)[0]),
        "local header of the pickle": range(directory.local(pickled), directory.content(pickled)[0]),
        "central header of a tensor": range(directory.central(kept), directory.central(kept) + 80),
        "central header of the pickle": range(directory.central(pickled), directory.central(pickled) + 80),
        "end of the directory": range(directory.end - 76, directory.end + 22),
    }


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_flipped_bits_elsewhere_never_change_a_number(
    tiny: Tiny, directory: Directory, keys: dict[str, str], data: st.DataObject
) -> None:
    _, region = data.draw(st.sampled_from(list(regions(directory, keys).items())))
    position, bit = data.draw(st.sampled_from(region)), data.draw(st.integers(0, 7))
    path = tiny.write(tiny.folder / "flipped.pth", flipped(tiny.data, position, bit))
    right_or_refused(tiny, path)


def test_swapped_contents_are_found(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path) -> None:
    one, other = directory.content(keys["kept"]), directory.content(keys["same size"])
    assert len(one) == len(other)
    swapped = patched(tiny.data, one[0], tiny.data[other[0] : other[-1] + 1])
    refused(tiny.write(path, swapped), "CRC-32")


@pytest.mark.parametrize("deleted", [1, 64, 5000])
def test_bytes_lost_in_the_middle(tiny: Tiny, directory: Directory, path: Path, deleted: int) -> None:
    position = directory.content("data.pkl")[1000]
    refused(tiny.write(path, tiny.data[:position] + tiny.data[position + deleted :]), r"file\.pth.*damaged")


@pytest.mark.parametrize("inserted", [1, 64, 5000])
def test_bytes_inserted_in_the_middle(tiny: Tiny, directory: Directory, path: Path, inserted: int) -> None:
    position = directory.content("data.pkl")[1000]
    changed = tiny.data[:position] + bytes(inserted) + tiny.data[position:]
    refused(tiny.write(path, changed), r"file\.pth.*damaged")


def test_garbled_entry_name(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path) -> None:
    position = directory.central(keys["kept"]) + 46
    right_or_refused(tiny, tiny.write(path, patched(tiny.data, position, b"\xff\xfe")))  # of the folder around all
    refused(tiny.write(path, patched(tiny.data, position + len("tiny/"), b"\xff\xfe")), r"file\.pth")


@pytest.mark.parametrize("offset", [1, 2**31, 2**32 - 2])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_that_is_elsewhere(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, offset: int
) -> None:
    position = directory.central(keys.get(entry, entry)) + 42
    refused(tiny.write(path, patched(tiny.data, position, struct.pack("<I", offset))), r"file\.pth.*damaged")


@pytest.mark.parametrize("offset", [2**40, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_at_an_absurd_64_bit_offset(
    tiny: Tiny, keys: dict[str, str], path: Path, entry: str, offset: int
) -> None:
    def move(info: zipfile.ZipInfo, below: str) -> None:
        if below == keys.get(entry, entry):
            info.header_offset = offset

    rewrite(tiny, path, move)
    refused(path, r"file\.pth.*damaged")


def rewrite(tiny: Tiny, path: Path, change: Callable[[zipfile.ZipInfo, str], Any], **options: Any) -> None:
    """Write the file again, by Python's zipfile, with entries changed before the directory is written."""
    source = tiny.write(path.with_suffix(".old"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", **options) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
            change(new.infolist()[-1], info.filename.partition("/")[2])
    source.unlink()


def test_compressed(tiny: Tiny, path: Path) -> None:
    rewrite(tiny, path, lambda info, below: None, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_encrypted(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str) -> None:
    position = directory.central(keys.get(entry, entry)) + 8
    refused(tiny.write(path, flipped(tiny.data, position)), "encrypted")


@pytest.mark.parametrize("claimed", [0, 2**31, 2**32 - 2])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_of_another_claimed_size(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, claimed: int
) -> None:
    position = directory.central(keys.get(entry, entry)) + 20
    changed = patched(tiny.data, position, struct.pack("<II", claimed, claimed))
    with memory_limit(32):
        refused(tiny.write(path, changed), r"file\.pth")


@pytest.mark.parametrize("entry", ["data.pkl", "kept", "version"])
@pytest.mark.parametrize("folder", ["tiny", "other"])
def test_duplicated_entry(tiny: Tiny, keys: dict[str, str], path: Path, entry: str, folder: str) -> None:
    name = keys.get(entry, entry)
    tiny.write(path)
    with zipfile.ZipFile(path, "a") as file:
        content = file.read(f"tiny/{name}")
        with pytest.warns(UserWarning, match="Duplicate") if folder == "tiny" else nullcontext():
            file.writestr(f"{folder}/{name}", content)
    refused(path, rf"two entries.*{name}")


def test_big_endian(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"byteorder": b"big"})
    refused(path, "big-endian")


def test_file_from_before_byteorder_was_written(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"byteorder": None, ".format_version": None, ".storage_alignment": None})
    tiny.check(path)


def test_no_pickle(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"data.pkl": None})
    refused(path, r"no torch\.save file.*data\.pkl")


@pytest.mark.parametrize(
    "pickled", [b"", b".", b"\x80\x02", b"\x80\x02}", b"\x80\x99}.", b"garbage", bytes(100)], ids=str
)
def test_damaged_pickle_with_right_crc(tiny: Tiny, path: Path, pickled: bytes) -> None:
    refused(tiny.with_pickle(path, pickled), r"file\.pth.*damaged")


@pytest.mark.parametrize("change", [lambda old: old[:-4], lambda old: old + bytes(4), lambda old: b"", None])
def test_storage_of_wrong_size_is_named(
    tiny: Tiny, keys: dict[str, str], path: Path, change: Callable[[bytes], bytes] | None
) -> None:
    edit_zip(tiny.write(path), {keys["kept"]: change})
    size = 72 * 24 * 4
    refused(path, rf"storage {keys['kept'].removeprefix('data/')} should have {size} bytes")


def test_missing_optimizer_storage_does_not_matter(tiny: Tiny, keys: dict[str, str], path: Path) -> None:
    edit_zip(tiny.write(path), {keys["optimizer"]: None})
    tiny.check(path)


# Files of other kinds


def png(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def safetensors_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, one=np.zeros(3), two=np.zeros(3))


def saved(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


OTHER_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (saved(b""), "is empty"),
    "web page": (saved(b"\n <!DOCTYPE html>\n<html><body>404</body></html>"), "web page.*download link"),
    "web page with byte order mark": (saved(b"\xef\xbb\xbf<html></html>"), "web page"),
    "git-lfs pointer": (saved(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git lfs pull"),
    "text": (saved(b"Midway Network checkpoints\n"), r"no torch\.save file"),
    "text that starts with c": (saved(b"checkpoint: moved\nto another place\n"), r"no torch\.save file"),
    "text that starts with a bracket": (saved(b"(moved to another place)\n"), r"no torch\.save file"),
    "JSON": (saved(json.dumps({"error": "not found"}).encode()), r"no torch\.save file"),
    "random bytes": (saved(random.Random(0).randbytes(5000)), r"no torch\.save file"),
    "zeros": (saved(bytes(5000)), r"no torch\.save file"),
    "PNG": (png, r"no torch\.save file"),
    "safetensors": (safetensors_file, "safetensors"),
    "numpy archive": (arrays, r"data\.pkl"),
    "empty zip": (saved(b"PK\x05\x06" + bytes(18)), r"no torch\.save file"),
    "start of a zip": (saved(b"PK\x03\x04"), "truncated"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_kind_of_file_is_explained(path: Path, kind: str) -> None:
    make, message = OTHER_FILES[kind]
    make(path)
    refused(path, rf"file\.pth .*{message}")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.safetensors.*save_pretrained"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="folder"), archive.open_archive(tmp_path):
        pass


# Anything at all


def mutated(tiny: Tiny, rng: random.Random, path: Path) -> bool:
    """Write a damaged file; return whether its pickle, and not only its bytes, is another one."""
    kind = rng.choice(["bytes", "directory", "cut", "insert", "delete", "zero", "move", "pickle", "pickle"])
    if kind == "pickle":
        pickled = bytearray(tiny.pickled)
        for _ in range(rng.choice([1, 1, 2, 8])):
            pickled[rng.randrange(len(pickled))] = rng.choice(
                [rng.randrange(256), ord(rng.choice("0().]}tRbsqrhjKJMX"))]
            )
        tiny.with_pickle(path, bytes(pickled))
        return True
    data = bytearray(tiny.data)
    position = rng.randrange(len(data))
    length = rng.choice([1, 2, 8, 64, 4096])
    directory = data.rindex(b"PK\x01\x02")  # somewhere in the central directory
    if kind == "bytes":
        for _ in range(length):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "directory":
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(directory - 20_000, len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    elif kind == "cut":
        del data[position:]
    elif kind == "insert":
        data[position:position] = rng.randbytes(length)
    elif kind == "delete":
        del data[position : position + length]
    elif kind == "zero":
        data[position : position + length] = bytes(length)
    elif kind == "move":
        other = rng.randrange(len(data))
        data[position : position + length] = data[other : other + length]
    path.write_bytes(data)
    return False


@pytest.mark.parametrize("seed", range(6))
def test_fifty_random_mutations(tiny: Tiny, path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: list[type] = []
    for number in range(50):
        repickled = mutated(tiny, rng, path)
        with address_space(megabytes=1000):
            try:
                network = load_checkpoint(path)
            except CheckpointError as error:
                outcomes.append(type(error))
            except ConfigError as error:  # the pickled configuration was hit
                assert repickled, f"mutation {number}"
                outcomes.append(type(error))
            except Exception as error:
                raise AssertionError(f"mutation {number}: {error!r}") from error
            else:
                outcomes.append(MidwayNetwork)
                if not repickled:  # every number in the file has a checksum
                    assert_same_state(network.state_dict(), tiny.state)
    assert len(set(outcomes)) > 1, "both good and bad files are among them"
