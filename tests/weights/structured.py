"""A structured configuration (dataclass) of OmegaConf, whose nodes know their types."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


@dataclass
class Run:
    count: int = 3
    rate: float = 0.5
    name: str = "main"
    flag: bool = True
    raw: bytes = b"abc"
    where: Path = Path("data")
    either: Any = None
    sides: list[int] = field(default_factory=lambda: [64, 64])
    table: dict[str, float] = field(default_factory=lambda: {"a": 1.5})


def add(checkpoint: dict[str, Any]) -> None:
    """Make the configuration's values typed nodes, in a plain dict: the class itself could not be read."""
    nodes = OmegaConf.structured(Run)
    typed = OmegaConf.create({})
    for key in nodes:
        typed._content[key] = nodes._get_node(key)
    typed._re_parent()
    checkpoint["args"] = typed
    checkpoint["plain"] = {
        "count": 3, "rate": 0.5, "name": "main", "flag": True, "raw": None, "where": None, "either": None,
        "sides": [64, 64], "table": {"a": 1.5},
    }  # fmt: skip
