"""The plan: items grouped into units, each processed by one worker. It is only ever extended, never changed.

The names of a unit's files follow from its number, and their contents from its items. If a unit is processed twice,
for example by a worker that was thought to be dead, it writes the same files twice.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from midway_zoo.extract.items import Item, Listing
from midway_zoo.extract.places import Results

_logger = logging.getLogger(__name__)

_UNITS = 256
"""Approximate number of units, so that workers can share them; there are more if units would exceed the limits
below."""
_ITEMS = 1024
"""Largest number of items per unit."""
_BYTES, _LEAST_BYTES = 2**30, 2**24
"""Largest size of a unit's sources, about an hour of compressed video, and the size below which it is not divided."""


@dataclass(frozen=True)
class Unit:
    """Items that one worker goes through, in order."""

    number: int
    items: tuple[Item, ...]
    begun: dict[str, int] = field(default_factory=dict)
    """Key -> first missing chunk, for items that an earlier unit began and that are retried."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps([self.number, [item.to_json() for item in self.items], self.begun])

    @classmethod
    def from_json(cls, line: str) -> "Unit":
        """What :meth:`to_json` gave."""
        number, items, begun = json.loads(line)
        return cls(number, tuple(Item.from_json(item) for item in items), begun)


def divided(
    items: list[Item], first: int, *, per_unit: int | None = None, begun: dict[str, int] | None = None
) -> list[Unit]:
    """Items in units, numbered from ``first``, in order.

    Args:
        items: in the order of the plan.
        first: number of the first unit.
        per_unit: items per unit; None decides by number and size of the items.
        begun: see :class:`Unit`.
    """
    share = max(1.0, sum(map(_work, items)) / _UNITS)
    budget = min(max(sum(item.size for item in items) // _UNITS, _LEAST_BYTES), _BYTES)
    groups: list[list[Item]] = []
    held, work = 0, 0.0
    for item in items:
        full = work + _work(item) > share + 1e-6 or held + item.size > budget
        if not groups or len(groups[-1]) == (per_unit or _ITEMS) or (full and per_unit is None):
            groups.append([])
            held, work = 0, 0.0
        groups[-1].append(item)
        held, work = held + item.size, work + _work(item)
    begun = begun or {}
    return [
        Unit(first + index, tuple(group), {item.key: begun[item.key] for item in group if item.key in begun})
        for index, group in enumerate(groups)
    ]


def _work(item: Item) -> float:
    """Estimated work: an image takes little compared with a clip."""
    return 1 / 32 if item.kind == "image" else 1.0


def planned(results: Results) -> Iterator[Unit]:
    """The units of the plan so far, in order."""
    for name in results.names("plan"):
        if name.endswith(".jsonl"):
            with results.open(f"plan/{name}") as file:
                for line in file:
                    yield Unit.from_json(line.decode())


def extend(results: Results, make: Callable[[int], list[Unit]]) -> int:
    """Add the units that ``make`` returns for the first free number; returns how many items they hold."""
    last = max((unit.number for unit in planned(results)), default=-1)
    units = make(last + 1)
    if units:
        count = len([name for name in results.names("plan") if name.endswith(".jsonl")])
        results.put_text(f"plan/{count:04}.jsonl", "".join(f"{unit.to_json()}\n" for unit in units))
    return sum(len(unit.items) for unit in units)


def add_new(results: Results, listing: Listing, per_unit: int | None = None) -> int:
    """Plan the items that are not in the plan yet; returns their number."""
    known = {item.key for unit in planned(results) for item in unit.items}
    new = [item for item in listing.items if item.key not in known]
    if known and new:
        _logger.info("%d items are new since the last time", len(new))
    return extend(results, lambda first: divided(new, first, per_unit=per_unit)) if new else 0
