"""Verifying sources and parts against the manifest's pins and the cache's records.

A pin is always enforced, also on parts that were cached before it was set. Without a pin, the first fetch is trusted:
its facts are recorded beside the parts, and later fetches of the same source must agree with them. Nothing that
contradicts a pin or a record is used.
"""

import functools
import hashlib
import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled

from midway_zoo.bars import bar
from midway_zoo.errors import CheckpointError, MidwayZooError
from midway_zoo.reading import sha256_of
from midway_zoo.weights.cache import cache_root, read_record, record_in, record_of, write_record
from midway_zoo.weights.explain import explain, network_errors
from midway_zoo.weights.remote import RangesRefusedError, RemoteFile

log = logging.getLogger(__name__)

TRUSTED = "trusted on first use"


class Source(Protocol):
    """What the Hub reports about a file."""

    commit: str
    etag: str | None
    size: int

    @property
    def sha256(self) -> str | None: ...


def is_pinned(entry: Mapping[str, Any]) -> bool:
    """Whether the digest of an entry's source file is pinned."""
    return entry.get("sha256") is not None


def check_source(name: str, where: str, entry: Mapping[str, Any], source: Source, record: Path) -> None:
    """Compare what the Hub reports about a file with the pins and the record, before it is fetched.

    Args:
        name: of the weights.
        where: what to call the file in messages.
        entry: of the manifest.
        source: what the Hub reports now.
        record: of the cache, with what it reported before; written if missing.

    Raises:
        CheckpointError: naming both values, if they differ or cannot be compared.
    """
    _check_pins(where, entry, source)
    known = read_record(record)
    if not known:
        if not is_pinned(entry):
            log.warning(
                "%s: no digest is pinned for it, so it is %s (the Hub claims %s); later fetches must match.",
                name,
                TRUSTED,
                f"sha256 {source.sha256}" if source.sha256 else f"ETag {source.etag}",
            )
        facts = {"size_bytes": source.size, "etag": source.etag, "sha256_claimed_by_hub": source.sha256}
        write_record(record, facts)
        return
    for key, before, now in (
        ("size_bytes", known.get("size_bytes"), source.size),
        ("ETag", known.get("etag"), source.etag),
    ):
        if before is not None and before != now:
            raise CheckpointError(
                f"{where}: the source changed under the same revision {source.commit}: {key} was {before} when it was "
                f"first fetched, now it is {now}. If that is expected, `midway-zoo cache --clear {name}` forgets it."
            )
    if known.get("etag") is None and source.etag is not None:  # what answered first told none
        write_record(record, {**known, "etag": source.etag, "sha256_claimed_by_hub": source.sha256})


def _check_pins(where: str, entry: Mapping[str, Any], source: Source) -> None:
    digest, size = entry.get("sha256"), entry.get("size_bytes")
    if digest is not None and source.sha256 is None:
        raise CheckpointError(
            f"{where}: the manifest pins sha256 {digest}, the server gives ETag {source.etag}, which is not a SHA-256: "
            "they cannot be compared. Fetch it from the Hub itself (unset HF_ENDPOINT)."
        )
    if digest is not None and digest != source.sha256:
        raise CheckpointError(f"{where}: the manifest pins sha256 {digest}, the Hub has {source.sha256}.")
    if size is not None and size != source.size:
        raise CheckpointError(f"{where}: the manifest pins {size} bytes, the Hub has {source.size}.")


def enforced(fetch: Callable[..., dict[str, Path]]) -> Callable[..., dict[str, Path]]:
    """Make ``fetch(name, entry, parts, ...)`` raise for parts, fresh or cached, that contradict a pin or the record."""

    @functools.wraps(fetch)
    def checked(name: str, entry: Mapping[str, Any], parts: Sequence[str], **options: Any) -> dict[str, Path]:
        paths = fetch(name, entry, parts, **options)
        for part, path in paths.items():
            _check_part(name, entry, part, path)
        return paths

    return checked


def _check_part(name: str, entry: Mapping[str, Any], part: str, path: Path) -> None:
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    pins = (entry.get("parts") or {}).get(part) or {}
    claimed = facts.get("sha256_claimed_by_hub", facts.get("source_sha256"))
    pairs = [
        ("the source's sha256", entry.get("sha256"), claimed),
        ("the source's size", entry.get("size_bytes"), facts.get("source_size_bytes")),
        (f"the {part}'s sha256", pins.get("sha256"), facts["sha256"]),
        (f"the {part}'s size", pins.get("size_bytes"), facts["size_bytes"]),
    ]
    for what, pinned, found in pairs:
        if pinned is not None and pinned != found:
            raise CheckpointError(
                f"{name}: the manifest pins {pinned} as {what}, of the cached {path.name} it is {found}. It is not "
                f"used; `midway-zoo cache --clear {name}` removes it, and the next call fetches it again."
            )
    record = record_of(path, part)
    known = read_record(record)
    before = known.get("parts", {}).get(part)
    if before is None:
        write_record(record, {**known, "parts": {**known.get("parts", {}), part: facts["sha256"]}})
    elif before != facts["sha256"]:
        raise CheckpointError(
            f"{name}: {path.name} has sha256 {facts['sha256']}, it had {before} when it was first fetched from the "
            f"same source. It is not used; `midway-zoo cache --clear {name}` forgets both."
        )


def digests(facts: Mapping[str, Any], path: Path, part: str) -> dict[str, str | None]:
    """For a network's provenance: the SHA-256 of the source file, as the Hub claims it and as computed from all bytes.

    Args:
        facts: of the part's sidecar.
        path: of the part.
        part: its name.
    """
    claimed = facts.get("sha256_claimed_by_hub", facts.get("source_sha256"))
    return {
        "sha256_claimed_by_hub": claimed,
        "sha256_verified": read_record(record_of(path, part)).get("sha256_verified"),
    }


def unpinned(entry: Mapping[str, Any]) -> Iterable[str]:
    """The fields of an entry that the manifest does not pin yet."""
    yield from (key for key in ("revision", "size_bytes", "sha256") if entry.get(key) is None)
    for part, pins in (entry.get("parts") or {}).items():
        yield from (f"{part} {key}" for key in ("size_bytes", "sha256") if pins.get(key) is None)


_CHUNK = 2**24  # bytes per request
_AHEAD = 6  # concurrent requests: what arrives early waits in memory


class Verified(NamedTuple):
    """A source file whose bytes were all hashed."""

    file: str
    commit: str
    size_bytes: int
    sha256: str


def open_source(
    name: str, entry: Mapping[str, Any], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RemoteFile, str]:
    """The source file of an entry on the Hub, and its description for messages; requested once, without retries.

    Raises:
        WeightsUnavailableError: if it is not available.
    """
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    where = f"{name}: {entry['file']} of {constants.ENDPOINT}/{entry['repo_id']} at {revision}"
    with _explained(name, where, entry["repo_id"]):
        return RemoteFile(entry["repo_id"], entry["file"], revision, token, attempts=1), where


@contextmanager
def _explained(name: str, where: str, repo: str) -> Iterator[None]:
    """Turn network errors into the package's error."""
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

    The result is recorded in the cache, and shown in the provenance of networks from that source.

    Args:
        name: such as "midway_vits.bdd100k".
        entry: of the manifest.
        cache_dir: where the record goes, instead of the Hub's assets cache.
        revision: instead of the entry's.
        token: of the Hub.

    Raises:
        CheckpointError: naming both digests, if they differ, or there is none to compare with.
        WeightsUnavailableError: if the file is not available.
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
    except RangesRefusedError:  # fall back to the client's download, which cannot be hashed as it arrives
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
