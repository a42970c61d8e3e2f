"""Weights from the Hugging Face Hub: the parts that are asked for, verified, in a cache of their own."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from filelock import FileLock
from huggingface_hub import cached_assets_path, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.files import sha256_of, write_json, write_safetensors
from midway_zoo.weights.archive import TorchArchive, open_archive
from midway_zoo.weights.explain import explain, network_errors, unwritable, write_failure
from midway_zoo.weights.pins import check_source, enforced, forget, read_record, record_in, write_record
from midway_zoo.weights.ranges import read_parts
from midway_zoo.weights.released import Selection, select_parts
from midway_zoo.weights.remote import RangesRefusedError, RemoteFile, is_commit
from midway_zoo.weights.transport import ATTEMPTS, NetworkError, clean

log = logging.getLogger(__name__)

PARTS = ("student", "teacher", "dynamics")
"""What a released file is split into."""
_UNFINISHED = "unfinished"
"""Kept as a part of this name: tensors that had come when a download failed."""


class Part(NamedTuple):
    """A cached part: its tensors by the names of our modules, and what its sidecar says."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Place(NamedTuple):
    """Where the parts of one file of one commit are in the cache."""

    folder: Path
    stem: str

    def weights(self, part: str) -> Path:
        return self.folder / f"{self.stem}.{part}.safetensors"

    def sidecar(self, part: str) -> Path:
        return self.folder / f"{self.stem}.{part}.json"

    def has(self, part: str) -> bool:
        """Whether the part is complete: the sidecar is written last, and knows the size."""
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


@enforced
def fetch(
    name: str,
    entry: Mapping[str, Any],
    parts: Sequence[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    keep_file: bool = False,
) -> dict[str, Path]:
    """Have parts of a released file in the cache, fetching by ranges what is missing.

    Where ranges cannot be had, the whole file is downloaded into the Hub's cache, or ``cache_dir`` where it is given.

    Args:
        name: for messages, such as "midway_vits.bdd100k".
        entry: of the manifest: ``repo_id``, ``file``, ``revision``, ``config`` and digests.
        parts: of "teacher", "student", "dynamics".
        cache_dir: instead of the Hub's assets cache.
        revision: instead of the entry's.
        token: of the Hub, for private and gated repositories; False sends none.
        keep_file: leave the whole file in the cache, if it had to be downloaded.

    Returns:
        Path of each part, a safetensors file with a JSON sidecar.

    Raises:
        WeightsUnavailableError: offline, refused, or no place to write to.
        CheckpointError: if what came is damaged or not what was pinned. Nothing of it is kept.
    """
    repo, file = entry["repo_id"], entry["file"]
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    home = cache_root(cache_dir) / repo.replace("/", "--")
    where = f"{name}: {file} of {constants.ENDPOINT}/{repo} at {revision} (cache: {home})"
    known = revision if is_commit(revision) else _read_ref(home, revision)
    place = Place(home / known, quote(file, safe="")) if known else None
    cached = place is not None and all(place.has(part) for part in parts)
    if place is not None and cached and (is_commit(revision) or constants.HF_HUB_OFFLINE):
        return {part: place.weights(part) for part in parts}
    try:
        # A branch may have moved, so the Hub is asked; but whatever keeps it from answering, what is cached will do.
        try:
            remote = RemoteFile(repo, file, revision, token, attempts=1 if cached else ATTEMPTS)
        except network_errors() as error:
            raise explain(error, name, where, repo) from error
        current = Place(home / remote.commit, quote(file, safe=""))
        if any(not current.has(part) for part in parts):
            options = _Options(entry, where, name, None if cache_dir is None else str(cache_dir), keep_file)
            with _writing(home):
                _complete(current, parts, remote, options)
    except WeightsUnavailableError as error:
        if place is None or not cached:
            raise
        log.warning("%s: %s; using the cached parts of %s", name, clean(str(error.__cause__ or error)), known)
        return {part: place.weights(part) for part in parts}
    if not is_commit(revision):
        with contextlib.suppress(OSError):  # of a read-only cache
            _write_ref(home, revision, remote.commit)
    return {part: current.weights(part) for part in parts}


class _Options(NamedTuple):
    """What a download needs to know beside the file."""

    entry: Mapping[str, Any]
    where: str
    name: str
    cache_dir: str | None
    keep_file: bool


def _complete(place: Place, parts: Sequence[str], remote: RemoteFile, options: _Options) -> None:
    """Fetch the parts that are missing, one process at a time."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(place.folder / f"{place.stem}.lock"):
        for stale in place.folder.glob(f".{place.stem}.*.part"):  # of a process that was killed: we hold its lock
            stale.unlink()
        missing = [part for part in parts if not place.has(part)]
        if missing:
            _download(place, missing, remote, options)
            place.discard(_UNFINISHED)


def _download(place: Place, missing: Sequence[str], remote: RemoteFile, options: _Options) -> None:
    record = record_in(place.folder, place.stem)
    check_source(options.name, options.where, options.entry, remote, record)
    had = isinstance(_cached_file(remote, options), str)
    try:
        if not had:
            try:
                return _from_ranges(place, missing, remote, options)
            except RangesRefusedError as refused:
                log.warning(
                    "%s: the server refuses range requests; downloading all %.1f MB of the file%s (%s)",
                    options.name,
                    remote.size / 1e6,
                    "" if options.keep_file else ", which is removed afterwards",
                    refused,
                )
        with _whole_file(remote, options, keep=had or options.keep_file) as path, open_archive(path) as archive:
            write_record(record, {**read_record(record), "sha256_verified": remote.sha256})
            left = [part for part in missing if not place.has(part)]
            selected = select_parts(archive, options.entry.get("config") or {}, left)
            for part, refs in selected.refs.items():
                tensors = {key: archive.read(ref) for key, ref in refs.items()}
                _store_part(place, part, tensors, selected, remote, options)
    except MidwayZooError:
        raise
    except network_errors() as error:
        if write_failure(error):
            raise
        cause = error if isinstance(error, NetworkError) else NetworkError(clean(str(error)))  # no signed link
        raise explain(error, options.name, options.where, remote.repo_id) from cause


def _from_ranges(place: Place, missing: Sequence[str], remote: RemoteFile, options: _Options) -> None:
    archive = TorchArchive(remote, remote.filename)
    selected = select_parts(archive, options.entry.get("config") or {}, missing)
    # Both encoders have the same names inside; dynamics that a file does not have are an empty part.
    named = {part: {f"{part}/{key}": ref for key, ref in refs.items()} for part, refs in selected.refs.items()}
    for part in [part for part, refs in named.items() if not refs]:
        del named[part]
        _store_part(place, part, {}, selected, remote, options)
    names = {name for refs in named.values() for name in refs}
    arrived = {name: tensor for name, tensor in _unfinished(place).items() if name in names}
    try:
        with contextlib.closing(read_parts(remote, archive, named, arrived)) as found:
            for part, tensors in found:  # stored at once: what comes after it may fail
                plain = {key.removeprefix(f"{part}/"): tensor for key, tensor in tensors.items()}
                _store_part(place, part, plain, selected, remote, options)
    except BaseException as error:
        if arrived and isinstance(error, (KeyboardInterrupt, *network_errors())):
            with contextlib.suppress(MidwayZooError):  # of a full disk
                _store_part(place, _UNFINISHED, arrived, selected, remote, options)
        raise


def _unfinished(place: Place) -> dict[str, torch.Tensor]:
    """What an earlier call fetched of parts that it could not complete, by "part/name"."""
    if not place.has(_UNFINISHED):
        return {}
    with contextlib.suppress(CheckpointError):  # damaged, and removed
        return load_part(place.weights(_UNFINISHED), rehash=True).tensors
    return {}


def _store_part(
    place: Place,
    part: str,
    tensors: Mapping[str, torch.Tensor],
    selected: Selection,
    remote: RemoteFile,
    options: _Options,
) -> None:
    facts = {
        "part": part,
        "name": options.name,
        "repo_id": remote.repo_id,
        "commit": remote.commit,
        "file": remote.filename,
        "source_size_bytes": remote.size,
        "sha256_claimed_by_hub": remote.sha256,
        "config": selected.config.to_dict(),
        "filled": selected.filled,
    }
    plain = dict(sorted(tensors.items()))
    with _writing(place.folder):  # an error of the disk is none of the network's, among which it is raised
        store(place, part, plain, facts, (options.entry.get("parts") or {}).get(part, {}).get("sha256"))


def _cached_file(remote: RemoteFile, options: _Options) -> Any:
    """Path of the whole file in the Hub's cache, if somebody has downloaded it."""
    return try_to_load_from_cache(
        remote.repo_id, remote.filename, revision=remote.revision, cache_dir=options.cache_dir
    )


@contextmanager
def _whole_file(remote: RemoteFile, options: _Options, *, keep: bool) -> Iterator[Path]:
    """The file in the Hub's own cache, its SHA-256 checked, which the client does not do."""
    path = Path(
        hf_hub_download(
            remote.repo_id,
            remote.filename,
            revision=remote.revision,
            cache_dir=options.cache_dir,
            token=remote.token,
        )
    )
    expected = remote.sha256
    if expected and (found := sha256_of(path)) != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{remote.filename} was downloaded with sha256 {found}, {expected} is expected. It was removed; try again."
        )
    try:
        yield path
    finally:
        if not keep:
            _remove_download(path)


def _remove_download(path: Path) -> None:
    """Remove one file of one snapshot from the Hub's cache, and its blob unless another snapshot needs it."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        snapshots = path.parents[len(path.parts) - path.parts.index("snapshots") - 2]
        if not any(other.resolve() == blob.resolve() for other in snapshots.glob(f"*/{path.name}")):
            blob.unlink(missing_ok=True)


def store(
    place: Place, part: str, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any], pinned: str | None
) -> None:
    """Write a part, then its sidecar; on any failure neither is left."""
    path = place.weights(part)
    place.discard(part)
    try:
        # No version and no date inside: the same numbers give the same digest, which the manifest can pin.
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
    """What changes when a file is written to or replaced: size, modification time in ns, inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def load_part(path: Path, *, verify: bool = True, rehash: bool = False) -> Part:
    """Read a part that :func:`fetch` gave.

    Args:
        path: of the safetensors file.
        verify: compare its SHA-256 with the sidecar's, unless it is still the very file that was last compared
            (same size, modification time and inode): hashing takes several times as long as loading.
        rehash: compare in any case.

    Raises:
        CheckpointError: naming both digests, if they differ; the part is removed then.
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
        with contextlib.suppress(OSError):  # a read-only cache is hashed at every load
            write_json(path.with_suffix(".json"), facts | {"checked": _identity(path)}, overwrite=True)
    return Part(tensors, facts)


def _is_key(commit: str) -> bool:
    """Whether a text names the content of a commit, or of a file by its ETag."""
    return is_commit(commit) or commit.startswith("etag-")


def _read_ref(home: Path, revision: str) -> str | None:
    try:
        commit = (home / "refs" / quote(revision, safe="")).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if _is_key(commit) else None


def _write_ref(home: Path, revision: str, commit: str) -> None:
    """Remember what a branch meant, for the day without network."""
    if _read_ref(home, revision) != commit and _is_key(commit):
        (home / "refs").mkdir(exist_ok=True)
        temporary = home / "refs" / f".{hashlib.sha256(revision.encode()).hexdigest()[:8]}.{os.getpid()}"
        temporary.write_text(commit, encoding="utf-8")
        temporary.replace(home / "refs" / quote(revision, safe=""))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn failures to write into the package's error."""
    try:
        yield
    except MidwayZooError:
        raise
    except (OSError, SafetensorError) as error:
        raise unwritable(folder, error) from error


class CachedFile(NamedTuple):
    """What the cache holds of one commit of one source file."""

    name: str
    repo_id: str
    file: str
    commit: str
    parts: dict[str, Path]
    size_bytes: int


def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedFile]:
    """The complete parts in the cache, by name they were fetched for, repository, file and commit."""
    found: dict[tuple[str, ...], dict[str, Path]] = {}
    try:
        root = cache_root(cache_dir)
    except WeightsUnavailableError:
        return []  # it is not there and cannot be made: nothing is kept in it
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
    """Remove what was fetched for ``name`` (None for everything); returns the bytes that are free again."""
    freed = 0
    for cached in list_cache(cache_dir):
        if name in (None, cached.name):
            for path in cached.parts.values():
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            forget(cached.parts)
            freed += cached.size_bytes
    return freed


def download_folder(repo_id: str, **options: Any) -> Path:
    """The configuration and weights of a repository written by ``push_to_hub``, in the Hub's cache.

    Raises:
        WeightsUnavailableError: if they cannot be had.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=["config.json", "model.safetensors"], **options))
    except network_errors() as error:
        where = f"{constants.ENDPOINT}/{repo_id} at {options.get('revision') or constants.DEFAULT_REVISION}"
        raise explain(error, repo_id, where, repo_id) from error
