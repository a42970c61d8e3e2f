"""The cache of fetched parts: where they are, reading and writing them, and records of their sources."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from huggingface_hub import cached_assets_path, constants
from safetensors import SafetensorError
from safetensors.torch import load_file

from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.files import write_json, write_safetensors
from midway_zoo.reading import sha256_of
from midway_zoo.weights.explain import unwritable
from midway_zoo.weights.remote import is_commit

_SUFFIX = ".source.json"


class Part(NamedTuple):
    """A cached part: its tensors by the names of our modules, and the facts in its sidecar."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Place(NamedTuple):
    """The cached parts of one file at one commit."""

    folder: Path
    stem: str

    def weights(self, part: str) -> Path:
        return self.folder / f"{self.stem}.{part}.safetensors"

    def sidecar(self, part: str) -> Path:
        return self.folder / f"{self.stem}.{part}.json"

    def has(self, part: str) -> bool:
        """Whether the part is complete: the sidecar is written last, and records the size."""
        try:
            facts = json.loads(self.sidecar(part).read_text(encoding="utf-8"))
            return bool(self.weights(part).stat().st_size == facts["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def discard(self, part: str) -> None:
        for path in (self.sidecar(part), self.weights(part)):
            path.unlink(missing_ok=True)


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of all cached parts: ``cached_assets_path("midway-zoo", ...)``, below ``cache_dir`` if given."""
    try:
        return cached_assets_path(
            "midway-zoo", "weights", "v1", assets_dir=None if cache_dir is None else str(cache_dir)
        )
    except (OSError, ValueError) as error:
        raise unwritable(cache_dir or constants.HF_ASSETS_CACHE, error) from error


def store(
    place: Place, part: str, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any], pinned: str | None
) -> None:
    """Write a part, then its sidecar; on failure neither remains."""
    path = place.weights(part)
    place.discard(part)
    try:
        # No version or date inside: the same numbers give the same digest, which the manifest can pin.
        write_safetensors(path, tensors, {"part": part}, overwrite=True)
        digest = sha256_of(path)
        if pinned and digest != pinned:
            raise CheckpointError(
                f"{path.name}: the manifest pins sha256 {pinned}, what was fetched has {digest}. It was removed."
            )
        facts |= {"sha256": digest, "size_bytes": path.stat().st_size, "checked": _identity(path)}
        write_json(place.sidecar(part), facts, overwrite=True)
    except BaseException:
        place.discard(part)
        raise


def _identity(path: Path) -> list[int]:
    """Values that change when a file is written or replaced: size, modification time in ns, inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def load_part(path: Path, *, verify: bool = True, rehash: bool = False) -> Part:
    """Read a part from a path that ``fetch`` returned.

    Args:
        path: of the safetensors file.
        verify: compare its SHA-256 with the sidecar's, unless the file is unchanged since it was last compared (same
            size, modification time and inode): hashing takes several times as long as loading.
        rehash: always compare.

    Raises:
        CheckpointError: naming both digests, if they differ; the part is then removed.
    """
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with ThreadPoolExecutor(1) as pool:
        known = facts.get("checked") == _identity(path) and not rehash
        digest = pool.submit(sha256_of, path) if rehash or (verify and not known) else None
        try:
            tensors, damage = load_file(path), None
        except (SafetensorError, OSError) as error:
            tensors, damage = {}, error
        found = digest.result() if digest else facts["sha256"]
    if damage is not None or found != facts["sha256"]:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        reason = f"sha256 {found}, expected {facts['sha256']}" if found != facts["sha256"] else str(damage)
        raise CheckpointError(f"{path} is damaged: {reason}. It was removed; the next call fetches it again.")
    if digest:
        with contextlib.suppress(OSError):  # in a read-only cache it is hashed at every load
            write_json(path.with_suffix(".json"), facts | {"checked": _identity(path)}, overwrite=True)
    return Part(tensors, facts)


def record_of(path: Path, part: str) -> Path:
    """The file with the record of a cached part's source."""
    return path.with_name(path.name.removesuffix(f".{part}.safetensors") + _SUFFIX)


def record_in(folder: Path, stem: str) -> Path:
    """The same, from the folder of a commit and the file's quoted name."""
    return folder / f"{stem}{_SUFFIX}"


def read_record(record: Path) -> dict[str, Any]:
    """What was recorded; an empty dict if there is no record, or a damaged one."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(record: Path, facts: Mapping[str, Any]) -> None:
    """Record facts about a source; skipped if the cache is not writable."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, dict(facts), overwrite=True)


def forget(parts: Mapping[str, Path]) -> None:
    """Remove the records of the sources of cached parts."""
    for record in {record_of(path, part) for part, path in parts.items()}:
        record.unlink(missing_ok=True)


def _is_key(commit: str) -> bool:
    """Whether a text is a commit id, or stands for a file's ETag."""
    return is_commit(commit) or commit.startswith("etag-")


def read_ref(home: Path, revision: str) -> str | None:
    try:
        commit = (home / "refs" / quote(revision, safe="")).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if _is_key(commit) else None


def write_ref(home: Path, revision: str, commit: str) -> None:
    """Remember the commit of a branch, for use offline."""
    if read_ref(home, revision) != commit and _is_key(commit):
        (home / "refs").mkdir(exist_ok=True)
        temporary = home / "refs" / f".{hashlib.sha256(revision.encode()).hexdigest()[:8]}.{os.getpid()}"
        temporary.write_text(commit, encoding="utf-8")
        temporary.replace(home / "refs" / quote(revision, safe=""))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn failures to write into the package's error."""
    try:
        yield
    except MidwayZooError:
        raise
    except (OSError, SafetensorError) as error:
        raise unwritable(folder, error) from error


class CachedFile(NamedTuple):
    """Cached parts of one source file at one commit."""

    name: str
    repo_id: str
    file: str
    commit: str
    parts: dict[str, Path]
    size_bytes: int


def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedFile]:
    """The complete parts in the cache, by the name that they were fetched for, repository, file and commit."""
    found: dict[tuple[str, ...], dict[str, Path]] = {}
    try:
        root = cache_root(cache_dir)
    except WeightsUnavailableError:
        return []  # it does not exist and cannot be created, so it is empty
    for sidecar in sorted(root.glob("*/*/*.json")):
        try:
            facts = json.loads(sidecar.read_text(encoding="utf-8"))
            key = tuple(str(facts[field]) for field in ("name", "repo_id", "file", "commit"))
            found.setdefault(key, {})[str(facts["part"])] = sidecar.with_suffix(".safetensors")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [
        CachedFile(name, repo, file, commit, parts, sum(path.stat().st_size for path in parts.values()))
        for (name, repo, file, commit), parts in found.items()
    ]


def clear_cache(name: str | None = None, cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Remove what was fetched for ``name`` (None: everything); returns the number of bytes freed."""
    freed = 0
    for cached in list_cache(cache_dir):
        if name in (None, cached.name):
            for path in cached.parts.values():
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            forget(cached.parts)
            freed += cached.size_bytes
    return freed
