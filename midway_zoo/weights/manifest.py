"""The list of pretrained weights: ``weights_manifest.json``, read once."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from midway_zoo.errors import WeightsUnavailableError, nearest


@cache
def load_manifest() -> dict[str, Any]:
    """The parsed manifest."""
    packaged = files("midway_zoo") / "weights_manifest.json"
    # A source checkout keeps it at the top level; the wheel packs it into the package.
    source = Path(__file__).parents[2] / "weights_manifest.json"
    text = (packaged if packaged.is_file() else source).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


_registered: dict[str, dict[str, Any]] = {}


def entries() -> dict[str, dict[str, Any]]:
    """All pretrained names with their entries: the manifest's, then those that the user registered."""
    return {**load_manifest()["models"], **_registered}


def register(name: str, entry: dict[str, Any]) -> None:
    """Add an entry for this process."""
    _registered[name] = entry


def pretrained_names() -> list[str]:
    """Pretrained names, "architecture.tag"; the first of an architecture is its default."""
    return list(entries())


def find(name: str) -> dict[str, Any]:
    """The entry of a pretrained name.

    Raises:
        WeightsUnavailableError: if there is none.
    """
    entry = entries().get(name)
    if entry is None:
        shown = nearest(name, entries())
        raise WeightsUnavailableError(f"{name} has no pretrained weights; pass pretrained=False.{shown}")
    return entry
