"""Contents of files of the loopback Hub of :mod:`hub_server`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
LFS_SUFFIXES = (".bin", ".ckpt", ".gguf", ".h5", ".npz", ".onnx", ".pt", ".pth", ".safetensors", ".zip")
LFS_SIZE = 10 * 1000 * 1000


@dataclass(frozen=True)
class Blob:
    """The content of a file, in memory or (never loaded) on disk."""

    source: bytes | Path
    size: int
    sha256: str
    lfs: bool

    @classmethod
    def of(cls, content: bytes | str | Path, lfs: bool, sha256: str = "") -> Blob:
        """Make a blob, and compute its `sha256` unless given."""
        source = content if isinstance(content, bytes) else Path(content)
        blob = cls(source, len(source) if isinstance(source, bytes) else source.stat().st_size, sha256, lfs)
        if not sha256:
            digest = hashlib.sha256()
            for chunk in blob.chunks(0, blob.size):
                digest.update(chunk)
            object.__setattr__(blob, "sha256", digest.hexdigest())
        return blob

    def chunks(self, start: int, stop: int, step: int = CHUNK) -> Iterator[bytes]:
        """Yield the bytes of [start, stop) in pieces of `step`."""
        if isinstance(self.source, bytes):
            for offset in range(start, stop, step):
                yield self.source[offset : min(offset + step, stop)]
        else:
            with self.source.open("rb") as file:
                file.seek(start)
                for offset in range(start, stop, step):
                    chunk = file.read(min(step, stop - offset))
                    if len(chunk) < min(step, stop - offset):
                        raise EOFError(f"{self.source} is shorter than when it was added")
                    yield chunk

    @property
    def pointer(self) -> bytes:
        """The git-lfs pointer file which stands for the content in git."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Id of the git blob, which is the pointer for LFS files."""
        digest = hashlib.sha1(b"blob %d\0" % (len(self.pointer) if self.lfs else self.size))
        for chunk in [self.pointer] if self.lfs else self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def linked_oid(self) -> str:
        """What the Hub compares contents by: sha256 of LFS files, git's id of others."""
        return self.sha256 if self.lfs else self.oid

    def etag(self, host: str) -> str:
        """ETag of the content; as in reality, that of the CDN is unrelated to the Hub's X-Linked-Etag."""
        return f'"{hashlib.md5(self.sha256.encode()).hexdigest() if host == "cdn" else self.linked_oid}"'

    def info(self) -> dict[str, Any]:
        """What listings tell of the file."""
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return {"oid": self.oid, "size": self.size, **({"lfs": lfs} if self.lfs else {})}


def is_lfs(path: str, size: int) -> bool:
    """Tell whether the Hub would keep a file out of git."""
    return size > 0 and (size > LFS_SIZE or path.endswith(LFS_SUFFIXES))


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open span that a Range header asks for, or None to serve the whole body.

    As S3 does, anything but one range of bytes is ignored. An empty span cannot be satisfied: 416.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size
