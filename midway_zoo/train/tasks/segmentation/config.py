"""Configuration of segmentation. The defaults are the paper's linear, frozen protocol (section 4.1)."""

from dataclasses import asdict, dataclass, field
from typing import Any

from midway_zoo.checks import field_range
from midway_zoo.errors import ConfigError
from midway_zoo.readouts.labelled import IGNORE, SETS
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.train.config import RunConfig
from midway_zoo.train.data.photometric import PhotometricConfig

FILES = tuple(SETS)
"""Sources of ``data.source`` that are files."""


@dataclass
class SegmentationNetworkConfig:
    """The backbone, and whether it learns. ``init_from`` gives its weights: a Midway network or run, or "timm:NAME"."""

    name: str = "midway_vits"
    """Used if ``init_from`` is null: random weights, as a baseline; also "timm:NAME"."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it."""
    finetune: bool = False
    """Train the encoder too, up to the last block that the head reads; otherwise it is frozen."""
    drop_path: float = field_range(0.0, at_least=0, below=1)
    """Stochastic depth of the last block of a fine-tuned encoder, decreasing towards the first."""


@dataclass
class HeadConfig:
    """The segmentation head."""

    kind: str = field_range("linear", choices=("linear", "upernet"))
    width: int | None = field_range(None, at_least=1)
    """Channels of UperNet; null: as many as the backbone has (384 for ViT-S, 768 for ViT-B)."""
    dropout: float = field_range(0.1, at_least=0, below=1)
    """Dropout of UperNet and its auxiliary head."""
    auxiliary: float = field_range(0.4, at_least=0)
    """Weight of UperNet's auxiliary loss, a convolutional head on the third map; 0: none."""


@dataclass
class FeaturesConfig:
    """Features for the head: concatenated tokens of the parts below."""

    source: str = field_range("backward", choices=("backward", "encoder"))
    """backward: the source-side backward features v, as in the paper; encoder: the encoder's normalised tokens."""
    levels: list[int] | None = None
    """Levels of v; null: all that the network has (2, 1, 0)."""
    blocks: list[int] | None = None
    """Encoder blocks; null: the four that the dynamics read, or for UperNet and ViTs of timm 3, 5, 7, 11 of twelve."""
    standardise: bool = True
    """Shift and scale every channel by its mean and standard deviation over some training images, computed once, so
    that one learning rate fits encoder tokens and backward features alike. (iBOT's recipe has a batch normalisation
    there, which would depend on how a batch is split among processes.)"""


@dataclass
class SegmentationOptimConfig:
    """AdamW; linear warm-up, then a polynomial to zero."""

    lr: float = field_range(3e-5, above=0)
    """Highest learning rate, whatever the batch size."""
    weight_decay: float = field_range(0.05, at_least=0)
    layer_decay: float = field_range(1.0, above=0, at_most=1)
    """For a fine-tuned encoder: factor of the learning rate from each layer to the one below. As in timm, its last
    block has the learning rate of the head (in mmsegmentation, one layer less)."""
    warmup_steps: int = field_range(1500, at_least=0)
    power: float = field_range(1.0, above=0)
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)


@dataclass
class JitterConfig:
    """Photometric distortion of training images, strengths as in torchvision's ``ColorJitter``. The defaults
    are those of mmsegmentation's distortion (whose brightness adds at most 32 of 255, while this one scales)."""

    jitter_p: float = field_range(0.5, at_least=0, at_most=1)
    """Probability of each of the four distortions."""
    brightness: float = field_range(0.125, at_least=0)
    contrast: float = field_range(0.5, at_least=0)
    saturation: float = field_range(0.5, at_least=0)
    hue: float = field_range(0.1, at_least=0, at_most=0.5)

    def for_views(self) -> PhotometricConfig:
        """The configuration for the functions shared with pretraining: always all four, and nothing else."""
        never = (0.0, 0.0, 0.0)
        strengths = {**asdict(self), "jitter_p": 1.0}
        return PhotometricConfig(**strengths, grayscale_p=0.0, blur_p=never, solarize_p=never)


@dataclass
class SegmentationDataConfig:
    """Where images and labels come from."""

    source: str = field_range("folder", choices=(*FILES, "scenes"))
    """A data set as published (bdd100k, cityscapes, ade20k; wtsem; see :data:`midway_zoo.readouts.labelled.SETS`) below
    ``root``; folder: ``images/`` and ``masks/`` of your own; scenes: rendered on the fly (validation: ones never
    trained on, the same for every seed)."""
    root: str | None = None
    """Folder of the data set. For source=folder, it contains ``images/`` and ``masks/``, whose files are matched by
    their stems (at any depth; ``train`` and ``val`` in them are splits); files without a partner are left out. Masks
    are single-channel PNG, 255 = ignored; ``classes.txt`` beside the two folders may name the classes."""
    val_root: str | None = None
    """For validation; null takes "val" of the same root, or none if a folder has no such split."""
    val_limit: int | None = field_range(None, above=0)
    """Validate on this many images, evenly spread; null: all."""
    classes: int | None = field_range(None, at_least=2, at_most=IGNORE)
    """Number of classes of the masks; null if it is known: for data sets, scenes, and folders with classes.txt."""
    crop: int = field_range(512, at_least=1)
    """Side of training crops and of the validation's windows in pixels. For scenes: ``scenes.height`` and ``width``."""
    scale: tuple[float, float] = field_range((0.5, 2.0), above=0, length=2, ordered=True)
    """Images are resized to a shorter side of ``crop`` (and a longer side of at most four times that: 512 and 2048),
    and then scaled by a factor between these."""
    max_class_share: float = field_range(0.75, above=0, at_most=1)
    """A crop in which one class covers more than this is drawn again, at most ten times."""
    flip_p: float = field_range(0.5, at_least=0, at_most=1)
    photometric: JitterConfig = field(default_factory=JitterConfig)
    scenes: ScenesConfig = field(default_factory=lambda: ScenesConfig(frames=1))
    val_scenes: int = field_range(256, at_least=1)


@dataclass
class SegmentationConfig(RunConfig):
    """Everything of a segmentation run."""

    task: str = field_range("segmentation", choices=("segmentation",))
    batch_size: int = field_range(16, at_least=1)
    schedule_steps: int | None = field_range(60_000, above=0)
    precision: str = field_range("no", choices=("no", "bf16", "fp16"))
    network: SegmentationNetworkConfig = field(default_factory=SegmentationNetworkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optim: SegmentationOptimConfig = field(default_factory=SegmentationOptimConfig)
    data: SegmentationDataConfig = field(default_factory=SegmentationDataConfig)

    def check(self) -> None:
        super().check()
        data, network = self.data, self.network
        if data.source in FILES and data.root is None:
            raise ConfigError(f"data.source={data.source} needs data.root=FOLDER; or take data.source=scenes.")
        if self.schedule_steps is None and data.source == "scenes":
            raise ConfigError("data.source=scenes is endless, so epochs have no meaning; pass schedule_steps=...")
        if network.finetune and self.features.source == "backward":
            raise ConfigError("network.finetune=true trains the encoder: pass features.source=encoder.")
        if not network.finetune and (network.drop_path or self.optim.layer_decay != 1):
            raise ConfigError("network.drop_path and optim.layer_decay are for network.finetune=true.")
        if self.head.kind == "upernet" and self.batch_size < 2 * self.accumulate:
            raise ConfigError(
                f"head.kind=upernet normalises over a batch: batch_size={self.batch_size} with "
                f"accumulate={self.accumulate} leaves fewer than 2 images to it."
            )
