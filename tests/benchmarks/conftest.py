"""Benchmarks at the smallest sizes: what they measure is not looked at, only that it is measured and said."""

import pytest

from midway_zoo.benchmarks import compute
from midway_zoo.benchmarks.measuring import How


@pytest.fixture
def how() -> How:
    return How(rounds=1, warmup=0)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_SIDE", {"cpu": 64})
