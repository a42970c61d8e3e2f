"""Clips and pictures, and what it takes to extract from them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference.footage import write

HEIGHT, WIDTH = 48, 64


def drifting(frames: int, seed: int = 0) -> list[np.ndarray]:
    """Noise that drifts to the left by two pixels a frame."""
    noise = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH + 2 * frames, 3), dtype=np.uint8)
    return [np.ascontiguousarray(noise[:, 2 * index : 2 * index + WIDTH]) for index in range(frames)]


@pytest.fixture(scope="package")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos, of 3, 7, 10 and 8 frames, in a folder and one below it; and a file that is neither."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    for name, frames in (("a1.mp4", 3), ("a2.mp4", 7), ("a10.mp4", 10), ("more/b.mp4", 8)):
        write(folder / name, drifting(frames, frames))
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of two sizes in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(7):
        path = folder / ("cats" if index < 4 else "dogs") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        image = drifting(1, index)[0]
        Image.fromarray(image if index % 3 else image[:, :48]).save(path)
    return folder
