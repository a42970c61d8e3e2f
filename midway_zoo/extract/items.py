"""The items of an extraction: videos, images and clips of frames, from folders, lists, patterns and tar shards."""

import glob
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.extract.places import filesystem, is_remote, joined, open_read
from midway_zoo.inference.folders import is_image, natural_key, suffix_of
from midway_zoo.inference.sources import VIDEO_SUFFIXES, listed_paths, walk
from midway_zoo.reading import HEAD, stand_in_of

Kind: TypeAlias = Literal["video", "image", "frames", "tar"]
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz")

Member: TypeAlias = tuple[str, int, int]
"""A file: its path or that of the tar that holds it, its offset in the tar (-1 for a file of its own), and its
bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to extract from."""

    key: str
    """Its name in the results: its path below the input; for a member of a tar, the path of the tar, "::" and its
    own."""
    kind: Kind
    """"tar": a shard that could not be listed; whoever reads it says why."""
    members: tuple[Member, ...]
    """Its file; for "frames", the files in order."""

    @property
    def size(self) -> int:
        """Number of bytes to read."""
        return sum(size for _, _, size in self.members)

    def to_json(self) -> list[Any]:
        """For the plan: short, since there may be millions."""
        return [self.key, self.kind, [list(member) for member in self.members]]

    @classmethod
    def from_json(cls, saved: list[Any]) -> "Item":
        """What :meth:`to_json` gave."""
        key, kind, members = saved
        return cls(key, kind, tuple((path, offset, size) for path, offset, size in members))


@dataclass(frozen=True)
class Listing:
    """What an input holds."""

    base: str
    """Folder or URL that the paths of members are relative to."""
    items: list[Item]
    """In natural order of their keys, each key once."""


_File: TypeAlias = tuple[str, int, bool]
"""Path below the base, bytes, and whether it was named by itself, so that any ending will do."""


def find_items(source: str, images: Literal["each", "clip"]) -> Listing:
    """Everything that an input holds.

    Args:
        source: a folder, which is searched with all folders in it; a ``.txt`` list with a path or URL per line,
            relative to the list's folder; a pattern with ``*``, ``?`` or ``{000..063}``; a tar (``.tar``, ``.tar.gz``,
            ``.tgz``) whose members are taken; one video or image; or any of these as a URL that fsspec reads.
        images: "each" makes every image an item of its own; "clip" makes the images of a folder the frames of a clip.

    Raises:
        MissingFileError: if there is no such input.
        InputError: if it holds no video or image.
        MissingExtraError: for a URL whose driver is not installed.
    """
    base, files = _remote_files(source) if is_remote(source) else _local_files(source)
    found = sorted(_items(base, files, images), key=lambda item: natural_key(item.key))
    if not found:
        kinds = "videos, images, or tars of them"
        raise InputError(f"{source} holds nothing to extract from; {kinds} are recognised by their endings.")
    once: dict[str, Item] = {}
    for item in found:
        if once.setdefault(item.key, item) != item:
            raise InputError(f"{source} holds two items that are called {item.key}; give them different names.")
    return Listing(base, list(once.values()))


# Which files.


def _local_files(source: str) -> tuple[str, Iterable[_File]]:
    path = Path(source)
    if path.is_dir():
        return str(path), _walked(path, Path())
    if path.is_file() and path.suffix.lower() == ".txt":
        return str(path.parent), _named(path.parent, listed_paths(path))
    if path.is_file():
        return str(path.parent), _named(path.parent, [path.name])
    expanded = list(_braces(source))
    if len(expanded) == 1 and not glob.has_magic(source):
        raise MissingFileError(f"there is no folder, list, tar, video or image {source}.")
    matched = [name for one in expanded for name in _matches(one)]
    fixed = Path(os.path.commonpath([str(Path(one).absolute().parent) for one in matched]))
    below = [str(Path(one).absolute().relative_to(fixed)) for one in matched]
    return str(fixed), _named(fixed, below, by_itself=False)


def _matches(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        if not Path(pattern).exists():
            raise MissingFileError(f"there is no file {pattern}.")
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (as the command line reads patterns)
    if not found:
        raise MissingFileError(f"no file matches {pattern}.")
    return found


def _named(base: Path, paths: Iterable[str], *, by_itself: bool = True) -> Iterator[_File]:
    """Paths below a base; folders among them are searched, and a missing file becomes an item that fails when read."""
    for path in paths:
        if not is_remote(path) and (base / path).is_dir():
            yield from _walked(base, Path(path))
        else:
            yield path, 0 if is_remote(path) else _size(base / path), by_itself


def _walked(base: Path, below: Path) -> Iterator[_File]:
    for folder, names in walk(base / below):
        for name in names:
            yield (below / folder / name).as_posix(), _size(base / below / folder / name), False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remote_files(source: str) -> tuple[str, Iterable[_File]]:
    system, path = filesystem(source)
    protocol = source.partition("://")[0]

    def below(base: str, entries: dict[str, Any]) -> list[_File]:
        files = ((name, entry) for name, entry in entries.items() if entry["type"] == "file")
        return [(name[len(base) :].lstrip("/"), entry.get("size") or 0, False) for name, entry in files]

    if glob.has_magic(path) or len(list(_braces(path))) > 1:
        entries: dict[str, Any] = {}
        for one in _braces(path):
            entries |= system.glob(one, detail=True)
        base = re.split(r"[*?\[{]", path)[0].rpartition("/")[0]
        if not entries:
            raise MissingFileError(f"no file matches {source}.")
        return f"{protocol}://{base.lstrip('/')}", below(base, entries)
    if system.isdir(path):
        return f"{protocol}://{path.lstrip('/')}", below(path, system.find(path, detail=True))
    if not system.exists(path):
        raise MissingFileError(f"there is no folder, list, tar, video or image {source}.")
    folder, _, name = source.rpartition("/")
    if name.endswith(".txt"):
        with open_read(source) as file:
            lines = (line.partition(" #")[0].strip() for line in file.read().decode("utf-8-sig").splitlines())
            return folder, [(line, 0, True) for line in lines if line and not line.startswith("#")]
    return folder, [(name, system.info(path).get("size") or 0, True)]


def _braces(pattern: str) -> Iterator[str]:
    """Names of a numbered set of shards, such as shard-{000..063}.tar, as WebDataset writes it."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        yield pattern
        return
    first, last = found[1], found[2]
    for number in range(int(first), int(last) + 1):
        yield from _braces(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


# Which items.


def _items(base: str, files: Iterable[_File], images: Literal["each", "clip"]) -> Iterator[Item]:
    frames: dict[str, list[Member]] = {}
    for path, size, by_itself in files:
        name = path.rpartition("/")[2]
        if name.startswith("."):
            continue
        if name.lower().endswith(TAR_SUFFIXES):
            yield from _members(base, path, size, images)
        elif is_image(name):
            if images == "each":
                yield Item(_key(path), "image", ((path, -1, size),))
            else:
                frames.setdefault(path.rpartition("/")[0] or ".", []).append((path, -1, size))
        elif by_itself or suffix_of(name) in VIDEO_SUFFIXES:
            yield Item(_key(path), "video", ((path, -1, size),))
    for folder, members in frames.items():
        ordered = sorted(members, key=lambda member: natural_key(member[0]))
        yield Item(_key(folder), "frames", tuple(ordered))


def _members(base: str, path: str, size: int, images: Literal["each", "clip"]) -> Iterator[Item]:
    """The members of a tar; with ``images="clip"``, the images of a folder in it are one clip."""
    frames: dict[str, list[Member]] = {}
    try:
        for name, offset, length in tar_members(joined(base, path)):
            place = (path, offset, length)
            if is_image(name.rpartition("/")[2]):
                if images == "each":
                    yield Item(_key(f"{path}::{name}"), "image", (place,))
                else:
                    frames.setdefault(name.rpartition("/")[0], []).append((f"{path}\0{name}", offset, length))
            elif suffix_of(name) in VIDEO_SUFFIXES and not name.rpartition("/")[2].startswith("."):
                yield Item(_key(f"{path}::{name}"), "video", (place,))
    except (tarfile.TarError, EOFError, OSError, InputError) as error:
        if isinstance(error, MissingFileError):
            raise
        yield Item(_key(path), "tar", ((path, -1, size),))
    for folder, members in frames.items():
        ordered = sorted(members, key=lambda member: natural_key(member[0]))
        inside = tuple((name.partition("\0")[0], offset, length) for name, offset, length in ordered)
        yield Item(_key(f"{path}::{folder or '.'}"), "frames", inside)


def tar_members(place: str) -> Iterator[Member]:
    """(name, offset, bytes) of the files of a tar; in a compressed one, the offset in the unpacked data.

    Raises:
        InputError: for what stands in for a tar that was not fetched.
        TarError, EOFError, OSError: for a damaged one.
    """
    with open_read(place) as file, _opened(file, place) as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size
            archive.members = []  # type: ignore[attr-defined]  # otherwise it keeps every header


def _opened(file: BinaryIO, place: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:*")
    except tarfile.ReadError as error:
        file.seek(0)
        if problem := stand_in_of(file.read(HEAD)):
            raise InputError(f"{place} {problem}") from error
        raise


def _key(path: str) -> str:
    """A path as text that every format can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
