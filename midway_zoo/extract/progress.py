"""What of a unit is there already, read from its files: nothing else remembers it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from midway_zoo.extract.places import Results
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.shards import FOLDER, parse_name, read_about, shard_name


@dataclass
class ItemProgress:
    """Of one item."""

    chunks: set[int] = field(default_factory=set)
    """Those that are there."""
    total: int | None = None
    """How many there are, once the last is there."""

    @property
    def done(self) -> bool:
        return self.total is not None and len(self.chunks) == self.total

    @property
    def next_chunk(self) -> int:
        """The first that is missing."""
        return next(chunk for chunk in range(len(self.chunks) + 1) if chunk not in self.chunks)

    def note(self, chunk: int, *, last: bool) -> None:
        """Another one is there."""
        self.chunks.add(chunk)
        if last:
            self.total = chunk + 1


@dataclass
class UnitProgress:
    """Of one unit."""

    items: dict[str, ItemProgress] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    """Numbers of its files."""

    def of(self, key: str) -> ItemProgress:
        """Of an item."""
        return self.items.setdefault(key, ItemProgress())

    def settled(self, key: str) -> bool:
        """Whether nothing is left to do for an item: it is there, or has failed."""
        return key in self.failed or (key in self.items and self.items[key].done)

    def next_sequence(self) -> int:
        """The first number that no file has."""
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
    """Names of the shards of one unit: those known, and what another worker may have written since."""
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
    """Whether the files of a unit are all of it: none is missing up to the one that ends it."""
    parsed = [found for name in names if (found := parse_name(name)) is not None]
    return any(last for _, _, last in parsed) and len({number for _, number, _ in parsed}) == 1 + max(
        (number for _, number, _ in parsed), default=0
    )


def unit_progress(results: Results, unit: Unit, names: Iterable[str]) -> UnitProgress:
    """What is there of a unit.

    Args:
        results: of the extraction.
        unit: not complete.
        names: of its files. One that ends the unit though another is missing is renamed, since it no longer does.
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
