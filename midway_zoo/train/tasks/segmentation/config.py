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
    """Where ``init_from`` is null: random weights, the floor of any comparison; also "timm:NAME"."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it."""
    finetune: bool = False
    """Train the encoder too, as far as its last block that is read; else it is frozen."""
    drop_path: float = field_range(0.0, at_least=0, below=1)
    """Stochastic depth of the encoder's last block where it is fine-tuned, less before it."""


@dataclass
class HeadConfig:
    """What turns features into classes."""

    kind: str = field_range("linear", choices=("linear", "upernet"))
    width: int | None = field_range(None, at_least=1)
    """Channels inside UperNet; null: as many as the backbone has (384 for ViT-S, 768 for ViT-B)."""
    dropout: float = field_range(0.1, at_least=0, below=1)
    """Of UperNet and its auxiliary head."""
    auxiliary: float = field_range(0.4, at_least=0)
    """Weight of UperNet's auxiliary loss, a convolutional head on the third map; 0: none."""


@dataclass
class FeaturesConfig:
    """What the head reads: tokens of the parts below, concatenated."""

    source: str = field_range("backward", choices=("backward", "encoder"))
    """backward: the source-side backward features v, as in the paper; encoder: the encoder's normed tokens."""
    levels: list[int] | None = None
    """Of v; null: all that the network has (2, 1, 0)."""
    blocks: list[int] | None = None
    """Of the encoder; null: the four that the dynamics read, for UperNet and ViTs of timm 3, 5, 7, 11 of twelve."""
    standardise: bool = True
    """Shift and scale every channel by its mean and standard deviation over some training images, found once, so that
    one learning rate fits encoder tokens and backward features alike. (iBOT's recipe has a batch normalisation
    there, which would depend on how a batch is split among processes.)"""


@dataclass
class SegmentationOptimConfig:
    """AdamW; linear warm-up, then a polynomial to zero."""

    lr: float = field_range(3e-5, above=0)
    """Highest learning rate, whatever the batch size."""
    weight_decay: float = field_range(0.05, at_least=0)
    layer_decay: float = field_range(1.0, above=0, at_most=1)
    """Of a fine-tuned encoder: from layer to layer downwards, the learning rate is this much less. As timm counts, its
    last block learns as fast as the head (in mmsegmentation, one layer slower)."""
    warmup_steps: int = field_range(1500, at_least=0)
    power: float = field_range(1.0, above=0)
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)


@dataclass
class JitterConfig:
    """Photometric distortion of training images, strengths as torchvision's ``ColorJitter`` takes them. The defaults
    are those of mmsegmentation's distortion (whose brightness adds 32 of 255 at most, where this one scales)."""

    jitter_p: float = field_range(0.5, at_least=0, at_most=1)
    """Of each of the four by itself."""
    brightness: float = field_range(0.125, at_least=0)
    contrast: float = field_range(0.5, at_least=0)
    saturation: float = field_range(0.5, at_least=0)
    hue: float = field_range(0.1, at_least=0, at_most=0.5)

    def for_views(self) -> PhotometricConfig:
        """For the functions that pretraining's views share: always all four, and nothing else."""
        never = (0.0, 0.0, 0.0)
        strengths = {**asdict(self), "jitter_p": 1.0}
        return PhotometricConfig(**strengths, grey_p=0.0, blur_p=never, solarise_p=never)


@dataclass
class SegmentationDataConfig:
    """Where images and labels come from."""

    source: str = field_range("folder", choices=(*FILES, "scenes"))
    """A data set as published (bdd100k, cityscapes, ade20k; wtsem; see :data:`midway_zoo.readouts.labelled.SETS`) below
    ``root``; folder: ``images/`` and ``masks/`` of your own; scenes: rendered on the fly (validation: ones never
    trained on, the same for every seed)."""
    root: str | None = None
    """Of a data set, its folder. Of folder: holds ``images/`` and ``masks/``, whose files belong together by their
    stems (anywhere below; ``train`` and ``val`` in them are splits); a file without partner is left out. Masks are
    single-channel PNG, 255 = ignored; ``classes.txt`` beside the two folders may name the classes."""
    val_root: str | None = None
    """For validation; null takes "val" of the same root, or none where a folder has no such split."""
    val_limit: int | None = field_range(None, above=0)
    """Validate on so many images, evenly spread; null: all."""
    classes: int | None = field_range(None, at_least=2, at_most=IGNORE)
    """Number of classes of the masks; null where it is known: of data sets, scenes, and folders with classes.txt."""
    crop: int = field_range(512, at_least=1)
    """Side of training crops and of the validation's windows in pixels. Of scenes: ``scenes.height`` and ``width``."""
    scale: tuple[float, float] = field_range((0.5, 2.0), above=0, length=2, ordered=True)
    """Images are brought to a shorter side of ``crop`` (and a longer one of four times that at most: 2048 and 512), and
    then scaled by a number between these."""
    max_class_share: float = field_range(0.75, above=0, at_most=1)
    """A crop in which one class has more than this is drawn again, ten times at most."""
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
            raise ConfigError("data.source=scenes has no end, so epochs say nothing; pass schedule_steps=...")
        if network.finetune and self.features.source == "backward":
            raise ConfigError("network.finetune=true trains the encoder: pass features.source=encoder.")
        if not network.finetune and (network.drop_path or self.optim.layer_decay != 1):
            raise ConfigError("network.drop_path and optim.layer_decay are for network.finetune=true.")
        if self.head.kind == "upernet" and self.batch_size < 2 * self.accumulate:
            raise ConfigError(
                f"head.kind=upernet normalises over a batch: batch_size={self.batch_size} with "
                f"accumulate={self.accumulate} leaves fewer than 2 images to it."
            )
