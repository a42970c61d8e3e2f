"""Where items lie and where results go: folders of this machine, and whatever fsspec reaches (s3://, gs://, hf://)."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from midway_zoo.errors import DiskFullError, InputError, MissingExtraError
from midway_zoo.files import atomic

ABOUT = "extract.json"
"""File in every folder of results that says how they were made."""
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "ssh": "paramiko",
}
"""Protocol -> package of the fsspec driver on PyPI."""


def is_remote(path: str) -> bool:
    """Whether a path is a URL, such as s3://bucket/folder."""
    return "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        MissingExtraError: naming the package, if the driver of the protocol is not installed.
        InputError: for a protocol that fsspec does not know.
    """
    protocol = url.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol, f"fsspec[{protocol}]")
        raise MissingExtraError(f'{url}: {protocol}:// needs a driver: pip install "{package}" ({error}).') from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "hf", "https"))
        raise InputError(f"{url}: {error}. Paths and URLs are read: {known} and whatever else fsspec knows.") from error
    return system, str(path)


def open_read(place: str) -> BinaryIO:
    """A file or URL, opened for reading bytes."""
    if not is_remote(place):
        return Path(place).open("rb")
    system, path = filesystem(place)
    opened: BinaryIO = system.open(path, "rb")
    return opened


def joined(base: str, path: str) -> str:
    """A path below a folder or URL; absolute paths and URLs stay as they are."""
    if is_remote(path) or os.path.isabs(path) or not base:  # noqa: PTH117  (no Path: names may be URLs)
        return path
    return f"{base.rstrip('/')}/{path}" if is_remote(base) else str(Path(base) / path)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, means that the disk or the quota is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFullError) or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


class Results:
    """The folder of an extraction: files are complete or absent, and named relative to it.

    Args:
        root: a path, or a URL. On an object store a file appears once it has been uploaded completely; on a disk it is
            written under a temporary name, synced and renamed.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.local = None if is_remote(root) else Path(root)
        self._system: Any
        self._system, self._path = filesystem(root) if self.local is None else (None, "")

    def __str__(self) -> str:
        return self.root

    def names(self, folder: str = "") -> list[str]:
        """Names of the files of one folder, sorted, without those that begin with a dot."""
        if self.local is not None:
            if not (self.local / folder).is_dir():
                return []
            with os.scandir(self.local / folder) as entries:
                found = [entry.name for entry in entries if entry.is_file()]
        else:
            inside = f"{self._path.rstrip('/')}/{folder}".rstrip("/")
            self._system.invalidate_cache()
            try:
                listed = self._system.ls(inside, detail=True)
            except FileNotFoundError:
                return []
            found = [entry["name"].rpartition("/")[2] for entry in listed if entry["type"] == "file"]
        return sorted(name for name in found if not name.startswith("."))

    def open(self, name: str) -> BinaryIO:
        """A file, opened for reading."""
        if self.local is not None:
            return (self.local / name).open("rb")
        opened: BinaryIO = self._system.open(f"{self._path}/{name}", "rb")
        return opened

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.local is not None:
            return (self.local / name).is_file()
        self._system.invalidate_cache()
        return bool(self._system.exists(f"{self._path}/{name}"))

    def text(self, name: str) -> str | None:
        """Contents of a text file; None if it does not exist."""
        try:
            with self.open(name) as file:
                return file.read().decode()
        except FileNotFoundError:
            return None

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file, or replace an existing one, completely or not at all; ``write`` gets a temporary path.

        Raises:
            DiskFullError: if the disk is full; nothing of the file is left.
        """
        try:
            if self.local is None:
                with tempfile.TemporaryDirectory(prefix="midway_zoo_") as folder:
                    write(Path(folder) / "file")
                    self._system.put_file(str(Path(folder) / "file"), f"{self._path}/{name}")
                return
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path, overwrite=True) as temporary:
                write(temporary)
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
        except Exception as error:
            if is_disk_full(error):
                raise DiskFullError(
                    f"no room for {name} in {self.root} ({error}). What was written before is kept: make room and "
                    "start the same command again, it goes on from there."
                ) from error
            raise

    def put_text(self, name: str, text: str) -> None:
        """:meth:`put` of a text."""

        def write(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        self.put(name, write)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
        elif self._system.exists(f"{self._path}/{name}"):
            self._system.rm_file(f"{self._path}/{name}")

    def rename(self, name: str, other: str) -> None:
        """Give a file another name."""
        if self.local is not None:
            (self.local / name).replace(self.local / other)
        else:
            self._system.mv(f"{self._path}/{name}", f"{self._path}/{other}")

    def clear_unfinished(self) -> None:
        """Remove what a killed process left behind under temporary names."""
        if self.local is None:
            return
        for folder in (self.local, *(self.local / name for name in ("data", "plan", "attempts"))):
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)
