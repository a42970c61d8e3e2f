"""Items that end the process that reads them: a decoder that crashes, a picture that takes all memory.

A unit notes that it was begun, until something of it is written. When it is begun again without that, its items are
noted one by one, and the one at which the process ends twice is left out.
"""

import json

from midway_zoo.extract.decoding import Piece
from midway_zoo.extract.items import Item
from midway_zoo.extract.places import Results
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.progress import UnitProgress

_DEATHS = 2
"""Of a process at one item, before it is left out."""


class Attempts:
    """Of one unit. Making it counts as one.

    Args:
        results: of the extraction.
        unit: its number.
    """

    def __init__(self, results: Results, unit: int) -> None:
        self._results, self._name = results, f"attempts/unit-{unit:06}.json"
        saved = results.text(self._name)
        self.careful = saved is not None
        """Whether an earlier one came to nothing: items are noted one by one then, and none is read ahead."""
        self._items: dict[str, int] = json.loads(saved) if saved else {}
        self._save()

    def hopeless(self, unit: Unit, progress: UnitProgress) -> list[Item]:
        """Items at which the process ended too often."""
        ended = (item for item in unit.items if self._items.get(item.key, 0) >= _DEATHS)
        return [item for item in ended if not progress.settled(item.key)]

    def begin(self, piece: Piece) -> None:
        """An item will be read next."""
        if self.careful:
            for item in piece.items:
                self._items[item.key] = self._items.get(item.key, 0) + 1
            self._save()

    def progressed(self) -> None:
        """Something was written."""
        if not self.careful:
            self.end()

    def end(self) -> None:
        """The unit is whole, or was left in good order."""
        self._results.remove(self._name)

    def _save(self) -> None:
        self._results.put_text(self._name, json.dumps(self._items))
