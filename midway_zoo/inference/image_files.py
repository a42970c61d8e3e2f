"""Image files and masks as data sets read them: integers, upright, no larger than requested."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.inference.images import reading, to_tensor


def read_image(path: Path, short_side: int | None = None) -> Tensor:
    """An image file as uint8 (3, H, W), RGB, upright, shorter side at most ``short_side``; see :func:`to_tensor`.

    Raises:
        InputError: if it cannot be read.
        MissingFileError: if it is not there.
    """
    return to_uint8(to_tensor(path), short_side, enlarge=False)


def image_size(path: Path) -> tuple[int, int]:
    """Upright (height, width) of an image file, read completely but without torch, whose threads do not survive a fork.

    Raises:
        InputError: if it cannot be read.
        MissingFileError: if it is not there.
    """
    with reading(path), Image.open(path) as image:
        image.load()
        width, height = ImageOps.exif_transpose(image).size
        return height, width


def read_labels(path: Path) -> npt.NDArray[Any]:
    """A mask of integers (H, W), its stored values or palette indices, rotated by its EXIF orientation as images are.

    Raises:
        InputError: if it cannot be read, or has more than one channel.
        MissingFileError: if it is not there.
    """
    with reading(path), Image.open(path) as image:
        image.load()
        labels = np.array(ImageOps.exif_transpose(image))
        if labels.ndim != 2 or labels.dtype.kind not in "uib":
            raise InputError(
                f"the mask has shape {labels.shape} and values of {labels.dtype}: one channel of integers is "
                "expected, or a palette."
            )
        return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def to_uint8(image: Tensor, size: int | tuple[int, int] | None = None, *, enlarge: bool = True) -> Tensor:
    """A float image (3, H, W) in [0, 1] as uint8, brought to a shorter side or (height, width) by bicubic filtering."""
    pixels = (image * 255).round().to(torch.uint8)
    given = (pixels.shape[1], pixels.shape[2])
    wanted = scaled_size(*given, size, enlarge=enlarge) if not isinstance(size, tuple | list) else size
    if wanted != given:
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        resized = np.array(picture.resize((wanted[1], wanted[0]), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized).permute(2, 0, 1)
    return pixels.contiguous()


def scaled_size(height: int, width: int, short_side: int | None, *, enlarge: bool = False) -> tuple[int, int]:
    """(height, width) with the shorter side brought to ``short_side``; None keeps both."""
    if short_side is None or (min(height, width) <= short_side and not enlarge):
        return height, width
    scale = short_side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
