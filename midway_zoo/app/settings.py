"""Settings of the page."""

from dataclasses import dataclass

from midway_zoo.demo import MODEL
from midway_zoo.errors import InputError

FEWEST, MOST = 2, 32
"""Limits of the number of frames of a clip."""


@dataclass(frozen=True)
class AppSettings:
    """Options of :func:`build_app` and :func:`serving`.

    Raises:
        InputError: for a value outside its range.
    """

    models: tuple[str, ...] = (MODEL,)
    """Models to list first, the first one preselected: names, "hf-hub:org/repo" or paths on the server."""
    any_model: bool = False
    """Whether visitors may enter any "hf-hub:" name or path, rather than only the zoo's names and ``models``."""
    device: str = "cpu"
    """Device that networks run on."""
    max_upload_mb: float = 25.0
    """Largest size of a file, in units of 2**20 bytes."""
    max_megapixels: float = 25.0
    """Largest size of a picture or frame, in millions of pixels."""
    frames: int = 8
    """Largest number of frames taken from a clip."""
    fps: float = 5.0
    """Frames per second taken from a clip."""
    side: int = 224
    """Shorter side in pixels to which larger frames are reduced."""
    queue: int = 16
    """Requests that may wait; one is worked on at a time."""

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise InputError("models is empty: name at least one.")
        if not FEWEST <= self.frames <= MOST:
            raise InputError(f"frames={self.frames}: {FEWEST} to {MOST} are expected.")
        for name in ("max_upload_mb", "max_megapixels", "fps", "side", "queue"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r}: a positive number is expected.")

    @property
    def max_bytes(self) -> int:
        """Largest size of a file in bytes."""
        return round(self.max_upload_mb * 2**20)
