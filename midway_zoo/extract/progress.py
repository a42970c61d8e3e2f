"""What exists of a unit already, read from its files, which are the only record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from midway_zoo.extract.places import Results
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.shards import FOLDER, parse_name, read_about, shard_name


@dataclass
class ItemProgress:
    """Progress of one item."""

    chunks: set[int] = field(default_factory=set)
    """Chunks that exist."""
    total: int | None = None
    """Number of chunks, once the last one exists."""

    @property
    def done(self) -> bool:
        return self.total is not None and len(self.chunks) == self.total

    @property
    def next_chunk(self) -> int:
        """The first missing chunk."""
        return next(chunk for chunk in range(len(self.chunks) + 1) if chunk not in self.chunks)

    def note(self, chunk: int, *, last: bool) -> None:
        """Note that a chunk exists."""
        self.chunks.add(chunk)
        if last:
            self.total = chunk + 1


@dataclass
class UnitProgress:
    """Progress of one unit."""

    items: dict[str, ItemProgress] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    """Sequence numbers of its files."""

    def of(self, key: str) -> ItemProgress:
        """Progress of an item."""
        return self.items.setdefault(key, ItemProgress())

    def settled(self, key: str) -> bool:
        """Whether nothing is left to do for an item: it is complete, or has failed."""
        return key in self.failed or (key in self.items and self.items[key].done)

    def next_sequence(self) -> int:
        """The first unused sequence number."""
        return next(number for number in range(len(self.sequences) + 1) if number not in self.sequences)


def files_by_unit(results: Results) -> dict[int, list[str]]:
    """Names of the shards of every unit, in order."""
    found: dict[int, list[str]] = {}
    for name in results.names(FOLDER):
        parsed = parse_name(name)
        if parsed is not None:
            found.setdefault(parsed[0], []).append(name)
    return found


def files_of(results: Results, unit: int, ending: str, known: Sequence[str]) -> list[str]:
    """Names of the shards of one unit: the known ones, and those that another worker may have written since."""
    found = set(known)
    sequence = len(found)
    while True:
        names = [shard_name(unit, sequence, ending, last=last) for last in (False, True)]
        new = [name for name in names if results.exists(f"{FOLDER}/{name}")]
        if not new:
            return sorted(found)
        found |= set(new)
        sequence += 1


def is_complete(names: Iterable[str]) -> bool:
    """Whether the files of a unit are complete: none is missing up to the one that ends it."""
    parsed = [found for name in names if (found := parse_name(name)) is not None]
    return any(last for _, _, last in parsed) and len({number for _, number, _ in parsed}) == 1 + max(
        (number for _, number, _ in parsed), default=0
    )


def unit_progress(results: Results, unit: Unit, names: Iterable[str]) -> UnitProgress:
    """What exists of a unit.

    Args:
        results: the results of the extraction.
        unit: an incomplete unit.
        names: names of its files. If one is marked as last though others are missing, it is renamed.
    """
    progress = UnitProgress()
    for key, chunk in unit.begun.items():
        progress.of(key).chunks = set(range(chunk))
    for name in names:
        _, sequence, last = parse_name(name) or (0, 0, False)
        if last:
            name, ended = name.replace("-last", ""), name
            results.rename(f"{FOLDER}/{ended}", f"{FOLDER}/{name}")
        about, rows = read_about(results, name)
        for row in rows:
            progress.of(row["item"]).note(row["chunk"], last=row["last"])
        progress.failed |= about.failed
        progress.sequences.add(sequence)
    return progress
