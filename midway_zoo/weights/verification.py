"""Checking a whole source file on the Hub: all its bytes once, hashed as they come, none kept."""

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled

from midway_zoo.bars import bar
from midway_zoo.errors import CheckpointError, MidwayZooError
from midway_zoo.files import sha256_of
from midway_zoo.weights.explain import explain, network_errors
from midway_zoo.weights.hub import cache_root
from midway_zoo.weights.pins import check_source, read_record, record_in, write_record
from midway_zoo.weights.remote import RangesRefusedError, RemoteFile

_CHUNK = 2**24  # bytes a request
_AHEAD = 6  # requests under way: what has come waits in memory until it is its turn


class Verified(NamedTuple):
    """A source file whose bytes were all seen."""

    file: str
    commit: str
    size_bytes: int
    sha256: str


def open_source(
    name: str, entry: Mapping[str, Any], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RemoteFile, str]:
    """The source file of an entry on the Hub, and what to call it in messages; asked for once, without patience.

    Raises:
        WeightsUnavailableError: if it cannot be had.
    """
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    where = f"{name}: {entry['file']} of {constants.ENDPOINT}/{entry['repo_id']} at {revision}"
    with _explained(name, where, entry["repo_id"]):
        return RemoteFile(entry["repo_id"], entry["file"], revision, token, attempts=1), where


@contextmanager
def _explained(name: str, where: str, repo: str) -> Iterator[None]:
    """Turn what kept a file from coming into the package's error."""
    try:
        yield
    except MidwayZooError:
        raise
    except network_errors() as error:
        raise explain(error, name, where, repo) from error


def verify_source(
    name: str,
    entry: Mapping[str, Any],
    *,
    cache_dir: Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Verified:
    """Hash the source file of a name once and compare with the Hub's own SHA-256 and the manifest's.

    What was found is recorded in the cache, so that networks of that source say so in their provenance.

    Args:
        name: such as "midway_vits.bdd100k".
        entry: of the manifest.
        cache_dir: where the record goes, instead of the Hub's assets cache.
        revision: instead of the entry's.
        token: of the Hub.

    Raises:
        CheckpointError: naming both digests, if they differ, or if there is nothing to compare with.
        WeightsUnavailableError: if the file cannot be had.
    """
    remote, where = open_source(name, entry, revision=revision, token=token)
    home = cache_root(cache_dir) / entry["repo_id"].replace("/", "--")
    record = record_in(home / remote.commit, quote(remote.filename, safe=""))
    check_source(name, where, entry, remote, record)
    with _explained(name, where, remote.repo_id):
        found = _hash(remote)
    if remote.sha256 is None:
        raise CheckpointError(
            f"{where}: its {remote.size} bytes have sha256 {found}, but the Hub gives ETag {remote.etag}, which is no "
            "SHA-256: there is nothing to compare with."
        )
    if found != remote.sha256:
        raise CheckpointError(f"{where}: its {remote.size} bytes have sha256 {found}, the Hub says {remote.sha256}.")
    write_record(record, {**read_record(record), "sha256_verified": found})
    return Verified(remote.filename, remote.commit, remote.size, found)


def _hash(remote: RemoteFile) -> str:
    digest = hashlib.sha256()
    quiet = are_progress_bars_disabled()
    try:
        title = f"sha256 {remote.filename}"
        with bar(total=remote.size, unit="B", unit_scale=True, desc=title, leave=True, hidden=quiet) as shown:
            for chunk in _chunks(remote):
                digest.update(chunk)
                shown.update(len(chunk))
    except RangesRefusedError:  # then the client's ordinary download, which cannot be read as it comes
        with tempfile.TemporaryDirectory() as folder:
            path = hf_hub_download(
                remote.repo_id, remote.filename, revision=remote.commit, token=remote.token, cache_dir=folder
            )
            return sha256_of(Path(path))
    return digest.hexdigest()


def _chunks(remote: RemoteFile) -> Iterator[bytearray]:
    """The bytes of a file in order, fetched a few requests ahead."""
    waiting: deque[Future[bytearray]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            for start in range(0, remote.size, _CHUNK):
                waiting.append(pool.submit(remote.fetch, start, min(start + _CHUNK, remote.size)))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
