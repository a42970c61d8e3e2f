"""Configuration of generated scenes: plain fields, usable as an OmegaConf structured configuration."""

from dataclasses import dataclass

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import ConfigError
from midway_zoo.scenes.shapes import SHAPES, TEXTURES

PROCEDURAL, NATURAL = "procedural", "natural"
DEFAULT_PICTURES = 64
DEFAULT_CLASSES = 12
MAX_OBJECTS = 32


@dataclass
class ScenesConfig:
    """Scenes of ``frames`` frames (height, width): objects in front of a background, seen by a moving camera.

    Motions are per frame, and each value is the *largest* that is drawn: lengths are uniform from 0, directions are
    uniform, both signs equally likely. The flow of an object is the sum of its own motion and the camera's.

    Raises:
        ConfigError: for a value outside its range, or values that do not fit together.
    """

    height: int = field_range(64, at_least=8)
    width: int = field_range(64, at_least=8)
    frames: int = field_range(2, at_least=1)
    objects: tuple[int, int] = field_range((2, 5), at_least=0, at_most=MAX_OBJECTS, length=2, ordered=True)
    """Fewest and most objects of a scene; some may be hidden or leave the frame."""
    size: tuple[float, float] = field_range((0.12, 0.3), above=0, length=2, ordered=True)
    """Radius of an object as a fraction of the frame's shorter side."""
    stretch: float = field_range(1.25, at_least=1, at_most=4)
    """Objects are up to this much longer one way and shorter the other; 1 for none."""
    classes: int | None = field_range(None, at_least=1)
    """Number of object classes; their ids start at 1, 0 is background. None: 12, or with images as textures 6. At most
    30 (6 shapes x 5 textures); with images as textures a class is a shape alone, so at most 6."""

    motion: float = field_range(8.0, at_least=0)
    """Displacement of an object's centre due to its own motion, in pixels per frame."""
    rotation: float = field_range(10.0, at_least=0)
    """Rotation of an object about its centre, in degrees per frame."""
    zoom: float = field_range(0.05, at_least=0, at_most=0.5)
    """Growth or shrinkage of an object, as a fraction of its size per frame."""
    acceleration: float = field_range(0.5, at_least=0, at_most=1)
    """From 0 (displacements are the same in every frame) to 1 (the last displacement is independent of the first). No
    effect with two frames."""
    camera: float = field_range(3.0, at_least=0)
    """Displacement of the frame's centre due to the camera's motion, in pixels per frame."""
    camera_rotation: float = field_range(2.0, at_least=0)
    """Rotation of the camera about the frame's centre, in degrees per frame."""
    camera_zoom: float = field_range(0.02, at_least=0, at_most=0.5)
    """Zoom of the camera, as a fraction of the size per frame."""

    textures: str = PROCEDURAL
    """"procedural": stripes, checks, dots and waves, quick to render; "natural": generated images of dead leaves and of
    1/f noise, in which nothing repeats; or a folder with images (searched recursively)."""
    natural: int | None = field_range(None, at_least=0)
    """How many images are generated; they are added to those of a folder. None: 64 for "natural", 0 with a folder.
    Generating one takes about a tenth of a second."""
    period: tuple[float, float] = field_range((6.0, 16.0), at_least=2, length=2, ordered=True)
    """Length in pixels over which a procedural texture repeats; drawn log-uniformly.

    The flow is exact whatever the period, but warping a rendered frame interpolates between its pixels: bilinear
    warps of unoccluded pixels are off by 4/255 on average at 6 to 16 pixels, 0.3/255 at 24 to 48, and never more
    than 1/255 at 48 to 64 with a ``sharpness`` of 0.5. :meth:`SceneGenerator.sample` does without interpolation.
    """
    sharpness: tuple[float, float] = field_range((1.0, 2.5), above=0, length=2, ordered=True)
    """Sharpness of procedural textures: below 1 sinusoidal, above 2 nearly two-coloured."""
    texture_size: int = field_range(256, at_least=8)
    """Images are cropped to their central square and resized to this side; at scale 1 one texel is one pixel of the
    scene."""
    texture_scale: tuple[float, float] = field_range((0.7, 1.5), above=0, length=2, ordered=True)
    """Pixels per texel of an image texture; drawn log-uniformly."""

    parts: float = field_range(0.0, at_least=0, at_most=1)
    """Fraction of objects with a part: a smaller shape of another texture, fixed to the object, of the same class."""
    border: float = field_range(0.0, at_least=0)
    """Width in pixels of a rim around objects, with a texture of its own, so that they stand out from the
    background."""
    shadow: float = field_range(0.0, at_least=0, at_most=1)
    """How much the soft shadow of an object darkens what is behind it, 0 to 1. Shadows move with objects and
    change neither flow nor labels."""
    shutter: float = field_range(0.0, at_least=0, at_most=1)
    """Fraction of the time between two frames for which a frame is exposed, 0 to 1. Gives motion blur, as the mean of
    five exposures, at the cost of five frames. Flow, occlusion and labels are those of the middle of the exposure."""

    antialias: bool = True
    """Blend the two layers in pixels that an object's edge crosses. Labels and flow are those of the layer that covers
    the pixel's centre."""
    lighting: float = field_range(0.2, at_least=0, at_most=1)
    """Brightness and colour balance of each frame vary by about this fraction, over the frame and over time; 0 for
    none. At the sides of the frame the factor can reach exp(3 * lighting)."""
    noise: float = field_range(0.01, at_least=0)
    """Standard deviation of the noise added to each value of each frame independently; 0 for none."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("objects", "size", "period", "sharpness", "texture_scale"):
            setattr(self, name, tuple(getattr(self, name)))  # OmegaConf gives lists
        if not isinstance(self.textures, str) or not self.textures:
            raise ConfigError(
                f'textures={self.textures!r}: "{PROCEDURAL}", "{NATURAL}" or the path of a folder is expected.'
            )
        if self.textures == NATURAL and self.pictures == 0:
            raise ConfigError('natural=0 leaves textures="natural" without any; pass a larger number, or a folder.')
        if self.num_classes > self.most_classes:
            kind = "shapes and textures" if self.procedural else "shapes (with images as textures)"
            raise ConfigError(f"classes={self.classes}: there are {self.most_classes} {kind}.")

    @property
    def pictures(self) -> int:
        """How many texture images are generated."""
        return (DEFAULT_PICTURES if self.textures == NATURAL else 0) if self.natural is None else self.natural

    @property
    def procedural(self) -> bool:
        """Whether textures are procedural: only then do they, together with shapes, make the classes."""
        return self.textures == PROCEDURAL

    @property
    def most_classes(self) -> int:
        return len(SHAPES) * len(TEXTURES) if self.procedural else len(SHAPES)

    @property
    def num_classes(self) -> int:
        """Classes of objects, without the background."""
        return min(DEFAULT_CLASSES, self.most_classes) if self.classes is None else self.classes
