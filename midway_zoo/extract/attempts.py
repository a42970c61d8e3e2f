"""Items that kill the process that reads them: a decoder crashes, or a picture takes all memory.

A unit is noted as begun until its first file is written. If it is begun again without any file, its items are noted
one by one, and an item at which the process has died twice is left out.
"""

import json

from midway_zoo.extract.decoding import Piece
from midway_zoo.extract.items import Item
from midway_zoo.extract.places import Results
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.progress import UnitProgress

_DEATHS = 2
"""How often the process may die at an item before the item is left out."""


class Attempts:
    """The attempts at one unit. Creating an instance counts as an attempt.

    Args:
        results: the results of the extraction.
        unit: number of the unit.
    """

    def __init__(self, results: Results, unit: int) -> None:
        self._results, self._name = results, f"attempts/unit-{unit:06}.json"
        saved = results.text(self._name)
        self.careful = saved is not None
        """Whether an earlier attempt wrote nothing: items are then noted one by one, and none is read ahead."""
        self._items: dict[str, int] = json.loads(saved) if saved else {}
        self._save()

    def hopeless(self, unit: Unit, progress: UnitProgress) -> list[Item]:
        """Items at which the process died too often."""
        ended = (item for item in unit.items if self._items.get(item.key, 0) >= _DEATHS)
        return [item for item in ended if not progress.settled(item.key)]

    def begin(self, piece: Piece) -> None:
        """Note that a piece is about to be read."""
        if self.careful:
            for item in piece.items:
                self._items[item.key] = self._items.get(item.key, 0) + 1
            self._save()

    def progressed(self) -> None:
        """Note that a file was written."""
        if not self.careful:
            self.end()

    def end(self) -> None:
        """Note that the unit is complete, or was stopped in an orderly way."""
        self._results.remove(self._name)

    def _save(self) -> None:
        self._results.put_text(self._name, json.dumps(self._items))
