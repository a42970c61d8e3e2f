"""Ranges of fields: what is refused, and that the message names key, value and what is allowed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from midway_zoo.checks import check_fields, check_integer, field_range, is_integer, is_number
from midway_zoo.errors import ConfigError, InputError


@dataclass
class Inner:
    share: float = field_range(0.5, at_least=0, at_most=1)
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)
    area: tuple[float, float] = field_range((0.2, 0.4), above=0, at_most=1, length=2, ordered=True)


@dataclass
class Outer:
    count: int = field_range(1, at_least=1)
    limit: float | None = field_range(None, above=0, hint="null sets no limit")
    kind: str = field_range("a", choices=("a", "b"))
    free: float = field_range(0.0)
    text: str = "anything"
    inner: Inner = field(default_factory=Inner)


def test_good_values_pass() -> None:
    check_fields(Outer())
    check_fields(Outer(count=7, limit=0.1, kind="b", free=-1e9, inner=Inner(share=1, area=(1.0, 1.0))))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(count=0), r"^count=0 must be at least 1\.$"),
        (Outer(count=True), "count=True"),
        (Outer(limit=0), r"limit=0 must be positive; null sets no limit\."),
        (Outer(kind="c"), r"kind='c' must be one of a, b\."),
        (Outer(free=float("inf")), "free=inf must be finite"),
        (Outer(free="1"), "free='1'"),  # type: ignore[arg-type]
        (Outer(inner=Inner(share=1.5)), r"inner\.share=1\.5 must be between 0 and 1\."),
        (Outer(inner=Inner(betas=[0.9])), r"inner\.betas=\[0\.9\] must be 2 numbers, each at least 0 and below 1\."),
        (Outer(inner=Inner(betas=[0.9, 1.0])), "below 1"),
        (Outer(inner=Inner(area=(0.4, 0.2))), r"inner\.area=\[0\.4, 0\.2\].*the smallest first"),
    ],
)
def test_refused(config: Outer, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fields(config)


@pytest.mark.parametrize("number", [np.int64(2), np.uint8(2), np.int32(2)])
def test_numpys_integers_are_integers(number: Any) -> None:
    check_integer("stride", number, 1, 3)
    with pytest.raises(InputError, match=r"^count=.*at least 3"):
        check_integer("count", number, 3)


def test_numpys_numbers_are_numbers() -> None:
    assert all(is_number(value) for value in (np.float32(2.5), np.float64(2.5), np.int64(2)))
    assert not any(is_number(value) for value in (np.float32("nan"), np.bool_(True), "2", 2j, torch.tensor(2.5)))
    assert not any(is_integer(value) for value in (np.float32(2), np.bool_(True), True, "2"))
