"""Reading what was extracted."""

import json
from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError, MissingFileError, nearest
from midway_zoo.extract.compute import Row
from midway_zoo.extract.index import FAILURES, INDEX, ITEMS, survey
from midway_zoo.extract.places import ABOUT, Results
from midway_zoo.extract.progress import files_by_unit
from midway_zoo.extract.shards import FOLDER, read_rows


class Extracted:
    """The results in a folder, finished or not.

    Iteration yields (item, tensors) for every complete item, in the order of the shards. For items that do not fit in
    memory, :meth:`rows` yields them in parts.

    Args:
        out: folder or URL that ``extract`` wrote to.

    Raises:
        MissingFileError: if there are no results.
    """

    def __init__(self, out: str | PathLike[str]) -> None:
        self._results = Results(fspath(out))
        saved = self._results.text(ABOUT)
        if saved is None:
            raise MissingFileError(f"there is no {ABOUT} in {out}: it is not a folder of `midway-zoo extract`.")
        self.facts: dict[str, Any] = json.loads(saved)
        """How the results were made: settings, model, digest of the weights, version."""

    def rows(self) -> Iterator[Row]:
        """Every row of every shard, one in memory at a time; see :class:`~midway_zoo.extract.compute.Row`."""
        for names in files_by_unit(self._results).values():
            for name in names:
                yield from read_rows(self._results, name)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        waiting: dict[str, list[Row]] = {}
        for row in self.rows():
            waiting.setdefault(row.item, []).append(row)
            if (tensors := _whole(waiting[row.item])) is not None:
                del waiting[row.item]
                yield row.item, tensors

    def __getitem__(self, item: str) -> dict[str, Tensor]:
        """The tensors of one item: (n, ...) for its n frames, (n - 1, ...) for its pairs of consecutive frames.

        Raises:
            InputError: if there is no such item, or it is not complete.
        """
        shards = self._shards_of(item)
        found = (row for name in shards for row in read_rows(self._results, name.removeprefix(f"{FOLDER}/")))
        tensors = _whole([row for row in found if row.item == item])
        if tensors is None:
            raise InputError(f"{item} is not complete yet; run the extraction again.")
        return tensors

    def _shards_of(self, item: str) -> list[str]:
        shards = self._index().get(item)
        if shards is None:
            failed = dict(json.loads(line).values() for line in (self._results.text(FAILURES) or "").splitlines())
            if item in failed:
                raise InputError(f"{item} failed: {failed[item]} (extract with retry_failed tries it again).")
            raise InputError(f"{self._results} has no item {item}.{nearest(item, self._index())}")
        return shards

    def _index(self) -> dict[str, list[str]]:
        """Item -> its shards, from the index, or while there is none, from the shards themselves."""
        if not hasattr(self, "_known"):
            text = self._results.text(ITEMS) if self._results.exists(INDEX) else None
            if text is not None:
                lines = (json.loads(line) for line in text.splitlines())
                self._known = {line["item"]: line["shards"] for line in lines}
            else:
                self._known = {key: entry.shards for key, entry in survey(self._results).entries.items()}
        return self._known

    def items(self) -> list[str]:
        """Keys of the items in the results."""
        return list(self._index())

    def __len__(self) -> int:
        return len(self._index())


def _whole(rows: list[Row]) -> dict[str, Tensor] | None:
    """The tensors of an item, if all its chunks exist."""
    rows = sorted(rows, key=lambda row: row.chunk)
    if not rows or not rows[-1].last or len(rows) != rows[-1].chunk + 1:
        return None
    names = dict.fromkeys(name for row in rows for name in row.tensors)
    return {name: torch.cat([row.tensors[name] for row in rows if name in row.tensors]) for name in names}
