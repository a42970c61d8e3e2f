"""Configuration of linear segmentation. The defaults are the paper's frozen protocol (section 4.1)."""

from dataclasses import asdict, dataclass, field
from typing import Any

from midway_zoo.checks import field_range
from midway_zoo.errors import ConfigError
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.train.config import RunConfig
from midway_zoo.train.data.photometric import PhotometricConfig

IGNORE = 255
"""Label of pixels that count nowhere."""


@dataclass
class SegmentationNetworkConfig:
    """The frozen network where ``init_from`` is null: random weights, the floor of any comparison."""

    name: str = "midway_vits"
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it."""


@dataclass
class FeaturesConfig:
    """What the head reads: tokens of the parts below, concatenated."""

    source: str = field_range("backward", choices=("backward", "encoder"))
    """backward: the source-side backward features v, as in the paper; encoder: the encoder's normed tokens."""
    levels: list[int] | None = None
    """Of v; null: all that the network has (2, 1, 0)."""
    blocks: list[int] | None = None
    """Of the encoder; null: the four that the dynamics read."""


@dataclass
class SegmentationOptimConfig:
    """AdamW; linear warm-up, then a polynomial to zero."""

    lr: float = field_range(3e-5, above=0)
    """Highest learning rate, whatever the batch size."""
    weight_decay: float = field_range(0.05, at_least=0)
    warmup_steps: int = field_range(1500, at_least=0)
    power: float = field_range(1.0, above=0)
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)


@dataclass
class JitterConfig:
    """Colour jitter of training images, strengths as torchvision's ``ColorJitter`` takes them."""

    jitter_p: float = field_range(0.5, at_least=0, at_most=1)
    brightness: float = field_range(0.4, at_least=0)
    contrast: float = field_range(0.4, at_least=0)
    saturation: float = field_range(0.2, at_least=0)
    hue: float = field_range(0.1, at_least=0, at_most=0.5)

    def for_views(self) -> PhotometricConfig:
        """For the functions that pretraining's views share: the same for every kind of view, and nothing else."""
        never = (0.0, 0.0, 0.0)
        return PhotometricConfig(**asdict(self), grey_p=0.0, blur_p=never, solarise_p=never)


@dataclass
class SegmentationDataConfig:
    """Where images and labels come from."""

    source: str = field_range("folder", choices=("folder", "scenes"))
    """folder: files under ``root`` and ``val_root``; scenes: rendered on the fly (validation: ones never trained on,
    the same for every seed)."""
    root: str | None = None
    """Folder with ``images/`` and ``masks/``, whose files belong together by their stems (anywhere below); a file
    without partner is left out. Masks are single-channel PNG, 255 = ignored."""
    val_root: str | None = None
    """The same, for validation; null: none."""
    classes: int | None = field_range(None, at_least=2, at_most=IGNORE)
    """Number of classes of the masks; that of scenes is known."""
    crop: int = field_range(512, at_least=1)
    """Side of training crops and of the validation's windows in pixels. Of scenes: ``scenes.height`` and ``width``."""
    scale: tuple[float, float] = field_range((0.5, 2.0), above=0, length=2, ordered=True)
    """Images are scaled so that their shorter side is ``crop`` times this."""
    max_class_share: float = field_range(0.75, above=0, at_most=1)
    """A crop in which one class has more than this is drawn again, ten times at most."""
    flip_p: float = field_range(0.5, at_least=0, at_most=1)
    photometric: JitterConfig = field(default_factory=JitterConfig)
    scenes: ScenesConfig = field(default_factory=lambda: ScenesConfig(frames=1))
    val_scenes: int = field_range(256, at_least=1)


@dataclass
class SegmentationConfig(RunConfig):
    """Everything of a linear segmentation run."""

    task: str = field_range("segmentation", choices=("segmentation",))
    batch_size: int = field_range(16, at_least=1)
    schedule_steps: int | None = field_range(60_000, above=0)
    precision: str = field_range("no", choices=("no", "bf16", "fp16"))
    network: SegmentationNetworkConfig = field(default_factory=SegmentationNetworkConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optim: SegmentationOptimConfig = field(default_factory=SegmentationOptimConfig)
    data: SegmentationDataConfig = field(default_factory=SegmentationDataConfig)

    @property
    def num_classes(self) -> int:
        """Classes of the labels; background is one of those of scenes."""
        if self.data.source == "scenes":
            return self.data.scenes.num_classes + 1
        assert self.data.classes is not None  # checked
        return self.data.classes

    def check(self) -> None:
        super().check()
        data = self.data
        if data.source == "folder" and (data.root is None or data.classes is None):
            raise ConfigError("data.source=folder needs data.root=FOLDER and data.classes=NUMBER; or take scenes.")
        if self.schedule_steps is None and data.source == "scenes":
            raise ConfigError("data.source=scenes has no end, so epochs say nothing; pass schedule_steps=...")
