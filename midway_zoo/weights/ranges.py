"""Planning the ranges of a file on the Hub that hold certain tensors, and fetching them over a few connections."""

import itertools
import queue
import threading
from collections.abc import Generator, Mapping
from typing import NamedTuple

import torch
from huggingface_hub.utils import are_progress_bars_disabled

from midway_zoo.bars import bar
from midway_zoo.errors import CheckpointError
from midway_zoo.weights.archive import TorchArchive, local_header_size, tensor_from_bytes
from midway_zoo.weights.pickles import TensorRef
from midway_zoo.weights.remote import RemoteFile

CONNECTIONS = 8
MOST_UNWANTED = 0.12
"""Unneeded bytes that may be fetched to save requests, as a share of the needed ones."""
_RUN = 2**25  # bytes of one request: longer ranges are split among the connections
_GAP = 2**15  # fetching this many unneeded bytes always costs less than another request

Refs = Mapping[str, TensorRef]


class Run(NamedTuple):
    """One range, and the tensors whose storages lie in it."""

    start: int
    stop: int
    names: list[str]


def plan(archive: TorchArchive, refs: Refs, spare: float = 0.0) -> list[Run]:
    """As few ranges as possible that hold some tensors.

    torch sorts storages by the text of their numbers (before 2.3), so those of one encoder are scattered among
    the optimizer's. Gaps are fetched too, the smallest first, as long as they take no more than ``spare`` bytes. A
    range ends where the next entry begins, since only the file knows the length of an entry's local header.
    """
    offsets = sorted(info.header_offset for info in archive.all_entries)
    ends = dict(zip(offsets, [*offsets[1:], archive.directory_offset], strict=True))
    names: dict[int, list[str]] = {}
    for name, ref in refs.items():
        names.setdefault(archive.storage_entry(ref.storage).header_offset, []).append(name)
    starts = sorted(names)
    gaps = sorted((after - ends[before], after) for before, after in itertools.pairwise(starts))
    joined: set[int] = set()
    for gap, after in gaps:
        if gap > max(_GAP, spare):
            break
        spare -= gap
        joined.add(after)
    runs: list[Run] = []
    for start in starts:
        if start in joined and ends[start] - runs[-1].start <= _RUN:
            runs[-1] = Run(runs[-1].start, ends[start], [*runs[-1].names, *names[start]])
        else:
            runs.append(Run(start, ends[start], names[start]))
    return runs


def read_parts(
    file: RemoteFile, archive: TorchArchive, parts: Mapping[str, Refs], arrived: dict[str, torch.Tensor]
) -> Generator[tuple[str, dict[str, torch.Tensor]], None, None]:
    """Fetch tensors of several parts, each storage checked by its CRC-32; with a progress bar.

    Args:
        file: on the Hub.
        archive: the same, opened.
        parts: names of tensors, all different, and where each is.
        arrived: tensors by name from an earlier call, which are not fetched again. After a failure it holds those of
            incomplete parts received by then.

    Yields:
        A part's name and tensors as soon as it is complete, first parts first, since later ones may fail.
    """
    refs = {name: ref for part in parts.values() for name, ref in part.items() if name not in arrived}
    rank = {name: index for index, part in enumerate(parts.values()) for name in part}
    wanted = sum({ref.storage.key: archive.storage_entry(ref.storage).file_size for ref in refs.values()}.values())
    runs = plan(archive, refs, MOST_UNWANTED * wanted - file.received)
    runs.sort(key=lambda run: (min(rank[name] for name in run.names), run.start - run.stop))  # the longest first
    missing = {part: set(members) for part, members in parts.items()}
    for found in itertools.chain([dict(arrived)], _fetch(file, archive, refs, runs, rank)):
        arrived |= found
        for part, names in list(missing.items()):
            names.difference_update(found)
            if not names:
                del missing[part]
                yield part, {name: arrived.pop(name) for name in parts[part]}
    if missing:
        raise CheckpointError(f"{file.filename}: the tensors of {', '.join(missing)} were not all received; try again.")


def _fetch(
    file: RemoteFile, archive: TorchArchive, refs: Refs, runs: list[Run], rank: Mapping[str, int]
) -> Generator[dict[str, torch.Tensor], None, None]:
    """The tensors of runs, in the order in which they arrive; ``rank`` is that of a tensor's part.

    The threads are daemons: Python waits for those of concurrent.futures when it exits, and one that waits for a slow
    server would delay Ctrl-C.
    """
    todo: queue.SimpleQueue[Run] = queue.SimpleQueue()
    done: queue.SimpleQueue[dict[str, torch.Tensor] | BaseException | None] = queue.SimpleQueue()  # None: one ended
    # Only runs with tensors of a rank below the limit are started. Damage in one part does not affect earlier parts,
    # which may share a run with it; after a failure of the network nothing new is started.
    limits = [len(rank)]
    for run in runs:
        todo.put(run)
    quiet = are_progress_bars_disabled()
    total = sum(run.stop - run.start for run in runs)
    with bar(total=total, unit="B", unit_scale=True, desc=file.filename, leave=True, hidden=quiet) as shown:

        def work() -> None:
            try:
                while True:
                    run = todo.get_nowait()
                    if min(rank[name] for name in run.names) >= min(limits):
                        continue
                    data = file.fetch(run.start, run.stop, shown.update)
                    for name in run.names:
                        try:
                            done.put({name: _cut(data, run.start, archive, refs[name])})
                        except CheckpointError as error:  # the others are intact, and may complete a part
                            limits.append(rank[name])
                            done.put(error)
            except queue.Empty:
                pass
            except BaseException as error:  # noqa: BLE001  (for the thread that waits for it)
                limits.append(0)
                done.put(error)
            finally:
                done.put(None)

        workers = min(CONNECTIONS, len(runs))
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        failure: BaseException | None = None
        try:
            # After a failure running requests are awaited: they may complete a part.
            while workers:
                found = done.get()
                if found is None:
                    workers -= 1
                elif isinstance(found, BaseException):
                    failure = failure or found
                else:
                    yield found
            if failure is not None:
                raise failure
        except BaseException:  # Ctrl-C too
            file.stop.set()
            raise


def _cut(data: bytearray, start: int, archive: TorchArchive, ref: TensorRef) -> torch.Tensor:
    """One tensor from bytes that were fetched from offset ``start`` on."""
    info = archive.storage_entry(ref.storage)
    offset = info.header_offset - start
    first = offset + local_header_size(bytes(data[offset : offset + 30]), info, archive.name)
    if first + info.file_size > len(data):
        raise CheckpointError(f"{archive.name} is damaged: {info.filename} runs into the next entry. Try again.")
    raw = torch.empty(info.file_size, dtype=torch.uint8)
    raw.numpy()[:] = memoryview(data)[first : first + info.file_size]
    return tensor_from_bytes(raw, ref, info, archive.name)
