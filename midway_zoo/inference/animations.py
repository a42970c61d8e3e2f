"""Frames of animated GIF, WebP and PNG files, read by Pillow as a browser shows them."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageSequence
from torch import Tensor

from midway_zoo.inference.images import reading, to_tensor

ANIMATION_SUFFIXES = (".apng", ".gif", ".png", ".webp")
"""Images that may move."""
_SHORTEST = 10
"""Milliseconds: browsers take up to this much for a tenth of a second, and files are made for that."""


def read_animation(path: Path) -> Iterator[tuple[Tensor, float]]:
    """Frames, float32 (3, H, W) in [0, 1], with the seconds at which they are shown; a still picture is one frame.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if Pillow cannot read it.
    """
    passed = 0.0
    with reading(path), Image.open(path) as file:
        for image in ImageSequence.Iterator(file):
            frame = to_tensor(image)
            duration = float(image.info.get("duration") or 0)
            yield frame, passed / 1000
            passed += duration if duration > _SHORTEST else 100.0
