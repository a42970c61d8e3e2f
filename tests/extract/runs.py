"""Running extractions, and comparing what they leave."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.extract import Extracted, Running, Settings, Summary, extract

Rows = dict[tuple[str, int], dict[str, Tensor]]


def run(
    network: mz.MidwayNetwork, source: Path, out: Path, *, running: dict[str, Any] | None = None, **settings: Any
) -> Summary:
    """A small one: 32 pixels, chunks of four frames, batches of three."""
    chosen = {"what": ("features", "motion"), "size": 32, "chunk": 4, **settings}
    return extract(network, source, out, Settings(**chosen), Running(**{"batch_size": 3, **(running or {})}))


def rows(out: Path) -> Rows:
    """Every row by item and chunk; none may be there twice."""
    found = list(Extracted(out).rows())
    counts = Counter((row.item, row.chunk) for row in found)
    assert not {key: count for key, count in counts.items() if count > 1}
    return {(row.item, row.chunk): row.tensors for row in found}


def assert_same(found: Rows, expected: Rows) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for key, tensors in expected.items():
        assert found[key].keys() == tensors.keys()
        for name, values in tensors.items():
            assert torch.equal(found[key][name], values), (key, name)


def failures(out: Path) -> dict[str, str]:
    """What failures.jsonl says."""
    path = out / "failures.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {line["item"]: line["reason"] for line in lines}
