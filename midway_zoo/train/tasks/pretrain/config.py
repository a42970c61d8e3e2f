"""Configuration of pretraining. The defaults are the released ViT-S configuration on BDD100K."""

from dataclasses import dataclass, field
from typing import Any

from midway_zoo.config import MidwayConfig, architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.train.alignment import INITS
from midway_zoo.train.config import RunConfig, check_optimizer, check_run
from midway_zoo.train.data.frame_pairs import PairsConfig
from midway_zoo.train.data.views import ViewsConfig


@dataclass
class NetworkConfig:
    """The network that is trained."""

    name: str = "midway_vits"
    """Architecture: midway_vits, midway_vitb or midway_nano."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it: depths, widths, and the switches of the paper's ablations
    (dynamics, backward, levels, refinement, gating)."""
    dynamics_init: str = "released"
    """Fresh weights of the dynamics. released: truncated normal, std 0.02. aligned: the midway path begins by looking
    at the same place of the other frame, which a small network does not find in tens of thousands of pairs."""
    drop_path: float = 0.1
    """Stochastic depth of the last block, rising linearly from the first; in the student only."""
    grad_checkpointing: bool = False
    """Recompute the student's activations in the backward pass: less memory, about a third more time."""


@dataclass
class HeadConfig:
    """DINO's projection head."""

    hidden: int = 2048
    bottleneck: int = 256
    out: int = 65536
    """Number of prototypes."""
    norm_last_layer: bool = False
    """Freeze the last layer's gains at 1; they are trainable for ViT-S."""


@dataclass
class ObjectiveConfig:
    """What is minimised: dino_weight * invariance + the dynamics losses of the levels."""

    dino_weight: float = 1.0
    """0 trains the dynamics only. (DINO only: network.overrides.dynamics=false.)"""
    dynamics_weights: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Weights of levels 2, 1, 0."""
    dynamics_reduction: str = "sum"
    """sum: as the released runs add the levels; mean: as the paper's equation 3 averages them."""
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    center_momentum: float = 0.9


@dataclass
class OptimConfig:
    """AdamW, scheduled per step."""

    base_lr: float = 5e-4
    """Learning rate for 256 pairs a step; scaled linearly with batch_size."""
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float | None = 3.0
    """Largest gradient norm of each tensor of the student's encoder and head; the dynamics are not clipped."""
    freeze_last_layer_epochs: float = 1.0
    """The head's last layer takes no gradient in these first epochs."""
    ema_momentum: float = 0.996
    ema_momentum_end: float = 1.0
    ema_horizon: str = "released"
    """released: the momentum's cosine spans epochs x clips iterations, as in the released runs, far beyond the run's
    end, so that it stays near its start; run: it spans the run."""


@dataclass
class PretrainDataConfig(PairsConfig):
    """Where pairs come from: videos, or nowhere."""

    source: str = "videos"
    """videos: files under ``root``. scenes: rendered on the fly, on the training device if it is an accelerator and
    by the ``num_workers`` if not; then ``schedule_steps`` has to be given, and nothing else
    of this section matters but ``scenes`` (``root`` is null)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """What scenes look like; with more than 2 frames a pair is any two of them."""


@dataclass
class PretrainConfig(RunConfig):
    """Everything of a pretraining run."""

    task: str = "pretrain"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)

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


def check_pretrain(config: PretrainConfig) -> None:
    """Raise :class:`ConfigError` for a combination that cannot be trained."""
    check_run(config)
    objective = config.objective
    choices: dict[str, tuple[str, tuple[str, ...]]] = {
        "objective.dynamics_reduction": (objective.dynamics_reduction, ("sum", "mean")),
        "optim.ema_horizon": (config.optim.ema_horizon, ("released", "run")),
        "task": (config.task, ("pretrain",)),
        "data.source": (config.data.source, ("videos", "scenes")),
        "network.dynamics_init": (config.network.dynamics_init, INITS),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{key}={value!r} must be one of {', '.join(allowed)}.")
    if config.data.source == "videos" and not config.data.root:
        raise ConfigError("no value for data.root; pass data.root=VIDEOS, or data.source=scenes to render them.")
    if config.data.source == "scenes" and config.schedule_steps is None:
        raise ConfigError("data.source=scenes has no end, so epochs say nothing; pass schedule_steps=...")
    network = config.midway_config()
    if objective.dino_weight == 0 and not network.dynamics:
        raise ConfigError("objective.dino_weight=0 and network.overrides.dynamics=false leave nothing to train.")
    if network.dynamics and len(objective.dynamics_weights) < len(network.levels):
        raise ConfigError(
            f"objective.dynamics_weights={objective.dynamics_weights}: one weight per level, {len(network.levels)}."
        )
    if objective.dino_weight < 0 or min(objective.student_temperature, objective.teacher_temperature) <= 0:
        raise ConfigError("objective: weights must not be negative and temperatures must be positive.")
    check_optimizer(config.optim.betas)
    if config.optim.clip is not None and config.optim.clip <= 0:
        raise ConfigError(f"optim.clip={config.optim.clip} must be positive; null does not clip.")
