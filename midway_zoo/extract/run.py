"""An extraction from beginning to end: the plan, the workers, the index."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.errors import DiskFullError, InputError, InterruptedWorkError
from midway_zoo.extract import on_ray
from midway_zoo.extract.compute import Extractor
from midway_zoo.extract.index import INDEX, survey, write_index
from midway_zoo.extract.items import Item, find_items
from midway_zoo.extract.places import ABOUT, Results, is_remote
from midway_zoo.extract.plan import Unit, add_new, divided, extend, planned
from midway_zoo.extract.processes import Process, launched
from midway_zoo.extract.progress import files_by_unit, is_complete
from midway_zoo.extract.settings import Settings, check_same
from midway_zoo.extract.shards import import_pyarrow
from midway_zoo.extract.work import Job, Tally, run_unit
from midway_zoo.files import make_folder
from midway_zoo.inference.video_file import import_av
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import state_digest
from midway_zoo.version import __version__
from midway_zoo.weights.registry import Model, resolve_network

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Totals of an extraction, counted from its files."""

    out: str
    items: int
    """Number of complete items."""
    failed: int
    """Number of failed items; failures.jsonl has the reasons."""
    planned: int
    """Number of items in the plan."""
    frames: int
    """Number of frames in the results."""
    new: Tally
    """What this run added: by all of Ray's workers, or by this one of several launched processes."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How an extraction is run. None of it changes the results."""

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    """Number of Ray's workers; None for one per GPU or, without GPUs, as many as there are CPUs for all of their
    threads: the network's own and ``readers``."""
    ray_address: str | None = None
    """Address of an existing cluster; None starts one on this machine, unless the program is connected to one."""
    batch_size: int = 8
    """Frames, or images, per pass."""
    readers: int = 1
    """Threads that decode ahead for each network, each working on a clip of its own."""
    shard_mb: int = 128
    """Approximate size of a file in megabytes."""
    shard_items: int | None = None
    """Items per unit of the plan; None decides by number and size of the items."""
    retry_failed: bool = False
    """Plan the failed items once more."""

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise InputError(f'engine={self.engine!r}: "local" or "ray" is expected.')
        check_integer("batch_size", self.batch_size, 1)
        check_integer("readers", self.readers, 1)
        check_integer("shard_mb", self.shard_mb, 1)
        for name in ("workers", "shard_items"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if self.engine == "local" and (self.workers is not None or self.ray_address is not None):
            raise InputError('workers and ray_address are for engine="ray"; the local engine is one process.')


def extract(
    model: Model,
    source: str | PathLike[str],
    out: str | PathLike[str],
    settings: Settings | None = None,
    running: Running | None = None,
    *,
    name: str | None = None,
) -> Summary:
    """Extract features, motion latents and flow of many videos and images into a folder of shards.

    The same call continues an extraction that was stopped, for whatever reason, and each item is extracted once. The
    contents of ``out`` are the only record. New items of the input are added; items that fail are listed, and do not
    stop the extraction.

    Args:
        model: a network on its device, or a pretrained name or path (then on a GPU if there is one).
        source: what to extract from; see :func:`midway_zoo.extract.items.find_items`.
        out: folder or URL; created if it does not exist.
        settings: the settings that determine the results; see :class:`~midway_zoo.extract.settings.Settings`.
        running: engine and sizes.
        name: name of the model in the results; None for its own.

    Raises:
        ConfigError: if ``out`` holds results of other settings (each difference is named), or the network lacks what is
            wanted.
        InputError: for an input without items, or arguments that make no sense.
        MissingFileError: if there is no input.
        MissingExtraError: if pyarrow, PyAV, Ray, Accelerate or the driver of a URL is needed and missing.
        DiskFullError: if the disk is full; what was written is kept.
        DeviceLostError: if the device fails; what was written is kept.
        InterruptedWorkError: after Ctrl-C, saying how far it got; finished rows are written.
    """
    settings, running = settings or Settings(), running or Running()
    process = launched(running.engine)
    if settings.format == "parquet":
        import_pyarrow()
    if running.engine == "ray":
        on_ray.import_ray()
    network = resolve_network(model)
    if isinstance(model, str | PathLike):
        network = network.to(process.device)
    digest = state_digest(network)
    source, results = fspath(source), Results(fspath(out))
    extractor = Extractor(network, settings)
    called = name or (fspath(model) if isinstance(model, str | PathLike) else type(network).__name__)
    facts = _facts(called, network, digest, extractor)
    with _alone(results, process):
        if process.first:
            _prepare(results, source, facts, settings, running)
        process.wait()
        saved = json.loads(results.text(ABOUT) or "{}")
        job = Job(saved["base"], facts, running.batch_size, running.shard_mb * 2**20, readers=running.readers)
        return _work(results, extractor, job, running, process)


def _facts(called: str, network: MidwayNetwork, digest: str, extractor: Extractor) -> dict[str, Any]:
    return {
        "midway_zoo": __version__,
        "model": called,
        "weights_sha256": digest,
        "provenance": network.provenance,
        "settings": extractor.settings.to_dict(),
        "tensors": list(extractor.names),
    }


@contextmanager
def _alone(results: Results, process: Process) -> Iterator[None]:
    """Lock the results against other extractions; of several launched processes, the first one does so."""
    if results.local is None or not process.first:
        yield
        return
    make_folder(results.local)
    lock = FileLock(str(results.local / ".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another extraction is writing to {results}; wait for it, or give another OUT.") from error
    try:
        yield
    finally:
        lock.release()


def _prepare(results: Results, source: str, facts: dict[str, Any], settings: Settings, running: Running) -> None:
    """Compare with existing results, and plan the new items."""
    results.clear_unfinished()
    shown = source if is_remote(source) else str(Path(source).absolute())
    asked = {"input": shown, "weights_sha256": facts["weights_sha256"], **facts["settings"]}
    saved = json.loads(results.text(ABOUT) or "null")
    if saved is not None:
        there = {"input": saved["input"], "weights_sha256": saved["weights_sha256"], **saved["settings"]}
        check_same(there, asked, str(results))
    listing = find_items(source, settings.images_are)
    if any(item.kind == "video" for item in listing.items):
        import_av()
    if saved is None:
        if results.names("data"):
            raise InputError(f"{results} holds files in data/ but no {ABOUT}: give an empty folder as OUT.")
        results.put_text(ABOUT, json.dumps({**facts, "input": shown, "base": listing.base}, indent=1))
    elif saved["base"] != listing.base:
        raise InputError(f"{source} is at {listing.base} now, and was at {saved['base']}; give another OUT.")
    add_new(results, listing, running.shard_items)
    if running.retry_failed:
        _plan_failed(results, listing.items)


def _plan_failed(results: Results, items: list[Item]) -> None:
    """Plan failed items once more, from the chunk at which they failed."""
    files = files_by_unit(results)
    waiting = {
        item.key for unit in planned(results) if not is_complete(files.get(unit.number, ())) for item in unit.items
    }
    entries = survey(results).entries
    again = [item for item in items if item.key in entries and entries[item.key].failed and item.key not in waiting]
    begun = {item.key: entries[item.key].progress.next_chunk for item in again}
    if again:
        extend(results, lambda first: divided(again, first, begun={key: n for key, n in begun.items() if n}))


def _work(results: Results, extractor: Extractor, job: Job, running: Running, process: Process) -> Summary:
    files = files_by_unit(results)
    keys, pending = set[str](), list[Unit]()
    left = 0
    for unit in planned(results):
        keys |= {item.key for item in unit.items}
        if not is_complete(files.get(unit.number, ())) and unit.number % process.count == process.index:
            pending.append(unit)
            left += len(unit.items)
    _logger.info("%d of %d items are left, in %d units", left, len(keys), len(pending))
    tally = Tally()
    with bar(total=len(keys), initial=len(keys) - left, unit=" items", hidden=not process.first) as shown:

        def note(more: Tally) -> None:
            nonlocal tally
            tally += more
            shown.update(more.items)
            shown.set_postfix(frames=tally.frames, failed=tally.failed, refresh=False)

        try:
            if running.engine == "ray":
                on_ray.run(pending, extractor, results, job, note, files, running.workers, running.ray_address)
            else:
                for unit in pending:
                    run_unit(unit, extractor, results, job, note, files.get(unit.number, ()))
        except KeyboardInterrupt as error:
            raise InterruptedWorkError(
                f"interrupted: {len(keys) - left + tally.items} of {len(keys)} items are settled in {results}; the "
                "same command goes on from there."
            ) from error
        except DiskFullError as error:
            done = f"{len(keys) - left + tally.items} of {len(keys)} items were settled"
            raise DiskFullError(f"{error} ({done}, some perhaps not yet written.)") from error
    return Summary(out=str(results), new=tally, planned=len(keys), **_indexed(results, job.facts, process))


def _indexed(results: Results, facts: dict[str, Any], process: Process) -> dict[str, int]:
    """Write the index once all processes are done, and return its totals.

    The processes wait for each other and end together: a launcher ends all others when one ends with an exit code,
    such as that of failed items.
    """
    process.wait()
    if process.first:
        for row in write_index(results, facts).twice:
            _logger.warning("exists twice: %s", row)
    process.wait()
    index = json.loads(results.text(INDEX) or "{}")
    return {name: index[name] for name in ("items", "failed", "frames")}
