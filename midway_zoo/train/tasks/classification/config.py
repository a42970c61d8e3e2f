"""Configuration of classification. The defaults are DINO's linear evaluation of a ViT-S."""

from dataclasses import dataclass, field
from typing import Any

from midway_zoo.checks import field_range
from midway_zoo.errors import ConfigError
from midway_zoo.train.config import RunConfig
from midway_zoo.train.data.photometric import PhotometricConfig


@dataclass
class ClassificationNetworkConfig:
    """The backbone, and whether it learns. ``init_from`` gives its weights: a Midway network or run, or "timm:NAME"."""

    name: str = "midway_vits"
    """Used if ``init_from`` is null: random weights, as a baseline; also "timm:NAME"."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it."""
    finetune: bool = False
    """Train the encoder too; otherwise it is frozen."""
    drop_path: float = field_range(0.0, at_least=0, below=1)
    """Stochastic depth of the last block of a fine-tuned encoder, decreasing towards the first."""


@dataclass
class ClassificationFeaturesConfig:
    """Features for the linear layer."""

    blocks: int = field_range(4, at_least=1)
    """How many of the last blocks' class tokens are concatenated."""
    average: bool = False
    """Append the mean of the last block's patches (for ViT-B DINO uses blocks: 1, average: true)."""


@dataclass
class ClassificationOptimConfig:
    """SGD for probes, AdamW for fine-tuning; linear warm-up, then half a cosine."""

    name: str = field_range("sgd", choices=("sgd", "adamw"))
    base_lr: float = field_range(1e-3, above=0)
    """Highest learning rate for 256 images per step; scaled by batch_size / 256."""
    min_lr: float = field_range(0.0, at_least=0)
    weight_decay: float = field_range(0.0, at_least=0)
    layer_decay: float = field_range(1.0, above=0, at_most=1)
    """For a fine-tuned encoder: factor of the learning rate from each layer to the one below."""
    warmup_epochs: float = field_range(0.0, at_least=0)
    momentum: float = field_range(0.9, at_least=0, below=1)
    """Momentum of SGD."""
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)
    """Weight decay of AdamW."""
    smoothing: float = field_range(0.0, at_least=0, below=1)
    """Label smoothing."""


@dataclass
class ClassificationDataConfig:
    """Images and their augmentation."""

    root: str | None = None
    """Folder with train/CLASS and val/CLASS, or with CLASS folders, which are then split."""
    val_share: float = field_range(0.2, above=0, below=1)
    """Share of every class to hold out, if the folder is split."""
    split_seed: int = field_range(0, at_least=0)
    crop: int | None = field_range(None, at_least=1)
    """Side of the images in pixels; null: the backbone's own."""
    area: tuple[float, float] = field_range((0.08, 1.0), above=0, at_most=1, length=2, ordered=True)
    """Area of training crops as a fraction of the image."""
    aspect: tuple[float, float] = field_range((0.75, 4 / 3), above=0, length=2, ordered=True)
    flip_p: float = field_range(0.5, at_least=0, at_most=1)
    jitter_p: float = field_range(0.0, at_least=0, at_most=1)
    brightness: float = field_range(0.4, at_least=0)
    contrast: float = field_range(0.4, at_least=0)
    saturation: float = field_range(0.2, at_least=0)
    hue: float = field_range(0.1, at_least=0, at_most=0.5)

    def photometric(self) -> PhotometricConfig:
        """The configuration for the functions shared with pretraining."""
        never = (0.0, 0.0, 0.0)
        jitter = {name: getattr(self, name) for name in ("jitter_p", "brightness", "contrast", "saturation", "hue")}
        return PhotometricConfig(**jitter, grayscale_p=0.0, blur_p=never, solarize_p=never)


@dataclass
class ClassificationConfig(RunConfig):
    """Everything of a classification run."""

    task: str = field_range("classification", choices=("classification",))
    epochs: float = field_range(100.0, above=0)
    batch_size: int = field_range(1024, at_least=1)
    network: ClassificationNetworkConfig = field(default_factory=ClassificationNetworkConfig)
    features: ClassificationFeaturesConfig = field(default_factory=ClassificationFeaturesConfig)
    optim: ClassificationOptimConfig = field(default_factory=ClassificationOptimConfig)
    data: ClassificationDataConfig = field(default_factory=ClassificationDataConfig)

    def check(self) -> None:
        super().check()
        if self.data.root is None:
            raise ConfigError("no value for data.root; pass data.root=FOLDER with one folder of images per class.")
        if not self.network.finetune and (self.network.drop_path or self.optim.layer_decay != 1):
            raise ConfigError("network.drop_path and optim.layer_decay are for network.finetune=true.")
