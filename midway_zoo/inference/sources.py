"""What a folder, a list or a file of footage holds: video files, and folders of frames that each count as one video."""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.folders import is_image, moves, natural_key, suffix_of

VIDEO_SUFFIXES = (
    *(".3gp", ".apng", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
"""What a folder is searched for. A list of files may name any other."""

Kind: TypeAlias = Literal["video", "frames"]


@dataclass(frozen=True)
class Source:
    """One video of a data root."""

    path: str
    """Relative to :func:`base_folder` of the root, with forward slashes."""
    kind: Kind


def base_folder(root: Path) -> Path:
    """What the paths of a root are relative to: the folder itself, or the one that holds the list or video."""
    return root if root.is_dir() else root.parent


def find_sources(root: Path) -> list[Source]:
    """Every video under a root, in natural order.

    Args:
        root: a folder, searched with all folders in it for video files and for folders that hold images
            (each is one video); or a text file with the path of a video or frame folder per line,
            relative to the list's own folder, ``#`` at the start or after a space starting a comment; or one video
            file. Names that start with a dot are left out.

    Raises:
        MissingFileError: if there is no such root.
        InputError: if a list names nothing.
    """
    if root.is_dir():
        found = list(_in_folder(root))
    elif not root.is_file():
        raise MissingFileError(f"there is no data folder, list or video {root}.")
    elif root.suffix.lower() == ".txt":
        found = [Source(path, "frames" if (root.parent / path).is_dir() else "video") for path in listed_paths(root)]
    else:
        found = [Source(root.name, "video")]
    return sorted(found, key=lambda source: natural_key(source.path))


def _in_folder(root: Path) -> Iterator[Source]:
    for folder, names in walk(root):
        videos = [name for name in names if suffix_of(name) in VIDEO_SUFFIXES or moves(root / folder / name)]
        yield from (Source((folder / name).as_posix(), "video") for name in videos)
        if any(is_image(name) for name in {*names} - {*videos}):
            yield Source(folder.as_posix(), "frames")


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder under a root, relative to it, and the names of its files, without what begins with a dot."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        # A link to a folder above would be walked for ever.
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        yield Path(folder).relative_to(root), [name for name in files if not name.startswith(".")]


def listed_paths(root: Path) -> list[str]:
    """The paths that a list names, once each, with forward slashes, relative to its own folder.

    Raises:
        InputError: if it names nothing, or cannot be read as text.
    """
    paths = dict.fromkeys(path for line in _list_lines(root) if (path := _listed_path(root, line)))
    if not paths:
        raise InputError(f"the list {root} names no file; write the path of a video or frame folder per line.")
    return list(paths)


def _list_lines(root: Path) -> Iterator[str]:
    """Lines of a list. Bytes that are not UTF-8 are kept as Python keeps them in names of files."""
    content = root.read_bytes()
    encoding, errors = "utf-8-sig", "surrogateescape"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, errors = "utf-16", "strict"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise InputError(f"the list {root} cannot be read as {encoding} ({error}); save it as UTF-8.") from error
    if "\0" in text:
        raise InputError(f"the list {root} holds zero bytes; save it as UTF-8 text, with the path of a video per line.")
    # Not splitlines, which also splits at characters that names may hold.
    return (line.strip() for line in text.replace("\r", "\n").split("\n"))


def _listed_path(root: Path, line: str) -> str | None:
    """A line as a path, None if it names none: as it stands, without its comment, as Windows programs write it."""
    bare = re.sub(r"(^|\s)#.*", "", line).strip()
    forms = [form for form in (line, bare) if form and not form.startswith("#")]
    forms += [os.fsencode(form).decode("cp1252", "replace") for form in forms if not _encodable(form)]
    forms += [form.replace("\\", "/") for form in forms if "\\" in form]
    found = next((form for form in forms if (root.parent / form).exists()), None)
    if found is None and not _encodable(bare):
        raise InputError(
            f"the list {root} names {bare!a}, which is neither UTF-8 nor a file that is there; save it as UTF-8."
        )
    if found is None and "://" in bare:  # a URL, whose slashes stay
        return bare
    return Path(found or bare).as_posix() if found or bare else None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
