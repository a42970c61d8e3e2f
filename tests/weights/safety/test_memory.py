"""Files that ask for much memory."""

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.weights.released_files import TINY, edit_zip, write_released
from tests.weights.safety.hostile import address_space, memory_limit, refused, text


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
