"""Hostile pickles: nothing of them runs, and every refusal is a clear error of this package."""

import copyreg
import functools
import os
import pickle
import re
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midway_zoo.weights import archive
from tests.weights.released_files import edit_zip
from tests.weights.safety.hostile import (
    FOREIGN,
    PLACES,
    RUNNING,
    STATES,
    STYLES,
    Tiny,
    attributes,
    command,
    hostile_pickle,
    named,
    nothing_happens,
    refused,
    right_or_refused,
    text,
    unsafe,
)


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
