"""What generated scenes look like: plain fields, fit for an OmegaConf structured configuration."""

import math
from dataclasses import dataclass
from typing import Any

from midway_zoo.errors import ConfigError
from midway_zoo.scenes.shapes import SHAPES, TEXTURES

PROCEDURAL, NATURAL = "procedural", "natural"
DEFAULT_PICTURES = 64
DEFAULT_CLASSES = 12
MAX_OBJECTS = 32


@dataclass
class ScenesConfig:
    """Scenes of ``frames`` pictures (height, width): objects in front of a background, seen by a moving camera.

    Motions are per frame and the *largest* that is drawn: lengths are uniform from 0, directions uniform,
    signs even. The flow of an object adds up its own motion and the camera's.

    Raises:
        ConfigError: for a value that makes no sense.
    """

    height: int = 64
    width: int = 64
    frames: int = 2
    objects: tuple[int, int] = (2, 5)
    """Fewest and most objects of a scene; some may be hidden or leave the picture."""
    size: tuple[float, float] = (0.12, 0.3)
    """Radius of an object as a share of the picture's shorter side."""
    stretch: float = 1.25
    """Objects are up to this much longer one way and shorter the other; 1 for none."""
    classes: int | None = None
    """Class ids of objects are 1 to this, 0 is background. None: 12, or with images as textures every shape.
    At most 30 (6 shapes x 5 textures); with images as textures a class is a shape alone, at most 6."""

    motion: float = 8.0
    """Displacement of an object's centre by its own motion, in pixels per frame."""
    rotation: float = 10.0
    """Of an object about its centre, in degrees per frame."""
    zoom: float = 0.05
    """Growth or shrinking of an object, as a share of its size per frame."""
    acceleration: float = 0.5
    """From 0, displacements are the same in every frame, to 1, those of the last have nothing to do with those
    of the first. Without effect on two frames."""
    camera: float = 3.0
    """Displacement at the picture's centre by the camera's motion, in pixels per frame."""
    camera_rotation: float = 2.0
    """About the picture's centre, in degrees per frame."""
    camera_zoom: float = 0.02
    """As a share of the size per frame."""

    textures: str = PROCEDURAL
    """"procedural": stripes, checks, dots and waves, quick to render; "natural": pictures of dead leaves and of 1/f
    noise, drawn by formula once, in which nothing repeats; or a folder with images (searched recursively)."""
    natural: int | None = None
    """How many pictures are drawn by formula; they join those of a folder. None: 64 for "natural", none beside a
    folder. Drawing takes about a tenth of a second each."""
    period: tuple[float, float] = (6.0, 16.0)
    """Length in pixels over which a procedural texture repeats; drawn log-uniformly.

    The flow is exact whatever the period, but warping a rendered frame interpolates between its pixels: bilinear
    warps of unoccluded pixels are off by 4/255 on average at 6 to 16 pixels, 0.3/255 at 24 to 48, and never more
    than 1/255 at 48 to 64 with a ``sharpness`` of 0.5. :meth:`SceneGenerator.sample` does without interpolation.
    """
    sharpness: tuple[float, float] = (1.0, 2.5)
    """Of procedural textures: below 1 sinusoidal, above 2 nearly two-coloured."""
    texture_size: int = 256
    """Images are cut to their central square and resized to this side; one texel is one pixel of the scene
    when drawn at scale 1."""
    texture_scale: tuple[float, float] = (0.7, 1.5)
    """Pixels per texel of an image texture; drawn log-uniformly."""

    parts: float = 0.0
    """Share of objects that carry a part: a smaller shape of another texture, fixed to them, with their class."""
    border: float = 0.0
    """Width in pixels of a rim around objects, of a texture of its own, so that they differ from their ground."""
    shadow: float = 0.0
    """How much light the soft shadow of an object takes from what is behind it, 0 to 1. Shadows move with objects and
    change neither flow nor labels."""
    shutter: float = 0.0
    """Share of the time between two frames for which a picture is exposed, 0 to 1: blur by motion, a mean of five
    exposures. Flow, occlusion and labels are those of the middle of the exposure. Costs as much as five pictures."""

    antialias: bool = True
    """Mix the two layers in pixels that an edge of an object crosses. Labels and flow are those of the layer
    that covers the pixel's centre."""
    lighting: float = 0.2
    """Brightness and colour balance of each frame vary by about this share, over the frame and over time; 0 for
    none. At the sides of the frame the change can reach exp(3 * lighting)."""
    noise: float = 0.01
    """Standard deviation of what is added to each value of each frame independently; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("objects", "size", "period", "sharpness", "texture_scale"):
            setattr(self, name, self._range(name))
        for name, least in (("height", 8), ("width", 8), ("frames", 1), ("texture_size", 8)):
            self._whole(name, getattr(self, name), least)
        for name in ("motion", "rotation", "camera", "camera_rotation", "noise", "border"):
            self._within(name, 0, math.inf)
        for name in ("acceleration", "lighting", "parts", "shadow", "shutter"):
            self._within(name, 0, 1)
        for name in ("zoom", "camera_zoom"):
            self._within(name, 0, 0.5)
        self._within("stretch", 1, 4)
        for count in self.objects:
            self._whole("objects", count, 0)
        if self.objects[1] > MAX_OBJECTS:
            raise ConfigError(f"objects={self.objects}: at most {MAX_OBJECTS} objects are rendered.")
        for name in ("size", "period", "sharpness", "texture_scale"):
            if getattr(self, name)[0] <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: positive numbers are expected.")
        if self.period[0] < 2:
            raise ConfigError(f"period={self.period}: a texture that repeats within 2 pixels cannot be seen.")
        if not isinstance(self.textures, str) or not self.textures:
            raise ConfigError(
                f'textures={self.textures!r}: "{PROCEDURAL}", "{NATURAL}" or the path of a folder is expected.'
            )
        if self.natural is not None:
            self._whole("natural", self.natural, 0)
        if self.textures == NATURAL and self.pictures == 0:
            raise ConfigError('natural=0 leaves textures="natural" without any; pass a larger number, or a folder.')
        self._check_classes()

    @property
    def pictures(self) -> int:
        """How many texture images are drawn by formula."""
        return (DEFAULT_PICTURES if self.textures == NATURAL else 0) if self.natural is None else self.natural

    @property
    def procedural(self) -> bool:
        """Whether textures are drawn by formula, so that they are half of what makes a class."""
        return self.textures == PROCEDURAL

    @property
    def most_classes(self) -> int:
        return len(SHAPES) * len(TEXTURES) if self.procedural else len(SHAPES)

    @property
    def num_classes(self) -> int:
        """Classes of objects, without the background."""
        return min(DEFAULT_CLASSES, self.most_classes) if self.classes is None else self.classes

    def _check_classes(self) -> None:
        if self.classes is None:
            return
        self._whole("classes", self.classes, 1)
        if self.classes > self.most_classes:
            kind = "shapes and textures" if self.procedural else "shapes (with images as textures)"
            raise ConfigError(f"classes={self.classes}: there are {self.most_classes} {kind}.")

    def _whole(self, name: str, value: Any, least: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}={value!r}: a whole number of at least {least} is expected.")

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high:
            expected = f"a number from {low} to {high}" if high < math.inf else f"a finite number of at least {low}"
            raise ConfigError(f"{name}={value!r}: {expected} is expected.")

    def _range(self, name: str) -> tuple[Any, Any]:
        value = getattr(self, name)
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_number(end) for end in value):
            raise ConfigError(f"{name}={value!r}: two numbers (smallest, largest) are expected.")
        if value[0] > value[1]:
            raise ConfigError(f"{name}={tuple(value)}: the smallest comes first.")
        return value[0], value[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
