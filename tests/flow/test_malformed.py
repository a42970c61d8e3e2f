"""A malformed flow file is refused: by name, without running or allocating what it claims."""

import os
import struct
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midway_zoo.errors import InputError
from midway_zoo.flow import read_flow, write_flow
from tests.flow.files import SUFFIXES, chunk, flo, flo5, header, npy, npy_header, pfm, png


def npz() -> bytes:
    buffer = BytesIO()
    np.savez(buffer, flow=np.zeros((2, 2, 2), np.float32))
    return buffer.getvalue()


class Trap:
    """Unpickling this would create the file ``sprung``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def absurd(file: Any) -> None:
    """Nothing of it is stored: HDF5 would fill 8 TB with zeros."""
    file.create_dataset("flow", (10**6, 10**6, 2), "f4", chunks=(100, 100, 2))


def elsewhere(file: Any) -> None:
    file["flow"] = h5py.ExternalLink("other.h5", "/flow")


PNG_FILE = png(2, 1, b"\0" + bytes(12))
FLOAT_FILE = npy(np.zeros((2, 2, 2), np.float32))
MALFORMED: dict[str, tuple[str, bytes]] = {
    "flo, empty": (".flo", b""),
    "flo, only magic": (".flo", b"PIEH"),
    "flo, header cut": (".flo", flo(2, 1)[:-1]),
    "flo, wrong magic": (".flo", b"PIEX" + flo(2, 1, bytes(16))[4:]),
    "flo, big endian": (".flo", b"PIEH" + struct.pack(">ii", 2, 1) + bytes(16)),
    "flo, one byte short": (".flo", flo(2, 1, bytes(15))),
    "flo, one byte long": (".flo", flo(2, 1, bytes(17))),
    "flo, no pixels": (".flo", flo(0, 0)),
    "flo, negative": (".flo", flo(-2, -1, bytes(16))),
    "flo, absurd": (".flo", flo(2**31 - 1, 2**31 - 1, bytes(16))),
    "npy, empty": (".npy", b""),
    "npy, text": (".npy", b"no array"),
    "npy, header cut": (".npy", FLOAT_FILE[:40]),
    "npy, content cut": (".npy", FLOAT_FILE[:-1]),
    "npy, unknown version": (".npy", b"\x93NUMPY\x09\x00" + FLOAT_FILE[8:]),
    "npy, absurd": (".npy", npy_header(header("(1000000, 1000000, 2)"), bytes(16))),
    "npy, beyond 64 bits": (".npy", npy_header(header("(1099511627776, 1099511627776, 2)"), bytes(16))),
    "npy, negative": (".npy", npy_header(header("(-1, 2, 2)"), bytes(16))),
    "npy, no pixels": (".npy", npy(np.zeros((0, 2, 2), np.float32))),
    "npy, shape is text": (".npy", npy_header(header("'abc'"))),
    "npy, shape holds a bool": (".npy", npy_header(header("(True, 1, 2)"), bytes(8))),
    "npy, unknown dtype": (".npy", npy_header(header("(1, 1, 2)", "zz"))),
    "npy, dtype no number": (".npy", npy_header(header("(1, 1, 2)", ">04"))),
    "npy, header not closed": (".npy", npy_header("{'descr': '<f4', 'fortran_order'")),
    "npy, header is code": (".npy", npy_header("__import__('os').mkdir('sprung')")),
    "npy, integers": (".npy", npy(np.zeros((2, 2, 2), int))),
    "npy, bool": (".npy", npy(np.zeros((2, 2, 2), bool))),
    "npy, complex": (".npy", npy(np.zeros((2, 2, 2), complex))),
    "npy, record": (".npy", npy(np.zeros((2, 2, 2), [("u", "f4")]))),
    "npy, three channels": (".npy", npy(np.zeros((2, 2, 3), np.float32))),
    "npy, channels first": (".npy", npy(np.zeros((2, 4, 5), np.float32))),
    "npy, one channel": (".npy", npy(np.zeros((2, 2), np.float32))),
    "npy, batch": (".npy", npy(np.zeros((1, 2, 2, 2), np.float32))),
    "npy, pickled objects": (".npy", npy(np.array([[[Trap(), Trap()]]], dtype=object))),
    "npy, bare pickle": (".npy", b"\x80\x04K\x01."),
    "npy, really npz": (".npy", npz()),
    "npy, broken zip": (".npy", b"PK\x03\x04" + bytes(50)),
    "png, empty": (".png", b""),
    "png, only magic": (".png", PNG_FILE[:8]),
    "png, cut": (".png", PNG_FILE[:-20]),
    "png, no end": (".png", PNG_FILE[:-12]),
    "png, bit flipped": (".png", PNG_FILE[:45] + bytes([PNG_FILE[45] ^ 1]) + PNG_FILE[46:]),
    "png, no header": (".png", PNG_FILE[:8] + chunk(b"IEND", b"")),
    "png, no pixels": (".png", png(0, 1, b"\0")),
    "png, 8 bits": (".png", png(2, 1, b"\0" + bytes(6), bits=8)),
    "png, grey": (".png", png(2, 1, b"\0" + bytes(4), colour=0)),
    "png, interlaced": (".png", png(2, 1, b"\0" + bytes(12), interlace=1)),
    "png, too few rows": (".png", png(2, 2, b"\0" + bytes(12))),
    "png, unknown filter": (".png", png(2, 1, b"\5" + bytes(12))),
    "png, not deflated": (".png", PNG_FILE[:33] + chunk(b"IDAT", b"x" * 20) + chunk(b"IEND", b"")),
    "png, absurd": (".png", png(2**31 - 1, 2**31 - 1, bytes(16))),
    "pfm, empty": (".pfm", b""),
    "pfm, grey": (".pfm", pfm("Pf\n2 1\n-1.0\n", bytes(8))),
    "pfm, no size": (".pfm", pfm("PF\n\n-1.0\n", bytes(24))),
    "pfm, one side": (".pfm", pfm("PF\n2\n-1.0\n", bytes(24))),
    "pfm, size is text": (".pfm", pfm("PF\na b\n-1.0\n", bytes(24))),
    "pfm, no scale": (".pfm", pfm("PF\n2 1\n", bytes(24))),
    "pfm, scale zero": (".pfm", pfm("PF\n2 1\n0\n", bytes(24))),
    "pfm, scale nan": (".pfm", pfm("PF\n2 1\nnan\n", bytes(24))),
    "pfm, one byte short": (".pfm", pfm("PF\n2 1\n-1.0\n", bytes(23))),
    "pfm, one byte long": (".pfm", pfm("PF\n2 1\n-1.0\n", bytes(25))),
    "pfm, negative": (".pfm", pfm("PF\n-2 -1\n-1.0\n", bytes(24))),
    "pfm, absurd": (".pfm", pfm("PF\n1000000000 1000000000\n-1.0\n", bytes(24))),
    "flo5, empty": (".flo5", b""),
    "flo5, text": (".flo5", b"no HDF5"),
    "flo5, cut": (".flo5", flo5(lambda file: file.create_dataset("flow", data=np.zeros((9, 9, 2), "f4")))[:-200]),
    "flo5, no flow": (".flo5", flo5(lambda file: file.create_dataset("other", data=np.zeros((2, 2, 2), "f4")))),
    "flo5, a group": (".flo5", flo5(lambda file: file.create_group("flow"))),
    "flo5, integers": (".flo5", flo5(lambda file: file.create_dataset("flow", data=np.zeros((2, 2, 2), "i4")))),
    "flo5, text in it": (".flo5", flo5(lambda file: file.create_dataset("flow", data="text"))),
    "flo5, no data": (".flo5", flo5(lambda file: file.create_dataset("flow", data=h5py.Empty("f4")))),
    "flo5, channels first": (".flo5", flo5(lambda file: file.create_dataset("flow", data=np.zeros((2, 4, 5), "f4")))),
    "flo5, another file's": (".flo5", flo5(elsewhere)),
    "flo5, absurd": (".flo5", flo5(absurd)),
}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_by_name_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix, content = MALFORMED[case]
    path = tmp_path / f"malformed{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"malformed\\{suffix}") as caught:
        read_flow(path)
    assert isinstance(caught.value, ValueError)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("case", [case for case in MALFORMED if "absurd" in case or "beyond" in case])
def test_an_absurd_size_is_refused_without_allocating_it(tmp_path: Path, case: str) -> None:
    suffix, content = MALFORMED[case]
    (tmp_path / f"malformed{suffix}").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError):
        read_flow(tmp_path / f"malformed{suffix}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".png"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), values=st.binary(min_size=1, max_size=6), cut=st.integers(0, 40))
def test_damaged_bytes_give_a_flow_or_an_input_error(
    tmp_path: Path, suffix: str, data: Any, values: bytes, cut: int
) -> None:
    """Whatever the damage, no other exception comes out."""
    path = tmp_path / f"damaged{suffix}"
    write_flow(path, torch.zeros(2, 3, 2), overwrite=True)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + values + whole[place + len(values) :]
    path.write_bytes(damaged[: len(damaged) - cut])
    try:
        found = read_flow(path)
    except InputError:
        return
    assert found.shape[0] == 2
    assert found.numel() <= len(damaged) * (2000 if suffix in (".png", ".flo5") else 1)
