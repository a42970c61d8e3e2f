"""The sources of training data on disk: detection of changes, and frame folders with their times."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.folders import TIMING_FILE, folder_stamp, frame_files
from midway_zoo.inference.image_files import read_image
from midway_zoo.inference.sources import Kind


def stamp(path: Path, kind: Kind) -> tuple[int, int]:
    """Two numbers to detect a changed source: bytes and modification time in ns of a file; 0 and
    :func:`~midway_zoo.inference.folders.folder_stamp` of a folder.

    Raises:
        MissingFileError: if it does not exist.
    """
    try:
        if kind == "frames":
            return 0, folder_stamp(path)
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{path} is not there any more.") from error
    return status.st_size, status.st_mtime_ns


def read_timing(folder: Path) -> dict[str, Any] | None:
    """The contents of a frame folder's ``frames.json``; None if there is none.

    Raises:
        InputError: if it is not such a file.
    """
    path = folder / TIMING_FILE
    try:
        timing = json.loads(path.read_text(encoding="utf-8-sig"))
        return {"tick": float(timing["tick"]), "pts": [int(pts) for pts in timing["pts"]]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a file of frame times ({error!r}); delete it to use the assumed rate."
        ) from error


def read_images(
    folder: Path, indices: Sequence[int], frames: int, short_side: int | None = None
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Frames of a folder by their positions: (frames that were read, reasons for the others).

    Raises:
        InputError: if the folder no longer holds ``frames`` images.
        MissingFileError: if it does not exist.
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
