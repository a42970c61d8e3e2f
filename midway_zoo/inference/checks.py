"""Checks of arguments that several functions take."""

from typing import Any

from midway_zoo.errors import InputError


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise :class:`InputError`, naming argument and value, unless it is an integer from ``least`` to ``most``."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= (value if most is None else most):
        return
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    raise InputError(f"{name}={value!r}: {expected}{'' if most is None else f' and at most {most}'} is expected.")


def check_batch_size(batch_size: Any) -> None:
    """Raise :class:`InputError` unless ``batch_size`` is a positive integer."""
    check_integer("batch_size", batch_size, 1)


def check_draws(draws: Any, seed: Any) -> None:
    """Raise :class:`InputError` unless perturbations can be drawn so often and with that seed."""
    check_integer("draws", draws, 1)
    check_integer("seed", seed, 0, 2**63 - 1)
