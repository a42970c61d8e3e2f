"""Flow fields on disk: what is written is read back, and what is malformed is refused."""

import os
import struct
import sys
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from midway_zoo.errors import (
    InputError,
    InputTypeError,
    MidwayZooError,
    MissingExtraError,
    MissingFileError,
    OutputExistsError,
)
from midway_zoo.files import atomic
from midway_zoo.flow import read_flow, write_flow
from midway_zoo.flow.png16 import read_png16

NAN, INF = float("nan"), float("inf")
SUFFIXES = [".flo", ".npy", ".pfm", ".flo5"]
"""Formats of 32-bit floats; KITTI's .png has tests of its own below."""


def flo(width: int, height: int, content: bytes = b"") -> bytes:
    return b"PIEH" + struct.pack("<ii", width, height) + content


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(text: str, content: bytes = b"") -> bytes:
    """A version 1.0 file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + content


def header(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def some_flow(height: int = 4, width: int = 5) -> Tensor:
    return torch.randn(2, height, width) * 30


# Round trips.


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 1), (1, 7), (7, 1)])
def test_a_round_trip_is_bit_exact(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    flow = some_flow(height, width)
    flow[0, 0, 0] = -0.0
    write_flow(tmp_path / f"flow{suffix}", flow)
    found = read_flow(tmp_path / f"flow{suffix}")
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert same_bits(found, flow)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(-1e9, 1e9, width=32), min_size=2, max_size=12), suffix=st.sampled_from(SUFFIXES))
def test_every_float_up_to_1e9_survives(tmp_path: Path, values: list[float], suffix: str) -> None:
    flow = torch.tensor(values[: len(values) // 2 * 2]).view(2, 1, -1)
    write_flow(tmp_path / f"flow{suffix}", flow, overwrite=True)
    assert same_bits(read_flow(tmp_path / f"flow{suffix}"), flow)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("as_path", [str, Path])
def test_paths_may_be_str_or_path_with_an_ending_in_any_case(tmp_path: Path, suffix: str, as_path: type) -> None:
    flow = some_flow()
    path = as_path(tmp_path / f"FLOW{suffix.upper()}")
    write_flow(path, flow)
    assert same_bits(read_flow(path), flow)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_written_as_float32(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    flow = some_flow().to(dtype)
    write_flow(tmp_path / f"flow{suffix}", flow)
    assert same_bits(read_flow(tmp_path / f"flow{suffix}"), flow.float())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "make",
    [
        lambda flow: flow.clone().requires_grad_(),
        lambda flow: flow.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        lambda flow: flow.repeat_interleave(2, dim=2)[:, :, ::2],
    ],
    ids=["requires grad", "channels last", "strided"],
)
def test_any_tensor_of_the_values_can_be_written(tmp_path: Path, suffix: str, make: Any) -> None:
    flow = some_flow()
    write_flow(tmp_path / f"flow{suffix}", make(flow))
    assert same_bits(read_flow(tmp_path / f"flow{suffix}"), flow)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_is_read_back_as_nan_and_the_flow_given_is_not_changed(tmp_path: Path, suffix: str) -> None:
    flow = some_flow()
    flow[:, 1, 2] = NAN
    before = flow.clone()
    write_flow(tmp_path / f"flow{suffix}", flow)
    torch.testing.assert_close(read_flow(tmp_path / f"flow{suffix}"), before, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(flow, before, rtol=0, atol=0, equal_nan=True)


def test_flo_marks_a_vector_with_one_nan_as_unknown_in_both_components(tmp_path: Path) -> None:
    """Middlebury files know unknown vectors, not unknown components."""
    flow = some_flow()
    flow[0, 1, 2] = NAN
    write_flow(tmp_path / "flow.flo", flow)
    found = read_flow(tmp_path / "flow.flo")
    assert found[:, 1, 2].isnan().all()
    assert found.isnan().sum() == 2


# Layout on disk.


def test_flo_bytes_are_those_of_the_middlebury_format(tmp_path: Path) -> None:
    """Magic, width, height, then u and v interleaved, row by row, little endian."""
    u, v = [[1.5, -2.0, 3.25], [0.0, 1e-3, -1e5]], [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]
    by_hand = flo(3, 2, struct.pack("<12f", 1.5, 10, -2, 20, 3.25, 30, 0, 40, 1e-3, 50, -1e5, 60))
    write_flow(tmp_path / "flow.flo", torch.tensor([u, v]))
    assert (tmp_path / "flow.flo").read_bytes() == by_hand

    (tmp_path / "hand.flo").write_bytes(by_hand)
    assert same_bits(read_flow(tmp_path / "hand.flo"), torch.tensor([u, v]))


def test_unknown_vectors_are_written_as_1e10_and_read_from_1e9_upwards(tmp_path: Path) -> None:
    flow = torch.tensor([[[1.0, NAN]], [[2.0, 3.0]]])
    write_flow(tmp_path / "flow.flo", flow)
    assert (tmp_path / "flow.flo").read_bytes() == flo(2, 1, struct.pack("<4f", 1, 2, 1e10, 1e10))

    (tmp_path / "hand.flo").write_bytes(flo(4, 1, struct.pack("<8f", 1e9, 1, 1.01e9, 1, 1, -1.666e9, NAN, 1)))
    unknown = read_flow(tmp_path / "hand.flo").isnan()
    assert unknown.tolist() == [[[False, True, True, True]], [[False, True, True, False]]]


def test_npy_is_a_float32_array_of_height_width_two(tmp_path: Path) -> None:
    flow = some_flow(4, 5)
    flow[0, 0, 0], flow[1, 0, 1] = INF, 5e9
    write_flow(tmp_path / "flow.npy", flow)
    array = np.load(tmp_path / "flow.npy")
    assert array.shape == (4, 5, 2)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, flow.permute(1, 2, 0).numpy())
    assert same_bits(read_flow(tmp_path / "flow.npy"), flow)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">f4").reshape(2, 3, 2),
        np.arange(12, dtype=np.float64).reshape(2, 3, 2),
        np.arange(12, dtype=np.float16).reshape(2, 3, 2),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(2, 3, 2)),
    ],
    ids=["big endian", "float64", "float16", "Fortran order"],
)
def test_npy_of_other_float_layouts_is_read(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "flow.npy").write_bytes(npy(array))
    expected = torch.arange(12.0).view(2, 3, 2).permute(2, 0, 1).contiguous()
    assert same_bits(read_flow(tmp_path / "flow.npy"), expected)


def test_what_was_read_is_independent_of_the_file(tmp_path: Path) -> None:
    """Not a memory map of it: the result may be written to, and the file replaced."""
    flow = some_flow()
    write_flow(tmp_path / "flow.npy", flow)
    read_flow(tmp_path / "flow.npy").zero_()
    assert same_bits(read_flow(tmp_path / "flow.npy"), flow)


# Malformed files.


def npz() -> bytes:
    buffer = BytesIO()
    np.savez(buffer, flow=np.zeros((2, 2, 2), np.float32))
    return buffer.getvalue()


class Trap:
    """Unpickling this would create the file ``sprung``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, raw: bytes, *, bits: int = 16, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG with given filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pfm(header: str, content: bytes = b"") -> bytes:
    return header.encode() + content


def flo5(make: Any) -> bytes:
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        make(file)
    return buffer.getvalue()


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


# KITTI's PNG.


def test_kitti_pixels_are_those_of_the_development_kit(tmp_path: Path) -> None:
    """u and v times 64 plus 2^15, validity in the third channel, all zero where invalid."""
    write_flow(tmp_path / "flow.png", torch.tensor([[[1.0, NAN, -512.0]], [[-0.5, 3.0, 511.984375]]]))
    expected = [[[2**15 + 64, 2**15 - 32, 1], [0, 0, 0], [0, 65535, 1]]]
    assert read_png16(tmp_path / "flow.png").tolist() == expected
    (tmp_path / "hand.png").write_bytes(png(3, 1, b"\0" + np.array(expected, ">u2").tobytes()))
    found = read_flow(tmp_path / "hand.png")
    assert found[:, 0, 0].tolist() == [1.0, -0.5]
    assert found[:, 0, 1].isnan().all()
    assert found[:, 0, 2].tolist() == [-512.0, 511.984375]


def test_kitti_flow_is_exact_to_its_step(tmp_path: Path) -> None:
    flow = some_flow(37, 53)
    write_flow(tmp_path / "flow.png", flow)
    found = read_flow(tmp_path / "flow.png")
    assert (found - flow).abs().max() <= 1 / 128
    write_flow(tmp_path / "again.png", found)
    assert same_bits(read_flow(tmp_path / "again.png"), found)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "flow.png").read_bytes()


def test_pillow_reads_what_is_written_as_far_as_it_can(tmp_path: Path) -> None:
    """An independent decoder: Pillow keeps the upper byte of each value."""
    write_flow(tmp_path / "flow.png", some_flow(5, 7))
    with Image.open(tmp_path / "flow.png") as image:
        upper = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(upper, read_png16(tmp_path / "flow.png") >> 8)


@pytest.mark.parametrize("value", [512.0, -512.02, INF])
def test_flow_beyond_what_kitti_holds_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match=r"\[-512, 512\)"):
        write_flow(tmp_path / "flow.png", torch.full((2, 2, 2), value))
    assert list(tmp_path.iterdir()) == []


def filtered(rows: np.ndarray, kinds: list[int]) -> bytes:
    """The row filters of PNG, byte by byte as the standard writes them."""
    lines = [bytes(len(rows[0]))]
    out = b""
    for kind, row in zip(kinds, rows.tolist(), strict=True):
        line = []
        for place, value in enumerate(row):
            a = row[place - 6] if place >= 6 else 0
            b, c = lines[-1][place], lines[-1][place - 6] if place >= 6 else 0
            nearest = min((a, b, c), key=lambda near: abs(a + b - c - near))
            line.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
        lines.append(row)
        out += bytes([kind, *line])
    return out


@pytest.mark.parametrize("kinds", [[0] * 6, [1] * 6, [2] * 6, [3] * 6, [4] * 6, [4, 3, 0, 1, 2, 4]], ids=str)
@pytest.mark.parametrize("width", [1, 2, 9])
def test_every_row_filter_is_undone(tmp_path: Path, kinds: list[int], width: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 2**16, (6, width, 3), np.uint16)
    rows = pixels.astype(">u2").view(np.uint8).reshape(6, -1)
    (tmp_path / "x.png").write_bytes(png(width, 6, filtered(rows, kinds)))
    np.testing.assert_array_equal(read_png16(tmp_path / "x.png"), pixels)


# PFM and Spring's HDF5.


@pytest.mark.parametrize(("scale", "order"), [("-1.0", "<f4"), ("1", ">f4"), ("-0.25", "<f4")])
def test_pfm_begins_with_the_bottom_row(tmp_path: Path, scale: str, order: str) -> None:
    pixels = np.array([[[1, 2, 9], [3, NAN, 9]], [[5, 6, 9], [7, 8, 9]]], order)
    (tmp_path / "x.pfm").write_bytes(pfm(f"PF\n2 2\n{scale}\n", pixels.tobytes()))
    found = read_flow(tmp_path / "x.pfm")
    assert found[0].tolist() == [[5, 7], [1, 3]]
    assert found[1, 0].tolist() == [6, 8]
    assert found[1, 1, 1].isnan()


def test_pfm_bytes(tmp_path: Path) -> None:
    write_flow(tmp_path / "x.pfm", torch.tensor([[[1.0], [3.0]], [[2.0], [4.0]]]))
    assert (tmp_path / "x.pfm").read_bytes() == pfm("PF\n1 2\n-1.0\n", struct.pack("<6f", 3, 4, 0, 1, 2, 0))


def test_spring_files_are_hdf5(tmp_path: Path) -> None:
    flow = some_flow()
    write_flow(tmp_path / "x.flo5", flow)
    with h5py.File(tmp_path / "x.flo5") as file:
        np.testing.assert_array_equal(file["flow"][()], flow.permute(1, 2, 0).numpy())


def test_without_h5py_flo5_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.flo5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"midway-zoo\[flow\]"):
        read_flow(tmp_path / "x.flo5")
    with pytest.raises(MissingExtraError, match=r"midway-zoo\[flow\]"):
        write_flow(tmp_path / "y.flo5", some_flow())


@pytest.mark.parametrize("name", ["flow.jpg", "flow", "flow.flo.gz", "flow.npz"])
def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(flo(1, 1, bytes(8)))
    with pytest.raises(InputError, match=r"\.flo, \.png, .* and \.npy") as caught:
        read_flow(tmp_path / name)
    assert name in str(caught.value)
    with pytest.raises(InputError, match=r"\.flo, \.png, .* or \.npy"):
        write_flow(tmp_path / name, some_flow(), overwrite=True)


@pytest.mark.parametrize("name", ["nowhere.flo", "nowhere.npy", "nowhere.png"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError, match=name) as caught:
        read_flow(tmp_path / name)
    assert isinstance(caught.value, FileNotFoundError)


# Refused writes.


@pytest.mark.parametrize(
    ("flow", "error", "named"),
    [
        (torch.zeros(3, 4, 5), InputError, "(3, 4, 5)"),
        (torch.zeros(1, 2, 4, 5), InputError, "(1, 2, 4, 5)"),
        (torch.zeros(4, 5, 2), InputError, "(4, 5, 2)"),
        (torch.zeros(2, 0, 5), InputError, "(2, 0, 5)"),
        (torch.zeros(2, 4, 5, dtype=torch.int64), InputError, "int64"),
        (torch.zeros(2, 4, 5, dtype=torch.complex64), InputError, "complex64"),
        (np.zeros((2, 4, 5), np.float32), InputTypeError, "ndarray"),
        ([[[0.0]], [[0.0]]], InputTypeError, "list"),
        (None, InputTypeError, "NoneType"),
    ],
    ids=["channels", "batch", "channels last", "no rows", "integers", "complex", "array", "list", "None"],
)
def test_what_is_no_flow_is_not_written(tmp_path: Path, flow: Any, error: type[MidwayZooError], named: str) -> None:
    with pytest.raises(error) as caught:
        write_flow(tmp_path / "flow.flo", flow)
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_replaced_only_when_asked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flow{suffix}"
    first, second = some_flow(), some_flow()
    write_flow(path, first)
    with pytest.raises(OutputExistsError, match="overwrite=True") as caught:
        write_flow(path, second)
    assert isinstance(caught.value, FileExistsError)
    assert path.name in str(caught.value)
    assert same_bits(read_flow(path), first)

    write_flow(path, second, overwrite=True)
    assert same_bits(read_flow(path), second)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"folder .*nowhere"):
        write_flow(tmp_path / "nowhere" / "flow.flo", some_flow())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flow.flo").mkdir()
    with pytest.raises(MidwayZooError, match=r"flow\.flo is a folder"):
        write_flow(tmp_path / "flow.flo", some_flow(), overwrite=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "flow.flo"]


ERRORS = pytest.mark.parametrize(
    "error", [OSError("no space left on device"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"]
)
EXISTING = pytest.mark.parametrize("existing", [False, True], ids=["new file", "existing file"])


@ERRORS
@EXISTING
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flow_that_cannot_be_put_in_place_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, existing: bool, error: BaseException
) -> None:
    path = tmp_path / f"flow{suffix}"
    first = some_flow()
    if existing:
        write_flow(path, first)

    def fail(*_: Any, **__: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 1 + existing  # the whole new file lies beside the old one
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(type(error)):
            write_flow(path, some_flow(), overwrite=True)
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    if existing:
        assert same_bits(read_flow(path), first)


@ERRORS
@EXISTING
def test_a_write_that_breaks_off_leaves_everything_as_it_was(
    tmp_path: Path, existing: bool, error: BaseException
) -> None:
    path = tmp_path / "result"
    if existing:
        path.write_bytes(b"first")

    def write_half() -> None:
        with atomic(path, overwrite=True) as temporary:
            assert temporary.parent == path.parent  # on another disk a rename would not be atomic
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    if existing:
        assert path.read_bytes() == b"first"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "ordinary").write_text("")
    write_flow(tmp_path / f"flow{suffix}", some_flow())
    assert (tmp_path / f"flow{suffix}").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
