"""Checks of values: of configuration fields, whose ranges one validator reads, and of arguments."""

import math
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args

from midway_zoo.errors import ConfigError, InputError, MidwayZooError


def is_integer(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether ``value`` is an integer, NumPy's too (not a bool), within limits."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, NumPy's too (not a bool)."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_size(value: Any) -> bool:
    """Whether ``value`` is (height, width) in pixels."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(is_integer(side, 1) for side in value)


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise :class:`InputError`, naming argument and value, unless it is an integer from ``least`` to ``most``."""
    if is_integer(value, least, math.inf if most is None else most):
        return
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    raise InputError(f"{name}={value!r}: {expected}{'' if most is None else f' and at most {most}'} is expected.")


def check_draws(draws: Any, seed: Any) -> None:
    """Raise :class:`InputError` unless ``draws`` and ``seed`` are valid for perturbations."""
    check_integer("draws", draws, 1)
    check_integer("seed", seed, 0, 2**63 - 1)


@dataclass(frozen=True)
class Range:
    """Limits of a number or of each number of a list, or a choice of names. None is valid if the type has it."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    length: int | None = None
    """Of a list."""
    ordered: bool = False
    """The numbers of a list must not decrease."""
    hint: str = ""
    """Added to the error: what else is accepted, or what to do."""

    def allowed(self) -> str:
        """The limits in words, to follow "must be"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if (self.at_least, self.at_most) != (None, None) and None not in (self.at_least, self.at_most):
            limits = f"between {_shown(self.at_least)} and {_shown(self.at_most)}"
        else:
            said = (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            limits = " and ".join(f"{word} {_shown(limit)}" for word, limit in said if limit is not None) or "finite"
        limits = {"above 0": "positive"}.get(limits, limits)
        count = "" if self.length is None else f"{self.length} numbers, each "
        return f"{count}{limits}{', the smallest first' if self.ordered else ''}"

    def accepts(self, value: Any) -> bool:
        """Whether a value, or every one of a list, is within the limits."""
        if self.choices:
            return value in self.choices
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not all(map(self._within, items)) or (self.length is not None and not isinstance(value, list | tuple)):
            return False
        return self.length in (None, len(items)) and (not self.ordered or items == sorted(items))

    def _within(self, item: Any) -> bool:
        if not is_number(item):
            return False
        low = (self.at_least is None or item >= self.at_least) and (self.above is None or item > self.above)
        return low and (self.at_most is None or item <= self.at_most) and (self.below is None or item < self.below)


def _shown(limit: float | None) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def field_range(default: Any = MISSING, *, default_factory: Any = MISSING, **limits: Any) -> Any:
    """A dataclass field with a :class:`Range`, which :func:`check_fields` reads."""
    return field(default=default, default_factory=default_factory, metadata={"range": Range(**limits)})


def check_fields(config: Any, prefix: str = "", error: type[MidwayZooError] = ConfigError) -> None:
    """Raise an error for the first value out of its range, here or in a dataclass within.

    A field with a range whose type has integers and no floats takes integers only, a bool true or false only.
    """
    for entry in fields(config):
        value, limits = getattr(config, entry.name), entry.metadata.get("range")
        if is_dataclass(value):
            check_fields(value, f"{prefix}{entry.name}.", error)
        elif entry.type is bool and not isinstance(value, bool):
            raise error(f"{prefix}{entry.name}={value!r} must be true or false.")
        elif limits is not None and (value is not None or NoneType not in _leaves(entry.type)):
            _check_limits(f"{prefix}{entry.name}", value, limits, entry.type, error)


def _check_limits(name: str, value: Any, limits: Range, annotation: Any, error: type[MidwayZooError]) -> None:
    items = value if isinstance(value, list | tuple) else [value]
    types = _leaves(annotation)
    fractional = int in types and float not in types and not all(map(is_integer, items))
    if not fractional and limits.accepts(value):
        return
    endless = isinstance(value, float) and not math.isfinite(value)
    allowed = "finite" if endless else limits.allowed()
    if fractional:
        allowed = ("an integer" if items == [value] else "integers") + f": {allowed}".removesuffix(": finite")
    shown = list(value) if isinstance(value, tuple) else value
    hint = f"; {limits.hint}" if limits.hint else ""
    raise error(f"{name}={shown!r} must be {allowed}{hint}.")


def _leaves(annotation: Any) -> set[Any]:
    """The types that an annotation is made of: int and NoneType of ``list[int] | None``."""
    inner = get_args(annotation)
    return set().union(*map(_leaves, inner)) if inner else {annotation}
