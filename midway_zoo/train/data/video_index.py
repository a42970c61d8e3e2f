"""The index: every video of a data root probed once, so that a run starts at once."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from midway_zoo.bars import bar
from midway_zoo.errors import InputError, MidwayZooError, MissingFileError
from midway_zoo.files import atomic, check_output, make_folder, why_not_writable
from midway_zoo.inference.folders import frame_files, suffix_of
from midway_zoo.inference.sources import Kind, Source, base_folder, find_sources
from midway_zoo.inference.video_file import import_av
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.runs import as_json
from midway_zoo.train.data.video_files import stamp
from midway_zoo.train.data.video_probe import probe

INDEX_NAME = "midway_index.json"
FORMAT = 2
_OLDER = 1
"""Earlier format, whose AVI files and frame folders are probed again, since they were read in another order."""

_SAVE_SECONDS = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reject:
    """A video that cannot be used."""

    path: str
    kind: Kind
    size: int
    changed_ns: int
    reason: str


Entry: TypeAlias = IndexedVideo | Reject


@dataclass(frozen=True)
class Index:
    """The videos of a data root."""

    base: Path
    """Folder that the paths are relative to."""
    videos: tuple[IndexedVideo, ...]
    """In natural order of their paths."""
    rejects: tuple[Reject, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        """Usable videos and rejects."""
        return [*self.videos, *self.rejects]

    @property
    def fingerprint(self) -> str:
        """Changes with anything that affects the pairs of a run, but not with the location of the data."""
        content = [
            [value for key, value in vars(video).items() if key != "changed_ns" and (key, value) != ("stored", None)]
            for video in self.videos
        ]
        return hashlib.sha256(json.dumps(content, default=as_json).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write one JSON object with a line per video, replacing an existing index."""
        with atomic(path, overwrite=True) as temporary:
            text = (
                f'{{"format": {FORMAT},\n"clips": [\n{_lines(self.videos)}\n],\n'
                f'"rejects": [\n{_lines(self.rejects)}\n]}}\n'
            )
            # Names that are not UTF-8 are written as JSON escapes.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    @classmethod
    def load(cls, path: Path, base: Path) -> "Index":
        """Read what :meth:`save` wrote.

        Raises:
            MissingFileError: if there is no such file.
            InputError: if it is not an index of this version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] not in (FORMAT, _OLDER):
                found = content["format"]
                raise InputError(
                    f"{path} is an index of format {found}, not {FORMAT}. Delete it and index the data again."
                )
            videos = tuple(IndexedVideo(**video) for video in content["clips"])
            index = cls(base, videos, tuple(Reject(**reject) for reject in content["rejects"]))
            return index if content["format"] == FORMAT else _outdated(index)
        except FileNotFoundError as error:
            raise MissingFileError(f"there is no index {path}; `midway-zoo train index ROOT` writes one.") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is not an index ({error!r}). Delete it and index the data again.") from error

    def report(self, *, min_seconds: float = 0.5, frames_fps: float = 30.0) -> str:
        """Totals, and every reject with its reason, as text."""
        hours = sum(video.duration(frames_fps) for video in self.videos) / 3600
        frames = sum(video.frames for video in self.videos)
        short = [video for video in self.videos if video.duration(frames_fps) < min_seconds]
        bad = [(reject.path, reject.reason) for reject in self.rejects]
        bad += [(video.path, f"too short for a pair: {video.duration(frames_fps):.2f} s") for video in short]
        lines = [f"{len(self.videos) - len(short)} videos, {frames} frames, {hours:.2f} h; {len(bad)} cannot be used"]
        text = "\n".join(lines + [f"  {path}: {reason}" for path, reason in bad])
        return text.encode("utf-8", "backslashreplace").decode()  # names that are not UTF-8 cannot be printed


def _outdated(index: Index) -> Index:
    """An index in which entries that an earlier release read differently count as changed."""

    def aged(entry: Any) -> Any:
        another = entry.kind == "frames" or suffix_of(entry.path) in (".avi", ".gif") or isinstance(entry, Reject)
        return replace(entry, changed_ns=-1) if another else entry

    return Index(index.base, tuple(map(aged, index.videos)), tuple(map(aged, index.rejects)))


def build_index(
    root: str | os.PathLike[str],
    *,
    workers: int | None = None,
    known: Index | None = None,
    partial: Path | None = None,
) -> Index:
    """Probe every video of a root once, in parallel.

    For a video, the times of frames and keyframes are read (from the container's header, or else by demultiplexing),
    and one frame is decoded.

    Args:
        root: see :func:`~midway_zoo.inference.sources.find_sources`.
        workers: threads; by default twice the cores.
        known: an earlier index of the root; unchanged files are taken from it.
        partial: file for intermediate results, written every minute and on interruption, from which a later call
            continues. Removed at the end.

    Raises:
        MissingFileError: if there is no such root.
        MissingExtraError: if PyAV is not installed.
        InputError: if it holds no videos and no frames.
    """
    root = Path(root)
    sources = find_sources(root)
    if not sources:
        raise InputError(f"{root} holds no videos and no folders of frames.")
    base = base_folder(root)
    if partial is None:
        return _probe_all(base, sources, workers, known)
    if partial.is_file():
        begun = Index.load(partial, base)
        entries = {entry.path: entry for entry in [*(known.entries if known else ()), *begun.entries]}
        known = _assembled(base, list(entries.values()))
    index = _probe_all(base, sources, workers, known, partial)
    partial.unlink(missing_ok=True)
    return index


def index_path(root: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Path of the index of a root.

    ``path`` if given; else in the folder, or beside the list, video or frames; else, if that is not writable and
    there is none, in the user's cache (``MIDWAY_ZOO_INDEXES``, by default
    ``~/.cache/midway_zoo/indexes``), under a name made from the root's path.
    """
    if path is not None:
        return Path(path)
    root = Path(root).resolve()
    # Not in a folder of frames, which are one video: the index is of the videos in a folder.
    inside = root.is_dir() and not frame_files(root)
    beside = root / INDEX_NAME if inside else root.with_name(f"{root.name}.{INDEX_NAME}")
    return beside if beside.is_file() or not why_not_writable(beside.parent) else _cached_path(root)


def _cached_path(root: Path) -> Path:
    cache = os.environ.get("MIDWAY_ZOO_INDEXES")
    home = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "midway_zoo" / "indexes"
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    name = root.name.encode("ascii", "replace").decode().replace("?", "_")
    return home.expanduser() / f"{name}.{digest}.{INDEX_NAME}"


def check_index_path(location: Path) -> None:
    """Create the folder of an index before the work, since failing afterwards would waste it.

    Raises:
        InputError: if it is not writable.
    """
    try:
        make_folder(location.parent)
        check_output(location, overwrite=True)
    except InputError as error:
        raise InputError(
            f"the index cannot be written: {error} Set data.index (of `train index`: --index) to a file that can be."
        ) from error


def load_or_build_index(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    refresh: bool = True,
) -> Index:
    """The index of a root, built and saved if there is none.

    Changed files are probed again. Missing files stay in the index (a run replaces their samples), and new files are
    not searched for, so that a resumed run sees the same data; index the root again to include them. With several
    processes, let one call this before the others.

    Args:
        root: see :func:`~midway_zoo.inference.sources.find_sources`.
        path: path of the index; by default that of :func:`index_path`.
        workers: threads; by default twice the cores.
        refresh: check every file for changes. False if another process has just done so: an existing index is then used
            as it is, unless the other process could not save its result.

    Raises:
        MissingFileError: if there is no such root.
        InputError: if there is no index and none can be written, or there are no videos.
    """
    if not Path(root).exists():
        raise MissingFileError(f"there is no data folder, list or video {root}.")
    location = index_path(root, path)
    if location.is_file():
        index = Index.load(location, base_folder(Path(root)))
        if not refresh and not why_not_writable(location.parent):
            return index
        refreshed = _refreshed(index, workers)
        if refreshed is not index and not why_not_writable(location.parent):
            refreshed.save(location)
        return refreshed
    check_index_path(location)
    index = build_index(root, workers=workers)
    index.save(location)
    _log.info("indexed %s; saved in %s", index.report().splitlines()[0], location)
    return index


def _refreshed(index: Index, workers: int | None) -> Index:
    """The index with changed files probed again; the same object if none changed."""
    entries = index.entries
    with ThreadPoolExecutor(_threads(workers)) as pool:
        stamps = list(pool.map(partial(_stamp_or_none, index.base), entries))
    gone = [entry.path for entry, now in zip(entries, stamps, strict=True) if now is None]
    stale = {
        entry.path
        for entry, now in zip(entries, stamps, strict=True)
        if now is not None and now != (entry.size, entry.changed_ns)
    }
    if gone:
        _log.warning("%d of %d indexed videos are gone, the first is %s", len(gone), len(entries), gone[0])
    if not stale:
        return index
    _log.warning("%d of %d indexed videos changed and are probed again", len(stale), len(entries))
    again = _probe_all(
        index.base, [Source(entry.path, entry.kind) for entry in entries if entry.path in stale], workers, None
    )
    changed = {entry.path: entry for entry in again.entries}
    return _assembled(index.base, [changed.get(entry.path, entry) for entry in entries])


def _probe_all(
    base: Path, sources: Sequence[Source], workers: int | None, known: Index | None, partial: Path | None = None
) -> Index:
    if any(source.kind == "video" for source in sources):
        import_av()
    before = {} if known is None else {entry.path: entry for entry in known.entries}
    entries: list[Entry] = []
    saved = time.monotonic()
    # PyAV leaves the interpreter lock while it reads and decodes, so threads are enough.
    pool = ThreadPoolExecutor(_threads(workers))
    try:
        results = pool.map(lambda source: _probed(base, source, before.get(source.path)), sources)
        for entry in bar(results, total=len(sources), unit=" videos", desc="index"):
            entries.append(entry)
            if partial is not None and time.monotonic() - saved > _SAVE_SECONDS:
                _assembled(base, entries).save(partial)
                saved = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        if partial is not None and len(entries) < len(sources):
            _assembled(base, entries).save(partial)
    return _assembled(base, entries)


def _probed(base: Path, source: Source, before: Entry | None) -> Entry:
    try:
        if before is not None and stamp(base / source.path, source.kind) == (before.size, before.changed_ns):
            return before
        return probe(base, source)
    except MidwayZooError as error:
        size, changed_ns = _stamp_or_none(base, source) or (0, 0)
        return Reject(source.path, source.kind, size, changed_ns, str(error))


def _stamp_or_none(base: Path, entry: Entry | Source) -> tuple[int, int] | None:
    try:
        return stamp(base / entry.path, entry.kind)
    except MissingFileError:
        return None


def _assembled(base: Path, entries: Sequence[Entry]) -> Index:
    videos = tuple(entry for entry in entries if isinstance(entry, IndexedVideo))
    return Index(base, videos, tuple(entry for entry in entries if isinstance(entry, Reject)))


def _threads(workers: int | None) -> int:
    return max(1, workers) if workers is not None else 2 * (os.cpu_count() or 1)


def _lines(entries: Sequence[Entry]) -> str:
    return ",\n".join(json.dumps(vars(entry), ensure_ascii=False, default=as_json) for entry in entries)
