"""Configuration of flow fine-tuning. The defaults are the paper's protocol (appendix B.4; CroCo v2's)."""

from dataclasses import dataclass, field
from typing import Any

from midway_zoo.config import MidwayConfig, architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.train import alignment
from midway_zoo.train.config import RunConfig, check_optimizer, check_run
from midway_zoo.train.data.flow_datasets import check_part
from midway_zoo.train.data.flow_pairs import FlowDataConfig, check_flow_data
from midway_zoo.train.tasks.flow import head_start

INITIAL = ("full", "encoder", "random")
_OWN_KEYS = {"paired": "fine-tuning has one encoder", "flow_head": "network.flow_head=", "flow_size": "data.crop="}


@dataclass
class FlowNetworkConfig:
    """The network that is fine-tuned: one encoder for both frames, dynamics, flow head."""

    name: str = "midway_vits"
    """Architecture: midway_vits, midway_vitb or midway_nano."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of MidwayConfig that differ from it, as they were in pretraining."""
    dynamics_init: str = "released"
    """Of dynamics that start fresh (initial=encoder or random); see pretraining's network.dynamics_init."""
    head_init: str = "plain"
    """Of a flow head that starts fresh. whitened: its first layers even out what the tokens of the first 256 pairs vary
    in, without which a small head at a high learning rate stays at zero flow."""
    flow_head: list[int] | None = None
    """Widths of the flow head: its four maps from fine to coarse, then their fusion; null: those that fit the
    encoder (96, 192, 384, 768, 256 in the paper)."""


@dataclass
class FlowOptimConfig:
    """AdamW; the learning rate rises, then falls to zero in half a cosine. Gradients are not clipped."""

    lr: float = 2e-5
    """Highest learning rate, whatever the batch size."""
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    """Not of biases and other tensors of one dimension."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])


@dataclass
class FlowValidationConfig:
    """What each checkpoint is validated on; the one with the lowest end-point error is kept as the best."""

    parts: list[str] = field(default_factory=lambda: ["sintel_clean_subval", "sintel_final_subval"])
    """Parts of data sets, looked for where ``data.root`` and ``data.roots`` say; left out, with a warning, if they
    are not there."""
    overlap: float = 0.7
    """Of the tiles that images larger than the crop are cut into."""
    limit: int | None = None
    """Pairs of each part, evenly spaced; null takes all."""
    scenes: int = 64
    """With data.source=scenes, instead of the parts: this many generated pairs that are never trained on."""
    batch_size: int = 8
    """Pairs, or tiles, at once."""


@dataclass
class FlowConfig(RunConfig):
    """Everything of a flow fine-tuning run."""

    task: str = "flow"
    epochs: float = 240.0
    batch_size: int = 8
    precision: str = "no"
    tf32: bool = True
    """On GPUs, multiply float32 matrices in TensorFloat-32: faster, with ten bits of mantissa."""
    initial: str = "full"
    """What is taken from init_from: full: encoder and dynamics (and the flow head where there is one of these widths);
    encoder: the encoder alone, the dynamics start fresh; random: nothing, without init_from."""
    frozen: bool = False
    """Train the flow head alone."""
    network: FlowNetworkConfig = field(default_factory=FlowNetworkConfig)
    optim: FlowOptimConfig = field(default_factory=FlowOptimConfig)
    data: FlowDataConfig = field(default_factory=FlowDataConfig)
    validation: FlowValidationConfig = field(default_factory=FlowValidationConfig)

    def midway_config(self) -> MidwayConfig:
        """Architecture of the network, flow head included."""
        head = True if self.network.flow_head is None else list(self.network.flow_head)
        own = {"paired": False, "flow_head": head, "flow_size": list(self.data.crop)}
        return override(architecture_config(self.network.name), self.network.overrides | own)


def check_flow(config: FlowConfig) -> None:
    """Raise :class:`ConfigError` for a combination that cannot be trained."""
    check_run(config)
    check_flow_data(config.data)
    choices = {
        "task": (config.task, ("flow",)),
        "initial": (config.initial, INITIAL),
        "network.dynamics_init": (config.network.dynamics_init, alignment.INITS),
        "network.head_init": (config.network.head_init, head_start.INITS),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{key}={value!r} must be one of {', '.join(allowed)}.")
    for key, remedy in _OWN_KEYS.items():
        if key in config.network.overrides:
            raise ConfigError(f"network.overrides.{key} is not for flow fine-tuning: {remedy}.")
    if config.initial == "random" and config.init_from is not None:
        raise ConfigError(f"initial=random takes nothing from init_from={config.init_from}; pass init_from=null.")
    if config.initial != "random" and config.init_from is None:
        raise ConfigError(
            f"initial={config.initial} needs init_from=NAME|PATH, such as init_from=midway_vits.bdd100k; "
            "initial=random starts from nothing."
        )
    optim = config.optim
    check_optimizer(optim.betas)
    if optim.lr <= 0 or optim.weight_decay < 0 or optim.warmup_epochs < 0:
        raise ConfigError(
            f"optim.lr={optim.lr} must be positive, optim.weight_decay={optim.weight_decay} and "
            f"optim.warmup_epochs={optim.warmup_epochs} must not be negative."
        )
    _check_validation(config.validation)
    patch = config.network.overrides.get("patch_size", architecture_config(config.network.name).patch_size)
    if any(side % patch for side in config.data.crop):
        raise ConfigError(f"data.crop={config.data.crop} must hold multiples of the patch, {patch}.")
    scenes = config.data.scenes
    if config.data.source == "scenes" and (scenes.height < config.data.crop[0] or scenes.width < config.data.crop[1]):
        raise ConfigError(
            f"data.scenes of {scenes.height} x {scenes.width} pixels are smaller than data.crop={config.data.crop}."
        )
    config.midway_config()


def _check_validation(config: FlowValidationConfig) -> None:
    for name in config.parts:
        check_part(name)
    if not 0 <= config.overlap < 1:
        raise ConfigError(f"validation.overlap={config.overlap} must lie in [0, 1).")
    if config.batch_size < 1 or config.scenes < 0 or (config.limit is not None and config.limit < 1):
        raise ConfigError(
            f"validation: batch_size={config.batch_size} and limit={config.limit} must be positive, "
            f"scenes={config.scenes} must not be negative."
        )
