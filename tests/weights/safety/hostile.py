"""Hostile and damaged files made from a small released one, and what must come of them."""

import re
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from midway_zoo import MidwayZooError, load_checkpoint
from midway_zoo.errors import CheckpointError, UnsafeFileError
from tests.weights.released_files import assert_same_state, edit_zip

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


TAMPERED = {name: text("tampered") for name in ("state", "__setstate__", "__new__", "__init__", "__class__", "items")}
STATES = {
    "dict": attributes(**TAMPERED, find_class=named("torch._utils", "_rebuild_parameter")),
    "slots": b"N" + attributes(**TAMPERED) + b"\x86",
    "code": b"N" + attributes(__defaults__=b")", __code__=b"N", __globals__=b"}", __dict__=b"}") + b"\x86",
}


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
