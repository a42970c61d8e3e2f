"""The index of an extraction, compiled from its shards: index.json, items.jsonl and failures.jsonl."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midway_zoo.bars import bar
from midway_zoo.extract.places import Results
from midway_zoo.extract.progress import ItemProgress, files_by_unit
from midway_zoo.extract.shards import FOLDER, read_about

INDEX, ITEMS, FAILURES = "index.json", "items.jsonl", "failures.jsonl"


@dataclass
class Entry:
    """One item, as described by its shards."""

    progress: ItemProgress = field(default_factory=ItemProgress)
    frames: int = 0
    shards: list[str] = field(default_factory=list)
    reason: str = ""
    """Why it failed last time, if it did."""

    @property
    def failed(self) -> bool:
        return bool(self.reason) and not self.progress.done


@dataclass(frozen=True)
class Found:
    """What is in the shards of an extraction."""

    entries: dict[str, Entry]
    """By key. Items that are neither complete nor failed are in progress."""
    shards: list[dict[str, Any]]
    """File, rows and frames of each."""
    twice: list[str]
    """Rows that exist twice, as item and chunk: none, unless files were copied in."""

    @property
    def whole(self) -> int:
        """Number of complete items."""
        return sum(entry.progress.done for entry in self.entries.values())

    @property
    def failures(self) -> dict[str, str]:
        """Key -> reason."""
        return {key: entry.reason for key, entry in self.entries.items() if entry.failed}


def survey(results: Results) -> Found:
    """Read the description of every shard, but no tensors."""
    found = Found({}, [], [])
    names = [name for of_unit in files_by_unit(results).values() for name in of_unit]
    for name in bar(names, unit=" shards", desc="index", hidden=len(names) < 1000):
        about, rows = read_about(results, name)
        for row in rows:
            entry = found.entries.setdefault(row["item"], Entry())
            if row["chunk"] in entry.progress.chunks:
                found.twice.append(f"{row['item']} chunk {row['chunk']} in {name}")
                continue
            entry.progress.note(row["chunk"], last=row["last"])
            entry.frames += row["frames"]
            if name not in entry.shards:
                entry.shards.append(name)
        for key, reason in about.failed.items():
            found.entries.setdefault(key, Entry()).reason = reason
        found.shards.append({"file": f"{FOLDER}/{name}", "rows": len(rows), "frames": sum(r["frames"] for r in rows)})
    return found


def write_index(results: Results, facts: dict[str, Any]) -> Found:
    """Write the three files anew and return their contents. Only one process may do so, while nobody writes shards."""
    found = survey(results)

    def items(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(_lines(found))

    results.put(ITEMS, items)
    failures = found.failures
    if failures:
        lines = (json.dumps({"item": key, "reason": reason}) + "\n" for key, reason in failures.items())
        results.put_text(FAILURES, "".join(lines))
    else:
        results.remove(FAILURES)
    total = {"items": found.whole, "failed": len(failures), "frames": sum(shard["frames"] for shard in found.shards)}
    results.put_text(INDEX, json.dumps({**facts, **total, "shards": found.shards}, indent=1))
    return found


def _lines(found: Found) -> Iterator[str]:
    for key, entry in found.entries.items():
        if entry.progress.done:
            about = {"item": key, "frames": entry.frames, "chunks": entry.progress.total, "shards": entry.shards}
            yield json.dumps(about) + "\n"
