"""What whoever runs the page decides."""

from dataclasses import dataclass

from midway_zoo.demo import MODEL
from midway_zoo.errors import InputError

FEWEST, MOST = 2, 32
"""Frames of a clip."""


@dataclass(frozen=True)
class AppSettings:
    """Options of :func:`build_app` and :func:`serving`.

    Raises:
        InputError: for a value that makes no sense.
    """

    models: tuple[str, ...] = (MODEL,)
    """Offered first, in this order, the first one chosen: names, "hf-hub:org/repo" or paths on the serving machine."""
    any_model: bool = False
    """Visitors may type any "hf-hub:" name or path. False: the zoo's names and ``models`` alone."""
    device: str = "cpu"
    """On which networks run."""
    max_upload_mb: float = 25.0
    """Of one file, in units of 2**20 bytes."""
    max_megapixels: float = 25.0
    """Millions of pixels of one picture or frame."""
    frames: int = 8
    """How many frames of a clip are taken at most."""
    fps: float = 5.0
    """At which rate, from its start."""
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
        """Of one uploaded file."""
        return round(self.max_upload_mb * 2**20)
