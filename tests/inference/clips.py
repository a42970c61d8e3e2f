"""Clips of every kind, and how their motion is compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.inference.images import to_tensor

T = 5


def consecutive(network: mz.MidwayNetwork, clip: Any, **kwargs: Any) -> mz.MotionLatent:
    return mz.infer_motion_latent(network, clip[:-1], clip[1:], **kwargs)


def assert_same_motion(found: mz.MotionLatent, expected: mz.MotionLatent, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=atol)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=atol)
    assert list(found.levels) == [2, 1, 0]
    for level, tokens in found.levels.items():
        torch.testing.assert_close(tokens, expected.levels[level], rtol=0, atol=atol)
    assert found.grid == expected.grid


def as_folder(frames: np.ndarray, folder: Path) -> Path:
    """Named so that neither time nor creation order is the order of the names; with files that are not frames."""
    folder.mkdir()
    for index in reversed(range(len(frames))):
        Image.fromarray(frames[index]).save(folder / f"frame_{index:03}.{'png' if index % 2 else 'PNG'}")
    (folder / "notes.txt").write_text("no frame")
    (folder / "masks").mkdir()
    return folder


CLIPS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "list of arrays": lambda frames, _: list(frames),
    "tuple of PIL images": lambda frames, _: tuple(Image.fromarray(frame) for frame in frames),
    "list of mixed kinds": lambda frames, _: [frames[0], to_tensor(frames[1]), *map(Image.fromarray, frames[2:])],
    "array (T, H, W, 3)": lambda frames, _: frames,
    "tensor (T, 3, H, W)": lambda frames, _: torch.from_numpy(frames).permute(0, 3, 1, 2),
    "float tensor (T, 3, H, W)": lambda frames, _: torch.from_numpy(frames).permute(0, 3, 1, 2) / 255,
    "folder": lambda frames, folder: as_folder(frames, folder / "frames"),
    "folder as str": lambda frames, folder: str(as_folder(frames, folder / "frames")),
    "list of paths": lambda frames, folder: sorted(as_folder(frames, folder / "frames").glob("*.[pP]*")),
}
