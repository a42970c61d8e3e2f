"""Frames of animated GIF, WebP and PNG files, read by Pillow as a browser shows them."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.inference.images import UNREADABLE, reading, to_tensor

ANIMATION_SUFFIXES = (".apng", ".gif", ".png", ".webp")
"""Images that may move."""
_SHORTEST = 10
"""Milliseconds: browsers take up to this much for a tenth of a second, and files are made for that."""
_LONGEST_END = 16  # bytes after a GIF's last frame, in which the mark of its end is looked for

_logger = logging.getLogger(__name__)


def is_animation(path: Path) -> bool:
    """Whether an image file holds several frames; False for what cannot be read, too."""
    if path.suffix.lower() not in ANIMATION_SUFFIXES:
        return False
    try:
        with reading(path), Image.open(_whole(path)) as file:
            return bool(getattr(file, "is_animated", False))
    except (InputError, OSError):
        return False


def read_animation(path: Path, *, warn: bool = True) -> Iterator[tuple[Tensor, float]]:
    """Frames, float32 (3, H, W) in [0, 1], with the seconds at which they are shown; a still picture is one frame.

    A file that is damaged or cut off gives its frames up to there, and one warning in the log unless ``warn`` is off.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if Pillow cannot read it, not even the first frame.
    """
    passed, frames = 0.0, 0
    with reading(path), Image.open(source := _whole(path)) as file:
        try:
            for image in ImageSequence.Iterator(file):
                frame = to_tensor(image)
                duration = float(image.info.get("duration") or 0)
                frames += 1
                yield frame, passed / 1000
                passed += duration if duration > _SHORTEST else 100.0
        except UNREADABLE:
            if not frames:
                raise
            complete = False
        else:
            complete = source is path and _is_complete(path, file, frames)
    if warn and not complete:
        _logger.warning(
            "%s breaks off at %.2f s: %d frame%s could be read. What could be read is used; get the file again for the "
            "rest.",
            *(path, passed / 1000, frames, "" if frames == 1 else "s"),
        )


def _whole(path: Path) -> Any:
    """What Pillow opens: the path, or of a WebP that was cut off the part that it can read, since of half a file its
    decoder reads nothing (RIFF chunks: a name, a length and as many bytes, padded to an even number)."""
    if path.suffix.lower() != ".webp":
        return path
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"RIFF" or 8 + int.from_bytes(head[4:], "little") <= path.stat().st_size:
        return path
    content = path.read_bytes()
    end = 12
    while (after := end + 8 + (int.from_bytes(content[end + 4 : end + 8], "little") + 1) // 2 * 2) <= len(content):
        end = after
    return io.BytesIO(b"RIFF" + (end - 8).to_bytes(4, "little") + content[8:end])


def _is_complete(path: Path, file: Any, frames: int) -> bool:
    """Whether a file that gave so many frames without an error lacks none: one may end between two of them."""
    if file.format == "GIF":
        with path.open("rb") as stored:
            stored.seek(max(0, path.stat().st_size - _LONGEST_END))
            return b";" in stored.read()
    return frames >= int(getattr(file, "n_frames", 1))
