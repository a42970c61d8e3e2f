"""Flow fields on disk: what is written is read back, and what is malformed is refused."""

import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midway_zoo.errors import (
    InputError,
    InputTypeError,
    MidwayZooError,
    MissingExtraError,
    MissingFileError,
    OutputExistsError,
)
from midway_zoo.flow import read_flow, write_flow
from tests.flow.files import INF, NAN, SUFFIXES, flo, npy, pfm, same_bits, some_flow

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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "ordinary").write_text("")
    write_flow(tmp_path / f"flow{suffix}", some_flow())
    assert (tmp_path / f"flow{suffix}").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
