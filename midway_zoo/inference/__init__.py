"""From images and clips to features, motion latents and flow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midway_zoo.inference import video, video_length

__all__ = ["video", "video_length"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # read by who opens a video: most programs never do
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
