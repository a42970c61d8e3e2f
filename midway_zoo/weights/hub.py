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
from huggingface_hub import cached_assets_path, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.files import sha256_of, write_json, write_safetensors
from midway_zoo.weights.archive import TorchArchive, open_archive
from midway_zoo.weights.pins import check_source, enforced, forget, record_in
from midway_zoo.weights.released import Selection, select_parts
from midway_zoo.weights.remote import (
    ATTEMPTS,
    NetworkError,
    RangesRefusedError,
    RemoteFile,
    is_commit,
    read_tensors,
    transport_errors,
)

log = logging.getLogger(__name__)

PARTS = {"student": "encoder.", "teacher": "target_encoder.", "dynamics": "dynamics."}
"""What a released file is split into, and what each is called in a paired network."""


class Part(NamedTuple):
    """A cached part: its tensors by the names of our modules, and what its sidecar says."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class _Place(NamedTuple):
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
        raise _unwritable(cache_dir or constants.HF_ASSETS_CACHE, error) from error


@enforced
def fetch(
    name: str,
    entry: Mapping[str, Any],
    parts: Sequence[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> dict[str, Path]:
    """Have parts of a released file in the cache, fetching by ranges what is missing.

    Args:
        name: for messages, such as "midway_vits.bdd100k".
        entry: of the manifest: ``repo_id``, ``file``, ``revision``, ``config`` and digests.
        parts: of "teacher", "student", "dynamics".
        cache_dir: instead of the Hub's assets cache.
        revision: instead of the entry's.
        token: of the Hub, for private and gated repositories; False sends none.

    Returns:
        Path of each part, a safetensors file with a JSON sidecar.

    Raises:
        WeightsUnavailableError: offline, refused, or no place to write to.
        CheckpointError: if what came is damaged or not what was pinned. Nothing of it is kept.
    """
    repo, file = entry["repo_id"], entry["file"]
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    home = cache_root(cache_dir) / repo.replace("/", "--")
    where = f"{name}: {file} of https://huggingface.co/{repo} at {revision} (cache: {home})"
    known = revision if is_commit(revision) else _read_ref(home, revision)
    place = _Place(home / known, quote(file, safe="")) if known else None
    cached = place is not None and all(place.has(part) for part in parts)
    if place is not None and cached and (is_commit(revision) or constants.HF_HUB_OFFLINE):
        return {part: place.weights(part) for part in parts}
    try:
        # A branch may have moved, so the Hub is asked; but when it cannot be, what is cached will do.
        remote = RemoteFile(repo, file, revision, token, attempts=1 if cached else ATTEMPTS)
    except MidwayZooError:
        raise
    except network_errors() as error:
        if place is not None and cached and not _refused(error):
            log.info("%s: no answer from the Hub (%s); using the cached parts", name, error)
            return {part: place.weights(part) for part in parts}
        raise explain(error, name, where, repo) from error
    place = _Place(home / remote.commit, quote(file, safe=""))
    with _writing(home):
        place.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(place.folder / f"{place.stem}.lock"):
            for stale in place.folder.glob(f".{place.stem}.*.part"):  # of a process that was killed: we hold its lock
                stale.unlink()
            missing = [part for part in parts if not place.has(part)]
            if missing:
                _download(place, missing, remote, entry, where, name)
            if not is_commit(revision):
                _write_ref(home, revision, remote.commit)
    return {part: place.weights(part) for part in parts}


def _download(
    place: _Place, missing: Sequence[str], remote: RemoteFile, entry: Mapping[str, Any], where: str, name: str
) -> None:
    pinned = entry.get("sha256")
    check_source(name, where, entry, remote, record_in(place.folder, place.stem))
    try:
        try:
            archive = TorchArchive(remote, remote.filename)
            tensors, selected = _select(archive, entry, missing, remote)
        except RangesRefusedError:
            log.warning(
                "%s: the server refuses range requests; downloading all %d bytes of the file", where, remote.size
            )
            path = _whole_file(remote, pinned)
            with open_archive(path) as archive:
                tensors, selected = _select(archive, entry, missing, None)
    except MidwayZooError:
        raise
    except network_errors() as error:
        cause = error.__cause__ or error if isinstance(error, NetworkError) else error
        raise explain(cause, name, where, remote.repo_id) from error
    for part in missing:
        facts = {
            "part": part,
            "name": name,
            "repo_id": remote.repo_id,
            "commit": remote.commit,
            "file": remote.filename,
            "source_size_bytes": remote.size,
            "sha256_claimed_by_hub": remote.sha256,
            "config": selected.config.to_dict(),
            "filled": selected.filled,
        }
        _store(place, part, tensors[part], facts, (entry.get("parts") or {}).get(part, {}).get("sha256"))


def _select(
    archive: TorchArchive, entry: Mapping[str, Any], wanted: Sequence[str], remote: RemoteFile | None
) -> tuple[dict[str, dict[str, torch.Tensor]], Selection]:
    """Tensors of parts, after the file's structure was accounted for; from the network or from disk."""
    selected = select_parts(archive, entry.get("config") or {}, wanted)
    chosen = {PARTS[part] + key: ref for part, refs in selected.refs.items() for key, ref in refs.items()}
    if remote is None:
        tensors = {key: archive.read(ref) for key, ref in chosen.items()}
    else:
        tensors = read_tensors(remote, archive, chosen)
    split = {
        part: {key.removeprefix(PARTS[part]): tensors[key] for key in sorted(tensors) if key.startswith(PARTS[part])}
        for part in wanted
    }
    return split, selected


def _whole_file(remote: RemoteFile, pinned: str | None) -> Path:
    """The file in the Hub's own cache, its SHA-256 checked, which the client does not do."""
    path = Path(hf_hub_download(remote.repo_id, remote.filename, revision=remote.commit, token=remote.token))
    expected = pinned or remote.sha256
    if expected and (found := sha256_of(path)) != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{remote.filename} was downloaded with sha256 {found}, {expected} is expected. It was removed; try again."
        )
    return path


def _store(
    place: _Place, part: str, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any], pinned: str | None
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


def network_errors() -> tuple[type[BaseException], ...]:
    """What can come out of a request: refusals, lost connections, names that the Hub does not allow."""
    return (NetworkError, HFValidationError, *transport_errors())


def _read_ref(home: Path, revision: str) -> str | None:
    try:
        commit = (home / "refs" / quote(revision, safe="")).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def _write_ref(home: Path, revision: str, commit: str) -> None:
    """Remember what a branch meant, for the day without network."""
    if _read_ref(home, revision) != commit and is_commit(commit):
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
        raise _unwritable(folder, error) from error


def _unwritable(folder: object, error: BaseException) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"the weights cannot be kept in {folder}: {error}. Nothing partial was left there. Free some space, or pass "
        "cache_dir= or set HF_ASSETS_CACHE to a folder that can be written to."
    )


def _refused(error: BaseException) -> bool:
    """Whether the Hub answered and said no, so that the cache is no substitute."""
    response = getattr(error, "response", None)
    return isinstance(error, HfHubHTTPError) and response is not None and response.status_code in (401, 403, 404)


def explain(error: BaseException, name: str, where: str, repo: str) -> WeightsUnavailableError:
    """The error for whatever kept weights from coming: what, where, and what to do."""
    by_hand = (
        f"On a connected machine run `midway-zoo download {name}` and copy the cache, or pass cache_dir= with a folder "
        "that has it, or give the path of the downloaded file to midway_zoo.load_checkpoint."
    )
    if isinstance(error, GatedRepoError):
        reason, remedy = (
            "the repository is gated",
            f"Accept its terms at https://huggingface.co/{repo} and pass token=.",
        )
    elif isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError) or constants.HF_HUB_OFFLINE:
        reason, remedy = "it is not cached, and huggingface_hub is offline (HF_HUB_OFFLINE=1 or no network)", by_hand
    elif isinstance(error, RepositoryNotFoundError):
        reason, remedy = "there is no such repository, or it is private", "Check the name, or pass token=."
    elif isinstance(error, RevisionNotFoundError):
        reason, remedy = "there is no such revision", "Pass another revision=."
    elif isinstance(error, EntryNotFoundError):
        reason, remedy = "there is no such file in the repository", "Check file and revision=."
    elif isinstance(error, HFValidationError):
        reason, remedy = str(error), "A repository is called org/name."
    elif _refused(error):
        reason, remedy = f"the Hub refused it ({error})", "Check the token (HF_TOKEN, or token=)."
    else:
        reason, remedy = f"the Hub cannot be reached ({type(error).__name__}: {error})", by_hand
    return WeightsUnavailableError(f"{where}: {reason}. {remedy}")


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


def open_source(
    name: str, entry: Mapping[str, Any], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RemoteFile, str]:
    """The source file of an entry on the Hub, and what to call it in messages; asked for once, without patience.

    Raises:
        WeightsUnavailableError: if it cannot be had.
    """
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    where = f"{name}: {entry['file']} of {constants.ENDPOINT}/{entry['repo_id']} at {revision}"
    with explained(name, where, entry["repo_id"]):
        return RemoteFile(entry["repo_id"], entry["file"], revision, token, attempts=1), where


@contextmanager
def explained(name: str, where: str, repo: str) -> Iterator[None]:
    """Turn what kept a file from coming into the package's error."""
    try:
        yield
    except MidwayZooError:
        raise
    except network_errors() as error:
        raise explain(error, name, where, repo) from error


def download_folder(repo_id: str, **options: Any) -> Path:
    """The configuration and weights of a repository written by ``push_to_hub``, in the Hub's cache.

    Raises:
        WeightsUnavailableError: if they cannot be had.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=["config.json", "model.safetensors"], **options))
    except network_errors() as error:
        where = f"https://huggingface.co/{repo_id} at {options.get('revision') or constants.DEFAULT_REVISION}"
        raise explain(error, repo_id, where, repo_id) from error
