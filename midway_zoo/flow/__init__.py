"""Flow fields as data: files, measures, consistency. Loaded when first used.

Everywhere: (2, H, W) or (B, 2, H, W) float tensors in pixels, channel 0 = x to the right, 1 = y down, from source to
target; NaN = invalid.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midway_zoo.flow.consistency import consistency_mask
    from midway_zoo.flow.formats import read_flow, write_flow
    from midway_zoo.flow.metrics import FlowMetrics

__all__ = ["FlowMetrics", "consistency_mask", "read_flow", "write_flow"]

_HOMES = {"read_flow": "formats", "write_flow": "formats", "FlowMetrics": "metrics", "consistency_mask": "consistency"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
