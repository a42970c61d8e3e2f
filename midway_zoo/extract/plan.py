"""The plan: items in units that are worked at and written as a whole. It is made once and never changed, only added to.

What a unit's files are called follows from its number, and what is in them from its items: a unit that is worked at
twice, by a worker that was thought dead, say, writes the same files twice.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from midway_zoo.extract.items import Item, Listing
from midway_zoo.extract.places import Results

_logger = logging.getLogger(__name__)

_UNITS = 256
"""A plan has about so many units or more, so that workers can share them, until these reach the sizes below."""
_ITEMS = 1024
"""Of a unit at most."""
_BYTES, _LEAST_BYTES = 2**30, 2**24
"""Of a unit's sources: an hour or so of compressed video, and what is not divided further."""


@dataclass(frozen=True)
class Unit:
    """Items that one worker goes through, in order."""

    number: int
    items: tuple[Item, ...]
    begun: dict[str, int] = field(default_factory=dict)
    """Key -> first chunk that is missing, of items that an earlier unit began and that are tried again."""

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
        per_unit: items of a unit; None for about as many units as workers may want.
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
    """A picture is little to do beside a clip."""
    return 1 / 32 if item.kind == "image" else 1.0


def planned(results: Results) -> Iterator[Unit]:
    """The units of the plan so far, in order."""
    for name in results.names("plan"):
        if name.endswith(".jsonl"):
            with results.open(f"plan/{name}") as file:
                for line in file:
                    yield Unit.from_json(line.decode())


def extend(results: Results, make: Callable[[int], list[Unit]]) -> int:
    """Add the units that ``make`` gives for the first free number; how many items they hold."""
    last = max((unit.number for unit in planned(results)), default=-1)
    units = make(last + 1)
    if units:
        count = len([name for name in results.names("plan") if name.endswith(".jsonl")])
        results.put_text(f"plan/{count:04}.jsonl", "".join(f"{unit.to_json()}\n" for unit in units))
    return sum(len(unit.items) for unit in units)


def add_new(results: Results, listing: Listing, per_unit: int | None = None) -> int:
    """Plan the items that no plan has yet; how many these are."""
    known = {item.key for unit in planned(results) for item in unit.items}
    new = [item for item in listing.items if item.key not in known]
    if known and new:
        _logger.info("%d items are new since the last time", len(new))
    return extend(results, lambda first: divided(new, first, per_unit=per_unit)) if new else 0
