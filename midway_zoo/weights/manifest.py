"""The list of pretrained weights: ``weights_manifest.json``, read once."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from midway_zoo.errors import WeightsUnavailableError


@cache
def load_manifest() -> dict[str, Any]:
    """The parsed manifest."""
    packaged = files("midway_zoo") / "weights_manifest.json"
    # A source checkout keeps it at the top level; the wheel packs it into the package.
    source = Path(__file__).parents[2] / "weights_manifest.json"
    text = (packaged if packaged.is_file() else source).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def pretrained_names() -> list[str]:
    """Pretrained names, "architecture.tag"; the first of an architecture is its default."""
    return list(load_manifest()["models"])


def unavailable(name: str) -> WeightsUnavailableError:
    """The error for weights that cannot be fetched, saying which file to get by hand."""
    entry = load_manifest()["models"].get(name)
    if entry is None:
        return WeightsUnavailableError(f"{name} has no pretrained weights; pass pretrained=False.")
    return WeightsUnavailableError(
        f"{name}: download {entry['file']} from the Hugging Face repository {entry['repo_id']} and pass its path to "
        "midway_zoo.load_checkpoint."
    )
