"""The configuration that a released file carries, with its interpolations followed where a value is asked for.

hydra leaves ``${key}`` in a configuration until somebody reads the key, so that is how it is pickled. Only what is
asked for is resolved, in bounded steps: a hostile chain of interpolations costs nothing that nobody asked for.
"""

import re
from collections.abc import Mapping
from typing import Any

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_KEYS = re.compile(r"(\.*)([\w/-]+(?:\.[\w/-]+|\[\w+\])*)")  # dots that go up, then the path; resolvers have a colon
_STEPS = 64  # interpolations followed for one value
_LONGEST = 4096  # characters

DYNAMICS_KEYS = ("midway_model_configs", "motion_model_configs")
"""Where a configuration describes the dynamics: the present name and an older one."""

Path = tuple[str, ...]


class RunConfig:
    """Reads values of a plain configuration; what cannot be resolved (``${oc.env:HOME}``) stays text.

    Args:
        values: from :func:`midway_zoo.weights.pickles.plain`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, key: str) -> Any:
        """A value, or a list of values; None where there is none."""
        return self._value((key,))

    def dynamics(self) -> dict[str, Any] | None:
        """The settings of the dynamics, None where the file has none."""
        for name in DYNAMICS_KEYS:
            steps = [_STEPS]
            found, path = self._follow(self._values.get(name), (name,), steps)
            if isinstance(found, Mapping):
                return {str(key): self._value((*path, str(key))) for key in found}
        return None

    def says_no_dynamics(self) -> bool:
        """Whether the configuration names the dynamics' settings, and says that there are none."""
        names = [name for name in DYNAMICS_KEYS if name in self._values]
        return bool(names) and all(self._values[name] is None for name in names)

    def _value(self, path: Path) -> Any:
        steps = [_STEPS]
        value, path = self._follow(self._at(path), path, steps)
        if isinstance(value, list):
            return [self._follow(item, (*path, str(index)), steps)[0] for index, item in enumerate(value[:_STEPS])]
        return value

    def _at(self, path: Path) -> Any:
        node: Any = self._values
        for key in path:
            if isinstance(node, Mapping):
                node = node.get(key)
            elif isinstance(node, list) and key.isdecimal() and len(key) < 5 and int(key) < len(node):
                node = node[int(key)]
            else:
                return None
        return node

    def _follow(self, value: Any, path: Path, steps: list[int]) -> tuple[Any, Path]:
        """The value that ``value``, found at ``path``, stands for, and where that one is."""
        while isinstance(value, str) and steps[0] > 0 and (found := _INNERMOST.search(value)):
            steps[0] -= 1
            target = _absolute(found[1], path)
            other = None if target is None else self._reached(target, steps)
            if other is None:
                return value, path
            if found[0] == value:
                value, path = other
            elif isinstance(other[0], str | int | float) and len(value) < _LONGEST:
                value = value[: found.start()] + str(other[0]) + value[found.end() :]
            else:
                return value, path
        return value, path

    def _reached(self, target: Path, steps: list[int]) -> tuple[Any, Path] | None:
        """What is at ``target``, going through containers that are interpolations themselves; None for nothing."""
        node: Any = self._values
        path: Path = ()
        for key in target:
            node, path = self._follow(node, path, steps)
            missing = not isinstance(node, Mapping | list) or (isinstance(node, Mapping) and key not in node)
            path = (*path, key)
            node = None if missing else self._at(path)
            if node is None:
                return None
        return self._follow(node, path, steps)


def _absolute(text: str, path: Path) -> Path | None:
    """The keys that an interpolation at ``path`` names; None for a resolver such as ``oc.env:HOME``."""
    match = _KEYS.fullmatch(text.strip())
    if match is None:
        return None
    keys = tuple(key for key in re.split(r"[.\[\]]+", match[2]) if key)
    dots = len(match[1])
    if dots == 0:
        return keys
    return (*path[:-dots], *keys) if dots <= len(path) else None
