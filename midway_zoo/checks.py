"""What values a configuration's fields may have: said beside the field, read by one validator."""

import math
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from midway_zoo.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Limits of a number, of each number of a list, or a choice of names. None is always allowed."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    length: int | None = None
    """Of a list."""
    ordered: bool = False
    """The numbers of a list may not fall."""
    hint: str = ""
    """What else may be given, or what to do."""

    def allowed(self) -> str:
        """In words, after "must be"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if (self.at_least, self.at_most) != (None, None) and None not in (self.at_least, self.at_most):
            limits = f"between {self.at_least:g} and {self.at_most:g}"
        else:
            said = (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            limits = " and ".join(f"{word} {limit:g}" for word, limit in said if limit is not None) or "finite"
        limits = {"above 0": "positive"}.get(limits, limits)
        count = "" if self.length is None else f"{self.length} numbers, each "
        return f"{count}{limits}{', the smallest first' if self.ordered else ''}"

    def accepts(self, value: Any) -> bool:
        """Whether a value, or every one of a list, is within the limits."""
        if self.choices:
            return value in self.choices
        items = list(value) if isinstance(value, list | tuple) else [value]
        if self.length not in (None, len(items)) or (self.ordered and items != sorted(items)):
            return False
        return all(self._within(item) for item in items)

    def _within(self, item: Any) -> bool:
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
            return False
        low = (self.at_least is None or item >= self.at_least) and (self.above is None or item > self.above)
        return low and (self.at_most is None or item <= self.at_most) and (self.below is None or item < self.below)


def field_range(default: Any = MISSING, *, default_factory: Any = MISSING, **limits: Any) -> Any:
    """A dataclass field with a :class:`Range`, which :func:`check_fields` reads."""
    return field(default=default, default_factory=default_factory, metadata={"range": Range(**limits)})


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise :class:`ConfigError` for the first value out of its range, here or in a dataclass within."""
    for entry in fields(config):
        value, limits = getattr(config, entry.name), entry.metadata.get("range")
        if is_dataclass(value):
            check_fields(value, f"{prefix}{entry.name}.")
        elif limits is not None and value is not None and not limits.accepts(value):
            shown = list(value) if isinstance(value, tuple) else value
            endless = isinstance(value, float) and not math.isfinite(value)
            allowed = "finite" if endless else limits.allowed()
            hint = f"; {limits.hint}" if limits.hint else ""
            raise ConfigError(f"{prefix}{entry.name}={shown!r} must be {allowed}{hint}.")
