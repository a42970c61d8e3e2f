"""Configuration of pretraining. The defaults are the released ViT-S configuration on BDD100K."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from midway_zoo.checks import field_range
from midway_zoo.config import MidwayConfig, architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.train.alignment import INITS
from midway_zoo.train.config import RunConfig
from midway_zoo.train.data.frame_pairs import PairsConfig
from midway_zoo.train.data.views import ViewsConfig
from midway_zoo.train.tasks.pretrain.evaluate import EvalConfig


@dataclass
class NetworkConfig:
    """The network that is trained."""

    name: str = "midway_vits"
    """Architecture: midway_vits, midway_vitb or midway_nano."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it: depths, widths, and the switches of the paper's ablations
    (dynamics, backward, levels, refinement, gating)."""
    dynamics_init: str = field_range("released", choices=INITS)
    """Initialisation of the dynamics, std 0.02 for all matrices. released: motion tokens and motion positions at zero,
    the encoder's class token with std 0.02. normal: tokens and positions with std 0.02 too. aligned: the midway path
    starts by attending to the same place of the other frame, which a small network does not learn from tens of
    thousands of pairs."""
    resample: str = field_range("released", choices=("released", "timm"))
    """How the student's position table is resampled for local views. released: bicubic without antialiasing by the
    scale factor (places + 0.1) / native places; timm: with antialiasing and the exact factor, as inference does."""
    freeze: list[str] = field(default_factory=list)
    """Parts that keep their weights, by their names in the state dict: [encoder], [dynamics.midway], ..."""
    drop_path: float = field_range(0.1, at_least=0, below=1)
    """Stochastic depth of the last block, rising linearly from the first; in the student only."""
    grad_checkpointing: bool = False
    """Recompute the student's activations in the backward pass, for less memory and about a third more time."""
    mlp_recompute: bool = True
    """Recompute the GELU of every MLP in the backward pass, for a quarter less memory. It takes about 1 % more time on
    a GPU, but a sixth more for small networks on a CPU, where it should be off."""


@dataclass
class HeadConfig:
    """DINO's projection head."""

    hidden: int = field_range(2048, at_least=1)
    bottleneck: int = field_range(256, at_least=1)
    out: int = field_range(65536, at_least=1)
    """Number of prototypes."""
    product: str = field_range("float32", choices=("float32", "autocast"))
    """Precision of the product with the prototypes. autocast: that of the run (``precision``), faster on a GPU; the
    loss itself is always in float32."""
    norm_last_layer: bool = False
    """Freeze the last layer's gains at 1; they are trainable in all released runs."""


@dataclass
class ObjectiveConfig:
    """The objective: dino_weight * DINO (invariance) + the dynamics losses of the levels."""

    dino_weight: float = field_range(1.0, at_least=0)
    """0 trains the dynamics only. (DINO only: network.overrides.dynamics=false.)"""
    dynamics_dino_weight: float = field_range(0.0, at_least=0)
    """Weight of DINO between the two dynamics crops, with the student's class token of each against the teacher's of
    the other; the center is then the mean of their mean logits and those of the global views. An option of the authors'
    code that the released runs did not use."""
    dynamics_weights: list[float] = field_range(default_factory=lambda: [1.0, 1.0, 1.0])
    """Weights of levels 2, 1, 0."""
    dynamics_reduction: str = field_range("sum", choices=("sum", "mean"))
    """sum: as the released runs add the levels; mean: as the paper's equation 3 averages them."""
    student_temperature: float = field_range(0.1, above=0)
    teacher_temperature: float = field_range(0.04, above=0)
    teacher_temperature_start: float | None = field_range(None, above=0)
    """The teacher's temperature at the first step, rising linearly; null for a constant temperature, as in the released
    runs."""
    teacher_temperature_epochs: float = field_range(30.0, above=0)
    """Length of that rise in epochs."""
    center_momentum: float = field_range(0.9, at_least=0, at_most=1)


@dataclass
class OptimConfig:
    """AdamW, scheduled per step."""

    base_lr: float = field_range(5e-4, at_least=0)
    """Learning rate for 256 pairs per step; scaled linearly with batch_size."""
    min_lr: float = field_range(1e-6, at_least=0)
    warmup_epochs: float = field_range(10.0, at_least=0)
    weight_decay: float = field_range(0.04, at_least=0)
    """Initial weight decay of the student's encoder and head, rising in half a cosine; biases and 1-D tensors have
    none."""
    weight_decay_end: float = field_range(0.4, at_least=0)
    dynamics_weight_decay: str = field_range("released", choices=("released", "scheduled"))
    """Weight decay of the dynamics. released: 0.01 throughout, as in the released runs, where only encoder and head
    followed the schedule; scheduled: the same as theirs."""
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.999], at_least=0, below=1, length=2)
    clip: float | None = field_range(3.0, above=0, hint="null does not clip")
    """Largest gradient norm of each tensor of the student's encoder and head; the dynamics are not clipped."""
    freeze_last_layer_epochs: float = field_range(1.0, at_least=0)
    """The head's last layer is frozen in these first epochs. (The released runs counted passes over the data: 5 on
    BDD100K.)"""
    ema_momentum: float = field_range(0.996, at_least=0, at_most=1)
    ema_momentum_end: float = field_range(1.0, at_least=0, at_most=1)
    ema_horizon: str = field_range("released", choices=("released", "run"))
    """released: the momentum's cosine spans epochs x clips iterations, as in the released runs, far beyond the end
    of the run, so that it stays near its start; run: the cosine spans the run."""


@dataclass
class PretrainDataConfig(PairsConfig):
    """Where pairs come from: videos, generated scenes, or both."""

    source: str = field_range("videos", choices=("videos", "scenes"))
    """videos: files under ``root``. scenes: rendered on the fly, on the training device if it is an accelerator, else
    by the ``num_workers``. Scenes need ``schedule_steps``, and of this section only ``scenes`` applies (``root`` is
    null)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Generated scenes; with more than 2 frames a pair is any two of them."""
    mixture: float = field_range(0.0, at_least=0, below=1)
    """With source=scenes, the share of pairs that come from videos under ``root`` instead, according to the rest of
    this section. Both are then made by the ``num_workers``, on the CPU."""


@dataclass
class PretrainConfig(RunConfig):
    """Everything of a pretraining run."""

    task: str = field_range("pretrain", choices=("pretrain",))
    network: NetworkConfig = field(default_factory=NetworkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "views.grey_p": "views.grayscale_p",
        "views.solarise_p": "views.solarize_p",
    }

    def midway_config(self) -> MidwayConfig:
        """Architecture of the network: paired, student for source and teacher for target frames."""
        values = {"grid": self._grid()} | self.network.overrides | {"paired": True}
        return override(architecture_config(self.network.name), values)

    def _grid(self) -> tuple[int, int]:
        patch = self.network.overrides.get("patch_size", architecture_config(self.network.name).patch_size)
        if not isinstance(patch, int) or patch < 1:
            raise ConfigError(f"network.overrides.patch_size={patch} must be a positive integer.")
        for key in ("dynamics_size", "global_size", "local_size"):
            if getattr(self.views, key) % patch:
                raise ConfigError(f"views.{key}={getattr(self.views, key)} must be a multiple of the patch, {patch}.")
        return (self.views.dynamics_size // patch, self.views.dynamics_size // patch)

    def check(self) -> None:
        super().check()
        if self.data.source == "videos" and not self.data.root:
            raise ConfigError("no value for data.root; pass data.root=VIDEOS, or data.source=scenes to render them.")
        if self.data.mixture and self.data.source != "scenes":
            raise ConfigError(f"data.mixture={self.data.mixture} mixes videos into scenes; pass data.source=scenes.")
        if self.data.mixture and not self.data.root:
            raise ConfigError(f"data.mixture={self.data.mixture} needs videos; pass data.root=VIDEOS.")
        if self.data.source == "scenes" and self.schedule_steps is None:
            raise ConfigError("data.source=scenes is endless, so epochs have no meaning; pass schedule_steps=...")
        if self.data.decoder == "nvdec" and (self.data.source != "videos" or self.data.decode_short_side is not None):
            raise ConfigError(
                "data.decoder=nvdec gives frames of videos at their own size; pass data.decoder=pyav, or "
                "data.source=videos data.decode_short_side=null."
            )
        network, weights = self.midway_config(), self.objective.dynamics_weights
        if self.objective.dino_weight == 0 and not network.dynamics:
            raise ConfigError("objective.dino_weight=0 and network.overrides.dynamics=false leave nothing to train.")
        crops = self.objective.dynamics_dino_weight
        if crops and not (self.objective.dino_weight and network.dynamics):
            raise ConfigError(
                f"objective.dynamics_dino_weight={crops} needs objective.dino_weight above 0 and "
                "network.overrides.dynamics=true: it adds to both losses."
            )
        if crops and network.feature_blocks[-1] != network.depth - 1:
            raise ConfigError(
                f"objective.dynamics_dino_weight={crops} needs the last block's tokens; "
                f"network.overrides.feature_blocks={list(network.feature_blocks)} must end with {network.depth - 1}."
            )
        if network.dynamics and len(weights) < len(network.levels):
            raise ConfigError(f"objective.dynamics_weights={weights}: one weight per level, {len(network.levels)}.")
