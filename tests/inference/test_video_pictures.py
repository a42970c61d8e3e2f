"""Which way up frames are, and their colours."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from midway_zoo.inference.video import read_video
from tests.inference.footage import grey, write
from tests.inference.test_video import HEIGHT, WIDTH, as_displayed, set_display_matrix

# [a b u c d v x y w]: rotations, and each of them mirrored.
ORIENTATIONS = {
    "0": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "90": (0, 1, 0, -1, 0, 0, HEIGHT, 0, 1),
    "180": (-1, 0, 0, 0, -1, 0, WIDTH, HEIGHT, 1),
    "270": (0, -1, 0, 1, 0, 0, 0, WIDTH, 1),
    "mirrored": (-1, 0, 0, 0, 1, 0, WIDTH, 0, 1),
    "upside down": (1, 0, 0, 0, -1, 0, 0, HEIGHT, 1),
    "transposed": (0, 1, 0, 1, 0, 0, 0, 0, 1),
    "transversed": (0, -1, 0, -1, 0, 0, HEIGHT, WIDTH, 1),
}


def corners() -> np.ndarray:
    """Four corners of four levels: no two orientations look the same."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:16, :16], image[:16, 48:], image[32:, :16] = 250, 170, 90
    return image


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("size", [None, 24])
def test_all_eight_orientations(tmp_path: Path, name: str, size: int | None) -> None:
    stored = corners()
    path = write(tmp_path / "turned.mp4", [stored] * 2)
    set_display_matrix(path, ORIENTATIONS[name])
    image = next(read_video(path, size=size)).image
    expected = torch.from_numpy(as_displayed(stored, ORIENTATIONS[name])).permute(2, 0, 1).float()
    if size is not None:
        expected = expected[:, ::2, ::2]
    assert image.shape == expected.shape
    assert image.is_contiguous()
    inner = image[:, 4:-4, 4:-4] if size is None else image[:, 2:-2, 2:-2]
    wanted = expected[:, 4:-4, 4:-4] if size is None else expected[:, 2:-2, 2:-2]
    assert (inner - wanted).abs().mean() < 6


COLOUR = (200, 40, 40)
CODED = {
    "bt709": {"matrix": 1, "full_range": False},
    "bt709, full range": {"matrix": 1, "full_range": True},
    "bt601": {"matrix": 5, "full_range": False},
    "bt601, full range": {"matrix": 5, "full_range": True},
    "bt2020": {"matrix": 9, "full_range": False},
    "untagged": {},
    "yuvj420p": {"pixels": "yuvj420p"},
    "10 bit": {"pixels": "yuv420p10le", "matrix": 1, "full_range": False},
    "10 bit, full range": {"pixels": "yuv420p10le", "matrix": 9, "full_range": True},
    "4:4:4": {"pixels": "yuv444p", "matrix": 1, "full_range": False},
    "RGB": {"codec": "libx264rgb", "pixels": "rgb24"},
    "RGB, lossless": {"codec": "ffv1", "pixels": "bgr0", "container": "matroska"},
    "alpha": {"codec": "ffv1", "pixels": "bgra", "container": "matroska"},
}


def flat(colour: tuple[int, int, int] = COLOUR, height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(np.uint8(colour), (height, width, 3)).copy()


@pytest.mark.parametrize("name", CODED)
def test_colours_are_read_by_the_files_own_matrix_and_range(tmp_path: Path, name: str) -> None:
    if CODED[name].get("matrix") == 9 and int(av.__version__.partition(".")[0]) < 18:
        pytest.skip("PyAV 17 writes other colours for BT.2020; it reads them right")
    suffix = "mkv" if "container" in CODED[name] else "mp4"
    path = write(tmp_path / f"colour.{suffix}", [flat()] * 3, **CODED[name])
    found = next(read_video(path)).image.flatten(1).float().mean(dim=1).tolist()
    assert found == pytest.approx(COLOUR, abs=4)


def test_every_frame_is_given_at_its_own_size(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.mkv", [grey(3)[:47, :63]] * 2, codec="ffv1", pixels="yuv444p")
    assert next(read_video(path)).image.shape == (3, 47, 63)


@pytest.mark.parametrize(("size", "matrix"), [((720, 1280), 1), ((48, 64), 5)])
def test_untagged_colours_are_taken_as_players_do(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    image = np.full((*size, 3), (200, 40, 40), np.uint8)
    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=20, options={"crf": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", dst_colorspace=matrix)
        frame.colorspace = 2
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    shown = next(iter(read_video(tmp_path / "x.mp4"))).image.float().mean(dim=(1, 2))
    assert (shown - torch.tensor([200.0, 40, 40])).abs().max() < 4
