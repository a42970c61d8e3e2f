"""Configuration of flow fine-tuning. The defaults are the paper's protocol (appendix B.4; CroCo v2's)."""

from dataclasses import dataclass, field
from typing import Any

from midway_zoo.checks import field_range
from midway_zoo.config import MidwayConfig, architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.train import alignment
from midway_zoo.train.config import RunConfig
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
    freeze: list[str] = field(default_factory=list)
    """Parts that keep their weights, by their names in the state dict: [encoder], [dynamics.midway], ..."""
    dynamics_init: str = field_range("released", choices=alignment.INITS)
    """Initialisation of fresh dynamics (initial=encoder or random); see pretraining's network.dynamics_init."""
    head_init: str = field_range("plain", choices=head_start.INITS)
    """Initialisation of a fresh flow head. whitened: its first layers whiten the tokens, with statistics of the first
    256 pairs; without it a small head at a high learning rate stays at zero flow."""
    flow_head: list[int] | None = None
    """Widths of the flow head: its four maps from fine to coarse, then their fusion; null: those that match the
    encoder (96, 192, 384, 768, 256 in the paper)."""


@dataclass
class FlowOptimConfig:
    """AdamW; linear warm-up of the learning rate, then half a cosine to zero. Gradients are not clipped."""

    lr: float = field_range(2e-5, above=0)
    """Highest learning rate, whatever the batch size."""
    warmup_epochs: float = field_range(1.0, at_least=0)
    weight_decay: float = field_range(0.05, at_least=0)
    """Weight decay, except of biases and other tensors of one dimension."""
    betas: list[float] = field_range(default_factory=lambda: [0.9, 0.95], at_least=0, below=1, length=2)


@dataclass
class FlowValidationConfig:
    """Validation of each checkpoint; the one with the lowest end-point error is kept as the best."""

    parts: list[str] = field(default_factory=lambda: ["sintel_clean_subval", "sintel_final_subval"])
    """Parts of data sets, found through ``data.root`` and ``data.roots``; missing ones are skipped with a
    warning."""
    overlap: float = field_range(0.7, at_least=0, below=1)
    """Overlap of the tiles that images larger than the crop are divided into."""
    limit: int | None = field_range(None, above=0)
    """Pairs of each part, evenly spaced; null takes all."""
    scenes: int = field_range(64, at_least=0)
    """With data.source=scenes, number of held-out generated pairs to use instead of the parts."""
    batch_size: int = field_range(8, at_least=1)
    """Pairs or tiles per forward pass."""


@dataclass
class FlowConfig(RunConfig):
    """Everything of a flow fine-tuning run."""

    task: str = field_range("flow", choices=("flow",))
    epochs: float = field_range(240.0, above=0)
    batch_size: int = field_range(8, at_least=1)
    precision: str = field_range("no", choices=("no", "bf16", "fp16"))
    tf32: bool = True
    """On GPUs, multiply float32 matrices in TensorFloat-32: faster, with ten bits of mantissa."""
    initial: str = field_range("full", choices=INITIAL)
    """What init_from initialises. full: encoder and dynamics (and the flow head, if it has the same widths); encoder:
    the encoder alone, with fresh dynamics; random: nothing, without init_from."""
    frozen: bool = False
    """Train only the flow head."""
    dynamics_weight: float = field_range(0.0, at_least=0)
    """Weight of pretraining's dynamics loss, which is added to the flow loss. Above 0 the forward dynamics go on
    predicting the target frame's tokens, as heat maps and tracks need, while flow is learned.
    0 in the paper's protocol."""
    network: FlowNetworkConfig = field(default_factory=FlowNetworkConfig)
    optim: FlowOptimConfig = field(default_factory=FlowOptimConfig)
    data: FlowDataConfig = field(default_factory=FlowDataConfig)
    validation: FlowValidationConfig = field(default_factory=FlowValidationConfig)

    def midway_config(self) -> MidwayConfig:
        """Architecture of the network, flow head included."""
        head = True if self.network.flow_head is None else list(self.network.flow_head)
        own = {"paired": False, "flow_head": head, "flow_size": list(self.data.crop)}
        return override(architecture_config(self.network.name), self.network.overrides | own)

    def check(self) -> None:
        super().check()
        check_flow_data(self.data)
        for name in self.validation.parts:
            check_part(name)
        for key, remedy in _OWN_KEYS.items():
            if key in self.network.overrides:
                raise ConfigError(f"network.overrides.{key} cannot be used in flow fine-tuning: {remedy}.")
        if self.initial == "random" and self.init_from is not None:
            raise ConfigError(f"initial=random does not use init_from={self.init_from}; pass init_from=null.")
        if self.initial != "random" and self.init_from is None:
            raise ConfigError(
                f"initial={self.initial} needs init_from=NAME|PATH, such as init_from=midway_vits.bdd100k; "
                "initial=random needs none."
            )
        if self.frozen and self.dynamics_weight:
            raise ConfigError(
                f"dynamics_weight={self.dynamics_weight} trains the dynamics, which frozen=true keeps; "
                "leave one of the two out."
            )
        crop = self.data.crop
        patch = self.network.overrides.get("patch_size", architecture_config(self.network.name).patch_size)
        if any(side % patch for side in crop):
            raise ConfigError(f"data.crop={crop} must hold multiples of the patch, {patch}.")
        scenes = self.data.scenes
        if self.data.source == "scenes" and (scenes.height < crop[0] or scenes.width < crop[1]):
            raise ConfigError(
                f"data.scenes of {scenes.height} x {scenes.width} pixels are smaller than data.crop={crop}."
            )
        self.midway_config()
