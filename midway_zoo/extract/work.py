"""One unit of the plan, from its sources to its shards; used by every engine."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from midway_zoo.errors import DeviceLostError, MissingExtraError
from midway_zoo.extract.ahead import Ahead
from midway_zoo.extract.attempts import Attempts
from midway_zoo.extract.compute import ClipExtraction, Extractor, Row
from midway_zoo.extract.decoding import ClipBatch, ClipEnd, Failed, ImageBatch, Piece, Read, Reader, reason_of
from midway_zoo.extract.items import Item
from midway_zoo.extract.places import Results, is_disk_full
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.progress import UnitProgress, files_of, is_complete, unit_progress
from midway_zoo.extract.shards import FOLDER, About, shard_name, write_shard

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all units of an extraction have in common."""

    base: str
    """Folder or URL that the paths of items are relative to."""
    facts: dict[str, Any]
    """How the results are made; stored in every shard."""
    batch_size: int = 8
    shard_bytes: int = 2**27
    """Largest size of a shard's tensors, unless a single row has more."""
    shard_frames: int = 16384
    """Largest number of frames per shard, which bounds what is lost if the process is killed."""
    readers: int = 1
    """Threads that decode ahead, each working on a piece of its own."""


@dataclass
class Tally:
    """Numbers of items, failed items, frames and bytes that were done."""

    items: int = 0
    failed: int = 0
    frames: int = 0
    bytes: int = 0

    def __iadd__(self, other: "Tally") -> "Tally":
        self.items, self.failed = self.items + other.items, self.failed + other.failed
        self.frames, self.bytes = self.frames + other.frames, self.bytes + other.bytes
        return self


Note = Callable[[Tally], None]
"""Called with what was done since the last call."""


class _Writer:
    """Collects the rows of a unit until they fill a file. They are safe once it is written."""

    def __init__(self, results: Results, unit: Unit, job: Job, progress: UnitProgress, attempts: Attempts) -> None:
        self._results, self._unit, self._job, self._progress = results, unit, job, progress
        self._attempts = attempts
        self.clip: ClipExtraction | None = None
        """The clip in progress."""
        self._rows: list[Row] = []
        self._failed: dict[str, str] = {}

    def add(self, row: Row) -> bool:
        """Add a row; returns False if it exists already."""
        of_item = self._progress.of(row.item)
        if row.chunk in of_item.chunks:
            return False
        job = self._job
        full = sum(one.bytes for one in self._rows) + row.bytes > job.shard_bytes
        if self._rows and (full or sum(one.frames for one in self._rows) + row.frames > job.shard_frames):
            self.write(last=False)
        self._rows.append(row)
        of_item.note(row.chunk, last=row.last)
        return True

    def fail(self, item: Item, reason: str) -> None:
        """Note that an item failed."""
        self._failed[item.key] = self._progress.failed[item.key] = reason

    def write(self, *, last: bool) -> None:
        """Write the collected rows."""
        if not last and not self._rows and not self._failed:
            return
        settings, number = self._job.facts["settings"], self._progress.next_sequence()
        about = About(self._unit.number, number, self._job.facts, dict(self._failed), tuple(self._job.facts["tensors"]))
        name = shard_name(self._unit.number, number, settings["format"], last=last)
        rows = list(self._rows)
        self._results.put(f"{FOLDER}/{name}", lambda path: write_shard(path, rows, about, settings["format"]))
        self._progress.sequences.add(number)
        self._rows, self._failed = [], {}
        self._attempts.progressed()


def run_unit(
    unit: Unit, extractor: Extractor, results: Results, job: Job, note: Note, known: Sequence[str] = ()
) -> None:
    """Extract what is missing of a unit, and write it.

    It may be called again after any interruption, even by two workers at once: existing results are kept, and those
    made again are the same. On Ctrl-C finished rows are written first.

    Args:
        unit: a unit of the plan.
        extractor: network and settings.
        results: where the shards are written to.
        job: base, facts and sizes.
        note: called after every item, and after every chunk of longer ones.
        known: known names of the unit's files; further ones are looked for.

    Raises:
        DiskFullError: if the disk is full.
        DeviceLostError: if the device fails.
        MissingExtraError: for videos without PyAV.
    """
    names = files_of(results, unit.number, job.facts["settings"]["format"], known)
    if is_complete(names):
        return
    progress = unit_progress(results, unit, names)
    attempts = Attempts(results, unit.number)
    writer = _Writer(results, unit, job, progress, attempts)
    try:
        for item in attempts.hopeless(unit, progress):
            writer.fail(item, "the process died twice while it was working on this item, which was then left out")
            note(Tally(items=1, failed=1))
        pieces = _pieces(unit.items, progress, 1 if attempts.careful else job.batch_size)
        _run(_watched(pieces, attempts), extractor, writer, job, note, ahead=not attempts.careful)
    except (KeyboardInterrupt, SystemExit):
        writer.write(last=False)
        attempts.end()
        raise
    writer.write(last=True)
    attempts.end()


def _pieces(items: Iterable[Item], progress: UnitProgress, batch_size: int) -> Iterator[Piece]:
    """What is left to do: clips one by one, and images in batches."""
    images: list[Item] = []
    for item in items:
        if progress.settled(item.key):
            continue
        if item.kind == "image":
            images.append(item)
        if images and (item.kind != "image" or len(images) == batch_size):
            yield Piece(tuple(images))
            images = []
        if item.kind != "image":
            yield Piece((item,), progress.of(item.key).next_chunk)
    if images:
        yield Piece(tuple(images))


def _watched(pieces: Iterator[Piece], attempts: Attempts) -> Iterator[Piece]:
    for piece in pieces:
        attempts.begin(piece)
        yield piece


def _run(pieces: Iterator[Piece], extractor: Extractor, writer: _Writer, job: Job, note: Note, *, ahead: bool) -> None:
    given_up: set[str] = set()
    readers = [Reader(job.base, extractor.look(job.batch_size), given_up) for _ in range(job.readers if ahead else 1)]
    try:
        if ahead:
            with Ahead(pieces, [reader.read for reader in readers]) as found:
                for read in found:
                    _take(read, given_up, extractor, writer, note)
            return
        for piece in pieces:
            for read in readers[0].read(piece):
                _take(read, given_up, extractor, writer, note)
                if not isinstance(read, ClipBatch):  # an item ended
                    writer.write(last=False)
    finally:
        for reader in readers:
            reader.close()


def _take(read: Read, given_up: set[str], extractor: Extractor, writer: _Writer, note: Note) -> None:
    if isinstance(read, Failed):
        writer.clip = None
        _fail(read.item, read.reason, writer, note)
    elif isinstance(read, ImageBatch):
        _images(read, extractor, writer, note)
    elif read.item.key not in given_up:
        writer.clip = writer.clip or extractor.clip()
        taken = _clip(read, writer.clip, writer, note)
        if not taken:
            given_up.add(read.item.key)
        if not taken or isinstance(read, ClipEnd):
            writer.clip = None


def _fail(item: Item, reason: str, writer: _Writer, note: Note) -> None:
    _logger.info("%s failed: %s", item.key, reason)
    writer.fail(item, reason)
    note(Tally(items=1, failed=1))


def _clip(read: ClipBatch | ClipEnd, clip: ClipExtraction, writer: _Writer, note: Note) -> bool:
    """Process a part of a clip; returns False if it failed."""
    try:
        for row in clip.end(read.frames) if isinstance(read, ClipEnd) else clip.add(read):
            if writer.add(row):
                note(Tally(int(row.last), 0, row.frames, row.bytes))
    except Exception as error:  # noqa: BLE001  (whatever it is, it concerns this item only)
        raise_if_fatal(error, clip.device)
        _fail(read.item, reason_of(error), writer, note)
        return False
    return True


def _images(batch: ImageBatch, extractor: Extractor, writer: _Writer, note: Note) -> None:
    try:
        rows = extractor.images(batch)
    except Exception as error:  # noqa: BLE001  (as of clips)
        raise_if_fatal(error, extractor.network.device)
        if len(batch.items) == 1:
            _fail(batch.items[0], reason_of(error), writer, note)
            return
        for index, item in enumerate(batch.items):  # one of them may have caused it
            single = ImageBatch([item], batch.images[index : index + 1], batch.given[index : index + 1])
            _images(single, extractor, writer, note)
        return
    for row in rows:
        if writer.add(row):
            note(Tally(1, 0, row.frames, row.bytes))


def raise_if_fatal(error: Exception, device: torch.device) -> None:
    """Raise an error that would hit every further item, rather than this one alone.

    Raises:
        DeviceLostError: if ``device``, on which the item was computed, does not work any more.
        DiskFullError, OSError: if the disk is full.
        MissingExtraError: for videos without PyAV.
    """
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and _is_lost(error, device):
        raise DeviceLostError(
            f"the device failed ({' '.join(str(error).split())[:200]}). Start the same command again: it goes on from "
            "what was written."
        ) from error
    if is_disk_full(error) or isinstance(error, MissingExtraError):
        raise error


def _is_lost(error: RuntimeError, device: torch.device) -> bool:
    """Whether an error is the accelerator's: by its class (torch 2.8 or later), or as nothing runs there now."""
    kind = getattr(torch, "AcceleratorError", None)
    if kind is not None and isinstance(error, kind):
        return True
    if device.type == "cpu":
        return False
    try:
        torch.ones(1, device=device).sum().item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False
