"""Weights from the Hugging Face Hub: fetching the parts that are needed, verified, and building networks from them."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from midway_zoo.config import architecture_config, override
from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import sha256_of
from midway_zoo.storage import EncoderName, assemble, empty_network
from midway_zoo.weights.archive import TorchArchive, open_archive
from midway_zoo.weights.cache import (
    Place,
    cache_root,
    load_part,
    read_record,
    read_ref,
    record_in,
    store,
    write_record,
    write_ref,
    writing,
)
from midway_zoo.weights.explain import explain, network_errors, write_failure
from midway_zoo.weights.pins import check_source, digests, enforced
from midway_zoo.weights.ranges import read_parts
from midway_zoo.weights.released import Selection, same, select_parts
from midway_zoo.weights.remote import RangesRefusedError, RemoteFile, is_commit
from midway_zoo.weights.transport import ATTEMPTS, NetworkError, clean

log = logging.getLogger(__name__)

PARTS = ("student", "teacher", "dynamics")
"""The parts that a released file is split into."""
_UNFINISHED = "unfinished"
"""The name of a part that keeps the tensors received before a download failed."""


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
    """Make sure that parts of a released file are in the cache, fetching missing ones by HTTP ranges.

    If ranges are not supported, the whole file is downloaded into the Hub's cache, or into ``cache_dir`` if given.

    Args:
        name: for messages, such as "midway_vits.bdd100k".
        entry: of the manifest: ``repo_id``, ``file``, ``revision``, ``config`` and digests.
        parts: of "teacher", "student", "dynamics".
        cache_dir: instead of the Hub's assets cache.
        revision: instead of the entry's.
        token: of the Hub, for private and gated repositories; False sends none.
        keep_file: keep the whole file in the cache, if it had to be downloaded.

    Returns:
        Path of each part, a safetensors file with a JSON sidecar.

    Raises:
        WeightsUnavailableError: if offline, refused, or the cache is not writable.
        CheckpointError: if the data are damaged or differ from the pins. They are not kept.
    """
    repo, file = entry["repo_id"], entry["file"]
    revision = revision or entry.get("revision") or constants.DEFAULT_REVISION
    home = cache_root(cache_dir) / repo.replace("/", "--")
    where = f"{name}: {file} of {constants.ENDPOINT}/{repo} at {revision} (cache: {home})"
    known = revision if is_commit(revision) else read_ref(home, revision)
    place = Place(home / known, quote(file, safe="")) if known else None
    cached = place is not None and all(place.has(part) for part in parts)
    if place is not None and cached and (is_commit(revision) or constants.HF_HUB_OFFLINE):
        return {part: place.weights(part) for part in parts}
    try:
        # A branch may have moved, so the Hub is asked; if it does not answer, cached parts are used.
        try:
            remote = RemoteFile(repo, file, revision, token, attempts=1 if cached else ATTEMPTS)
        except network_errors() as error:
            raise explain(error, name, where, repo) from error
        current = Place(home / remote.commit, quote(file, safe=""))
        if any(not current.has(part) for part in parts):
            options = _Options(entry, where, name, None if cache_dir is None else str(cache_dir), keep_file)
            with writing(home):
                _complete(current, parts, remote, options)
    except WeightsUnavailableError as error:
        if place is None or not cached:
            raise
        log.warning("%s: %s; using the cached parts of %s", name, clean(str(error.__cause__ or error)), known)
        return {part: place.weights(part) for part in parts}
    if not is_commit(revision):
        with contextlib.suppress(OSError):  # of a read-only cache
            write_ref(home, revision, remote.commit)
    return {part: current.weights(part) for part in parts}


class _Options(NamedTuple):
    """What a download needs to know besides the file."""

    entry: Mapping[str, Any]
    where: str
    name: str
    cache_dir: str | None
    keep_file: bool


def _complete(place: Place, parts: Sequence[str], remote: RemoteFile, options: _Options) -> None:
    """Fetch missing parts, one process at a time."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(place.folder / f"{place.stem}.lock"):
        for stale in place.folder.glob(
            f".{place.stem}.*.part"
        ):  # of a process that was killed: this one holds the lock
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
    # Both encoders use the same names; dynamics that a file does not have are an empty part.
    named = {part: {f"{part}/{key}": ref for key, ref in refs.items()} for part, refs in selected.refs.items()}
    for part in [part for part, refs in named.items() if not refs]:
        del named[part]
        _store_part(place, part, {}, selected, remote, options)
    names = {name for refs in named.values() for name in refs}
    arrived = {name: tensor for name, tensor in _unfinished(place).items() if name in names}
    try:
        with contextlib.closing(read_parts(remote, archive, named, arrived)) as found:
            for part, tensors in found:  # stored at once, since later parts may fail
                plain = {key.removeprefix(f"{part}/"): tensor for key, tensor in tensors.items()}
                _store_part(place, part, plain, selected, remote, options)
    except BaseException as error:
        if arrived and isinstance(error, (KeyboardInterrupt, *network_errors())):
            with contextlib.suppress(MidwayZooError):  # of a full disk
                _store_part(place, _UNFINISHED, arrived, selected, remote, options)
        raise


def _unfinished(place: Place) -> dict[str, torch.Tensor]:
    """Tensors of incomplete parts from an earlier call, by "part/name"."""
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
    with writing(place.folder):  # disk errors are not network errors, although raised among them
        store(place, part, plain, facts, (options.entry.get("parts") or {}).get(part, {}).get("sha256"))


def _cached_file(remote: RemoteFile, options: _Options) -> Any:
    """Path of the whole file in the Hub's cache, if it was downloaded."""
    return try_to_load_from_cache(
        remote.repo_id, remote.filename, revision=remote.revision, cache_dir=options.cache_dir
    )


@contextmanager
def _whole_file(remote: RemoteFile, options: _Options, *, keep: bool) -> Iterator[Path]:
    """The file in the Hub's own cache, with its SHA-256 verified, which the client does not do."""
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
    """Remove one file of one snapshot from the Hub's cache, and its blob unless another snapshot uses it."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        snapshots = path.parents[len(path.parts) - path.parts.index("snapshots") - 2]
        if not any(other.resolve() == blob.resolve() for other in snapshots.glob(f"*/{path.name}")):
            blob.unlink(missing_ok=True)


def parts_for(encoder: EncoderName, paired: bool, *, dynamics: bool = True) -> list[str]:
    """The parts that a network needs."""
    return [*(["student", "teacher"] if paired else [encoder]), *(["dynamics"] if dynamics else [])]


def _with_listed(facts: Mapping[str, Any], entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A cached part's configuration with the fields of its entry, which must agree with those read from the file.

    Raises:
        CheckpointError: naming both values, if it does not.
    """
    fields = dict(facts["config"])
    for key, value in (entry.get("config") or {}).items():
        told = key in fields and key not in facts.get("filled", ()) and fields["dynamics"]
        if told and not same(fields[key], value):
            raise CheckpointError(
                f"{path.name}: the file says {key}={fields[key]!r}, the configuration that is listed for it says "
                f"{key}={value!r}. It is another file than the one that was listed, or the listing is wrong."
            )
        if fields["dynamics"] or key != "dynamics":
            fields[key] = value
    return fields


def load_encoder_state(
    name: str, entry: Mapping[str, Any], *, encoder: EncoderName = "teacher", verify: bool = True, **options: Any
) -> dict[str, torch.Tensor]:
    """The tensors of one encoder with timm's names; options of :func:`fetch`."""
    return load_part(fetch(name, entry, [encoder], **options)[encoder], verify=verify).tensors


def load_network(
    name: str,
    entry: Mapping[str, Any],
    *,
    encoder: EncoderName = "teacher",
    paired: bool = False,
    overrides: Mapping[str, Any] | None = None,
    verify: bool = True,
    **options: Any,
) -> MidwayNetwork:
    """A network from fetched parts; options of :func:`fetch`, the others as for :func:`midway_zoo.create_model`."""
    dynamics = (overrides or {}).get("dynamics", (entry.get("config") or {}).get("dynamics", True))
    wanted = parts_for(encoder, paired, dynamics=dynamics is not False)
    paths = fetch(name, entry, wanted, **options)
    parts = {part: load_part(path, verify=verify) for part, path in paths.items()}
    facts = parts[wanted[-1]].facts  # of the dynamics, where they are asked for
    rooms: dict[str, str] = {"encoder": "student" if paired else encoder}
    rooms |= {"target_encoder": "teacher"} if paired else {}
    rooms |= {"dynamics": "dynamics"} if "dynamics" in wanted else {}
    state = {f"{room}.{key}": tensor for room, part in rooms.items() for key, tensor in parts[part].tensors.items()}
    fields = _with_listed(facts, entry, paths[wanted[-1]])
    config = override(architecture_config(entry["architecture"]), fields | {"paired": paired})
    config = override(config, overrides or {})
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in state.items()}
    network = assemble(empty_network(MidwayNetwork, config), found, state.pop, name, dtype=torch.float32)
    network.provenance = {
        "source": facts["file"],
        "repo_id": facts["repo_id"],
        "commit": facts["commit"],
        **digests(facts, paths[wanted[-1]], wanted[-1]),
        "encoder": "student and teacher" if paired else encoder,
    }
    return network
