"""Configuration of linear segmentation. The defaults are the paper's frozen protocol (section 4.1)."""

from dataclasses import dataclass, field
from typing import Any

from midway_zoo.errors import ConfigError
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.train.config import RunConfig, check_optimizer, check_run
from midway_zoo.train.data.photometric import PhotometricConfig, check_photometric
from midway_zoo.train.tasks.segmentation.metrics import IGNORE


@dataclass
class SegmentationNetworkConfig:
    """The frozen network where ``init_from`` is null: random weights, the floor of any comparison."""

    name: str = "midway_vits"
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it."""


@dataclass
class FeaturesConfig:
    """What the head reads: tokens of the parts below, concatenated."""

    source: str = "backward"
    """backward: the source-side backward features v, as in the paper; encoder: the encoder's normed tokens."""
    levels: list[int] | None = None
    """Of v; null: all that the network has (2, 1, 0)."""
    blocks: list[int] | None = None
    """Of the encoder; null: the four that the dynamics read."""


@dataclass
class SegmentationOptimConfig:
    """AdamW; linear warm-up, then a polynomial to zero."""

    lr: float = 3e-5
    """Highest learning rate, whatever the batch size."""
    weight_decay: float = 0.05
    warmup_steps: int = 1500
    power: float = 1.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])


@dataclass
class SegmentationDataConfig:
    """Where images and labels come from."""

    source: str = "folder"
    """folder: files under ``root`` and ``val_root``; scenes: rendered on the fly (validation: ones never trained on,
    the same for every seed)."""
    root: str | None = None
    """Folder with ``images/`` and ``masks/``, whose files belong together by their stems (anywhere below); a file
    without partner is left out. Masks are single-channel PNG, 255 = ignored."""
    val_root: str | None = None
    """The same, for validation; null: none."""
    classes: int | None = None
    """Number of classes of the masks; that of scenes is known."""
    crop: int = 512
    """Side of training crops and of the validation's windows in pixels. Of scenes: ``scenes.height`` and ``width``."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Images are scaled so that their shorter side is ``crop`` times this."""
    max_class_share: float = 0.75
    """A crop in which one class has more than this is drawn again, ten times at most."""
    flip_p: float = 0.5
    photometric: PhotometricConfig = field(
        default_factory=lambda: PhotometricConfig(
            jitter_p=0.5, grey_p=0.0, blur_p=(0.0, 0.0, 0.0), solarise_p=(0.0, 0.0, 0.0)
        )
    )
    """The probabilities for local crops count."""
    scenes: ScenesConfig = field(default_factory=lambda: ScenesConfig(frames=1))
    val_scenes: int = 256


@dataclass
class SegmentationConfig(RunConfig):
    """Everything of a linear segmentation run."""

    task: str = "segmentation"
    batch_size: int = 16
    schedule_steps: int | None = 60_000
    precision: str = "no"
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


def check_segmentation(config: SegmentationConfig) -> None:
    """Raise :class:`ConfigError` for a combination that cannot be trained."""
    check_run(config)
    check_photometric(config.data.photometric)
    data = config.data
    for key, value, allowed in (
        ("task", config.task, ("segmentation",)),
        ("features.source", config.features.source, ("backward", "encoder")),
        ("data.source", data.source, ("folder", "scenes")),
    ):
        if value not in allowed:
            raise ConfigError(f"{key}={value!r} must be one of {', '.join(allowed)}.")
    if data.source == "folder" and (data.root is None or data.classes is None):
        raise ConfigError("data.source=folder needs data.root=FOLDER and data.classes=NUMBER; or take scenes.")
    if config.schedule_steps is None and data.source == "scenes":
        raise ConfigError("data.source=scenes has no end, so epochs say nothing; pass schedule_steps=...")
    if not 2 <= config.num_classes <= IGNORE:
        raise ConfigError(f"{config.num_classes} classes: 2 to {IGNORE} are possible.")
    if not 0 < data.scale[0] <= data.scale[1] or not 0 < data.max_class_share <= 1 or not 0 <= data.flip_p <= 1:
        raise ConfigError("data.scale must be (smallest, largest) above 0; shares and probabilities at most 1.")
    if data.crop < 1 or data.val_scenes < 1:
        raise ConfigError(f"data.crop={data.crop} and data.val_scenes={data.val_scenes} must be at least 1.")
    check_optimizer(config.optim.betas)
    if config.optim.warmup_steps < 0:
        raise ConfigError(f"optim.warmup_steps={config.optim.warmup_steps} must not be negative.")
