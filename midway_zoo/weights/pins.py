"""What the manifest pins and what the cache recorded: nothing that contradicts either is used.

A pin is enforced whenever it is there, also for what was cached before it was. Where nothing is pinned, the first
fetch is trusted: its facts are recorded beside the parts, and later fetches of the same source must agree with them.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from midway_zoo.errors import CheckpointError
from midway_zoo.files import write_json

log = logging.getLogger(__name__)

TRUSTED = "trusted on first use"
_SUFFIX = ".source.json"


class Source(Protocol):
    """What the Hub says of a file."""

    commit: str
    etag: str | None
    size: int

    @property
    def sha256(self) -> str | None: ...


def is_pinned(entry: Mapping[str, Any]) -> bool:
    """Whether the digest of an entry's source file is pinned."""
    return entry.get("sha256") is not None


def check_source(name: str, where: str, entry: Mapping[str, Any], source: Source, record: Path) -> None:
    """Compare what the Hub says of a file with what is pinned and with what was recorded, before it is fetched.

    Args:
        name: of the weights.
        where: what to call the file in messages.
        entry: of the manifest.
        source: what the Hub says now.
        record: where the cache keeps what it said before; written if it is not there.

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
            f"{where}: the manifest pins sha256 {digest}, the server gives ETag {source.etag}, which is no SHA-256: "
            "they cannot be compared. Fetch it from the Hub itself (unset HF_ENDPOINT)."
        )
    if digest is not None and digest != source.sha256:
        raise CheckpointError(f"{where}: the manifest pins sha256 {digest}, the Hub has {source.sha256}.")
    if size is not None and size != source.size:
        raise CheckpointError(f"{where}: the manifest pins {size} bytes, the Hub has {source.size}.")


def enforced(fetch: Callable[..., dict[str, Path]]) -> Callable[..., dict[str, Path]]:
    """Let ``fetch(name, entry, parts, ...)`` give no part, fresh or cached, that contradicts a pin or the record."""

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


def record_of(path: Path, part: str) -> Path:
    """Where the facts about the source of a cached part are."""
    return path.with_name(path.name.removesuffix(f".{part}.safetensors") + _SUFFIX)


def record_in(folder: Path, stem: str) -> Path:
    """The same by the folder of a commit and the file's quoted name."""
    return folder / f"{stem}{_SUFFIX}"


def read_record(record: Path) -> dict[str, Any]:
    """What was recorded; nothing where there is no record, or a damaged one."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(record: Path, facts: Mapping[str, Any]) -> None:
    """Record facts about a source; a cache that cannot be written to goes without."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, dict(facts), overwrite=True)


def forget(parts: Mapping[str, Path]) -> None:
    """Remove what was recorded about the source of cached parts."""
    for record in {record_of(path, part) for part, path in parts.items()}:
        record.unlink(missing_ok=True)


def digests(facts: Mapping[str, Any], path: Path, part: str) -> dict[str, str | None]:
    """For a network's provenance: what the Hub claims of the source file, and what was computed from all of it.

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
    """What of an entry the manifest does not pin yet."""
    yield from (key for key in ("revision", "size_bytes", "sha256") if entry.get(key) is None)
    for part, pins in (entry.get("parts") or {}).items():
        yield from (f"{part} {key}" for key in ("size_bytes", "sha256") if pins.get(key) is None)
