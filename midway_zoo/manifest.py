"""The list of pretrained weights: ``weights_manifest.json``, read once."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from midway_zoo.errors import WeightsUnavailableError, nearest


def manifest_path() -> Path:
    """Where the manifest is: packed into the wheel, or at the top of a source checkout."""
    packaged = Path(__file__).parent / "weights_manifest.json"
    return packaged if packaged.is_file() else Path(__file__).parents[1] / "weights_manifest.json"


@cache
def load_manifest() -> dict[str, Any]:
    """The parsed manifest."""
    manifest: dict[str, Any] = json.loads(manifest_path().read_text(encoding="utf-8"))
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
        raise WeightsUnavailableError(
            f"{name} has no pretrained weights; give a checkpoint, or pass pretrained=False for random ones.{shown}"
        )
    return entry


BUNDLED = "boxed-safetensors"
"""Format of weights that ship inside the package."""


def bundled_file(entry: Mapping[str, Any]) -> Path:
    """Where the package keeps the weights of an entry of the format :data:`BUNDLED`."""
    return Path(__file__).parent / "weights" / "files" / str(entry["file"])
