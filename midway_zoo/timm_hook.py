"""Registration of the encoders with timm, without importing timm before it is used."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_ENCODERS = "midway_zoo.models.encoder"


def register_encoders() -> None:
    """Register the encoders now if timm is imported, else as soon as it is.

    timm takes seconds to import; `midway-zoo --help` and programs that only read videos need not wait for that. A
    program that asks timm for a model has imported it.
    """
    if "timm" in sys.modules:
        import_module(_ENCODERS)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds timm as usual, and registers the encoders once it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        # It stays until timm is loaded: others only ask whether timm is installed (importlib.util.find_spec).
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        # Code that asks the module for its loader finds timm's own.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        import_module(_ENCODERS)
