"""KITTI's flow: PNG with three channels of 16 bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.errors import InputError
from midway_zoo.flow import read_flow, write_flow
from midway_zoo.flow.png16 import read_png16
from tests.flow.files import INF, NAN, png, same_bits, some_flow


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
