"""What a data root holds: video files, and folders of frames that each count as one video."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.images import to_tensor

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
"""What a folder is searched for. A list of files may name any other."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
TIMING_FILE = "frames.json"
"""Beside the frames of a folder, what :func:`~midway_zoo.train.data.prepare.prepare` knows of their times."""

Kind: TypeAlias = Literal["video", "frames"]


@dataclass(frozen=True)
class Source:
    """One video of a data root."""

    path: str
    """Relative to :func:`base_folder` of the root, with forward slashes."""
    kind: Kind


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key under which ``frame10`` comes after ``frame9``."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def base_folder(root: Path) -> Path:
    """What the paths of a root are relative to: the folder itself, or the one that holds the list or video."""
    return root if root.is_dir() else root.parent


def find_sources(root: Path) -> list[Source]:
    """Every video under a root, in natural order.

    Args:
        root: a folder, searched with all folders in it for video files and for folders that hold images
            (each is one video); or a text file with the path of a video or frame folder per line,
            relative to the list's own folder, ``#`` starting a comment; or one video file. Names that
            start with a dot are left out.

    Raises:
        MissingFileError: if there is no such root.
        InputError: if a list names nothing.
    """
    if root.is_dir():
        found = list(_walk(root))
    elif not root.is_file():
        raise MissingFileError(f"there is no data folder, list or video {root}.")
    elif root.suffix.lower() == ".txt":
        found = _listed(root)
    else:
        found = [Source(root.name, "video")]
    return sorted(found, key=lambda source: natural_key(source.path))


def _walk(root: Path) -> Iterator[Source]:
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        # A link to a folder above would be walked for ever.
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        relative = Path(folder).relative_to(root)
        names = [name for name in files if not name.startswith(".")]
        yield from (Source((relative / name).as_posix(), "video") for name in names if _suffix(name) in VIDEO_SUFFIXES)
        if any(_suffix(name) in IMAGE_SUFFIXES for name in names):
            yield Source(relative.as_posix(), "frames")


def _listed(root: Path) -> list[Source]:
    lines = (line.split("#")[0].strip() for line in root.read_text(encoding="utf-8").splitlines())
    paths = dict.fromkeys(Path(line).as_posix() for line in lines if line)
    if not paths:
        raise InputError(f"the list {root} names no file; write the path of a video or frame folder per line.")
    return [Source(path, "frames" if (root.parent / path).is_dir() else "video") for path in paths]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path per file is slow for 100 000 files)


def frame_files(folder: Path) -> list[str]:
    """Names of the images of a folder, in natural order.

    Raises:
        MissingFileError: if there is no such folder.
    """
    return _frame_files(folder, stamp(folder, "frames")[1])


@lru_cache(maxsize=8)
def _frame_files(folder: Path, changed_ns: int) -> list[str]:
    """Sorting the frames of an hour takes a second, and every visit to them would."""
    names = os.listdir(folder)  # noqa: PTH208
    images = (name for name in names if not name.startswith(".") and _suffix(name) in IMAGE_SUFFIXES)
    return sorted(images, key=natural_key)


def stamp(path: Path, kind: Kind) -> tuple[int, int]:
    """(size, time of change in ns) that tells a changed source; the size of a folder is not meaningful and 0.

    Raises:
        MissingFileError: if it is not there.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{path} is not there any more.") from error
    return (0 if kind == "frames" else status.st_size), status.st_mtime_ns


def read_timing(folder: Path) -> dict[str, Any] | None:
    """What ``frames.json`` of a frame folder says, or None without one.

    Raises:
        InputError: if it is no such file.
    """
    path = folder / TIMING_FILE
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
        return {"tick": float(timing["tick"]), "pts": [int(pts) for pts in timing["pts"]]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no file of frame times ({error!r}); delete it to use the assumed rate.") from error


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) with the shorter side brought down to ``short_side``; never enlarged."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_image(path: Path, short_side: int | None = None) -> Tensor:
    """An image file as uint8 (3, H, W), RGB, upright; 16-bit and grey ones converted.

    Raises:
        InputError: if it cannot be read.
        MissingFileError: if it is not there.
    """
    image = (to_tensor(path) * 255).round().to(torch.uint8)
    height, width = scaled_size(image.shape[1], image.shape[2], short_side)
    if (height, width) != tuple(image.shape[1:]):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
        image = torch.from_numpy(resized).permute(2, 0, 1)
    return image.contiguous()


def read_images(
    folder: Path, indices: Sequence[int], frames: int, short_side: int | None = None
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Frames of a folder by their positions: (frames that were read, reasons for the others).

    Raises:
        InputError: if the folder does not hold ``frames`` images any more.
        MissingFileError: if it is not there.
    """
    names = frame_files(folder)
    if len(names) != frames:
        raise InputError(f"{folder} holds {len(names)} images instead of {frames}; build the index again.")
    images, failed = {}, {}
    for index in sorted(set(indices)):
        try:
            images[index] = read_image(folder / names[index], short_side)
        except (InputError, MissingFileError) as error:
            failed[index] = str(error)
    return images, failed
