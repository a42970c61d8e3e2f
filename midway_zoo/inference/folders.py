"""Which files of a folder are its images, and in what order: one rule for inference, training and segmentation."""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from midway_zoo.errors import MissingFileError

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif"),
    *(".tiff", ".webp"),
)
"""Of image files, in lower case. Others that Pillow could open (.h5, .mpg, .pdf, .ico ...) are not frames."""
TIMING_FILE = "frames.json"
"""Beside the frames of a folder: when they are shown."""


def is_image(name: str) -> bool:
    """Whether a file counts as an image: by its suffix, and not hidden (``._frame.png`` is a stray of macOS)."""
    return not name.startswith(".") and suffix_of(name) in IMAGE_SUFFIXES


def moves(path: Path) -> bool:
    """Whether a file is an animated WebP, which is a clip and no frame of one: its header says so (VP8X, a flag)."""
    if suffix_of(path.name) != ".webp":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


def suffix_of(name: str) -> str:
    """Suffix in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path per file is slow for 100 000 files)


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key under which ``frame10`` comes after ``frame9``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def frame_files(folder: Path) -> list[str]:
    """Names of the images in a folder, in natural order.

    Raises:
        MissingFileError: if there is no such folder.
    """
    return list(_frame_files(folder, _changed(folder)))


def folder_stamp(folder: Path) -> int:
    """A number that changes with the frames of a folder (names, sizes, times of change) and with nothing else in it.

    Raises:
        MissingFileError: if there is no such folder.
    """
    return _folder_stamp(folder, _changed(folder))


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{folder} is not there any more.") from error


@lru_cache(maxsize=8)
def _frame_files(folder: Path, changed_ns: int) -> tuple[str, ...]:
    """Sorting the frames of an hour takes a second, and every visit to them would."""
    with os.scandir(folder) as entries:
        names = [one.name for one in entries if is_image(one.name) and one.is_file()]
    return tuple(sorted((name for name in names if not moves(folder / name)), key=natural_key))


@lru_cache(maxsize=1024)
def _folder_stamp(folder: Path, changed_ns: int) -> int:
    """Looked at again when the folder changed in any way."""
    digest = hashlib.sha256()
    with os.scandir(folder) as entries:
        wanted = (one for one in entries if is_image(one.name) or one.name == TIMING_FILE)
        kept = {one.name: one.stat() for one in wanted if one.is_file()}  # not of links to what is gone
    for name, status in sorted(kept.items()):
        digest.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return int.from_bytes(digest.digest()[:7], "big")
