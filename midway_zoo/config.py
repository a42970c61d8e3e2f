"""The configuration of a Midway network: everything needed to build it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from midway_zoo.checks import check_fields, field_range, is_integer
from midway_zoo.errors import ConfigError, InputError, UnknownModelError, nearest

LEVELS = (2, 1, 0)
"""Index of a prediction target, top-down: block 8, 5 and 2 of a twelve-block encoder."""

# Limits of every size: larger values come from damage or mistakes, and would take minutes to fail.
_SIZE = {"at_least": 1, "at_most": 2**16}

_PAPER_FLOW_HEAD = (96, 192, 384, 768, 256)

# The registered architectures by timm name, in one place: where they differ from the fields' defaults, and the widths
# that ``flow_head=True`` stands for.
_REGISTERED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "midway_vits": ({}, _PAPER_FLOW_HEAD),
    # The released ViT-B keeps six heads in the dynamics, while its encoder has twelve.
    "midway_vitb": ({"embed_dim": 768, "num_heads": 12}, _PAPER_FLOW_HEAD),
    "midway_nano": (
        {
            **{"embed_dim": 96, "num_heads": 3, "patch_size": 8, "grid": (8, 8), "motion_dim": 48},
            **{"backward_heads": 3, "forward_heads": 3, "flow_size": (64, 96)},
        },
        (24, 32, 48, 64, 32),
    ),
}


@dataclass(frozen=True)
class MidwayConfig:
    """Architecture of a :class:`~midway_zoo.MidwayNetwork` (paper section 3, appendix A).

    The defaults are ViT-S/16 as pretrained on BDD100K.
    """

    encoder: str = "midway_vits"
    """timm name of the encoder; the five fields below may differ from that name's own."""
    embed_dim: int = field_range(384, **_SIZE)
    """Encoder width D."""
    depth: int = field_range(12, **_SIZE)
    num_heads: int = field_range(6, **_SIZE)
    patch_size: int = field_range(16, **_SIZE)
    """Side of a square patch in pixels."""
    grid: tuple[int, int] = field_range((14, 14), length=2, **_SIZE, hint="token rows, token columns")
    """Native token grid (rows, columns): the size of the learned position tables."""
    feature_blocks: tuple[int, int, int, int] = field_range((2, 5, 8, 11), at_least=0, length=4, ordered=True)
    """Encoder blocks (0-based) whose normed outputs are the four feature levels."""
    motion_dim: int = field_range(192, **_SIZE)
    """Width C of the motion latents and of the midway path."""
    motion_tokens: int = field_range(10, **_SIZE)
    """Number M of motion tokens."""
    midway_depth: int = field_range(4, **_SIZE)
    midway_heads: int = field_range(3, **_SIZE)
    backward_heads: int = field_range(6, **_SIZE)
    forward_depth: int = field_range(4, **_SIZE)
    forward_heads: int = field_range(6, **_SIZE)
    flow_head: tuple[int, int, int, int, int] | None = field_range(None, length=5, **_SIZE)
    """Widths of the DPT flow head: its four maps from fine to coarse, then their fusion; None: no head. True
    stands for the widths that suit the encoder (the paper's 96, 192, 384, 768, 256)."""
    flow_size: tuple[int, int] = field_range((320, 384), length=2, **_SIZE, hint="height, width")
    """(height, width) in pixels at which the flow head was trained, and the size of its tiles."""
    gate_bias: float = field_range(4.0)
    """Added to a gate's logit, so that a newly initialised gate is almost open."""
    paired: bool = False
    """True: the network holds a second encoder for the target frame, as in pretraining."""

    # The variants of the paper's ablations. The paper does not define all of them; each field below states our reading.
    dynamics: bool = True
    """False: an encoder alone (invariance objective only); motion and flow raise an error."""
    levels: tuple[int, ...] = field_range(LEVELS)
    """Prediction targets, top-down: (2, 1, 0) or a subset in that order, such as (2,). The first one starts
    from level 3 (the encoder's last tapped block), the last one gives the final motion latent, and levels left out have
    no parameters."""
    backward: bool = True
    """False: no backward layers. The encoder's tokens of a level take the place of its backward features, on both
    sides: the forward dynamics reads the source's tokens of its level, the midway path the target's of the level
    above."""
    refinement: bool = True
    """False: every level infers its motion latent anew, from the learned motion tokens and from both frames' backward
    features of the level above, instead of adding to the latent above (m' + m) and reading the prediction above (z)."""
    gating: bool = True
    """False: the forward dynamics is plain transformer blocks (every gate is 1), so there are no gates to return."""
    forward_places: bool = False
    """True: the second block of the forward dynamics also attends by place, displaced by what the motion tokens
    say (see :class:`~midway_zoo.models.places.PlacedAttention`). Not in the paper; without it a small
    network does not learn where things move."""

    def __post_init__(self) -> None:
        if isinstance(self.flow_head, bool):
            registered = _REGISTERED.get(self.encoder, ({}, _PAPER_FLOW_HEAD))
            object.__setattr__(self, "flow_head", registered[1] if self.flow_head else None)
        lists = ["grid", "feature_blocks", "levels", "flow_size"] + ["flow_head"] * (self.flow_head is not None)
        for name in lists:
            if not isinstance(getattr(self, name), list | tuple):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a list of integers.")
            # JSON and YAML turn tuples into lists.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_fields(self)
        if self.encoder not in _REGISTERED:
            raise ConfigError(f"encoder={self.encoder!r} is not registered.{nearest(str(self.encoder), _REGISTERED)}")
        self._check_divisible("num_heads", "embed_dim")
        if self.dynamics:
            self._check_divisible("midway_heads", "motion_dim")
            self._check_divisible("forward_heads", "embed_dim")
        if self.dynamics and self.backward:
            self._check_divisible("backward_heads", "embed_dim")
        blocks = self.feature_blocks
        if len(set(blocks)) < len(blocks) or blocks[-1] >= self.depth:
            raise ConfigError(
                f"feature_blocks={blocks} must be four increasing block indices below depth={self.depth}."
            )
        if not self.levels or self.levels != tuple(level for level in LEVELS if level in self.levels):
            raise ConfigError(f"levels={self.levels} must be {LEVELS} or a subset in that order, such as (2,).")
        self._check_flow()

    def _check_flow(self) -> None:
        if self.flow_head is None:
            return
        if self.flow_head[-1] % 2:
            raise ConfigError(f"flow_head={self.flow_head} must be five positive widths, the last one even.")
        if not self.dynamics:
            raise ConfigError("flow_head needs the dynamics, whose maps it reads; dynamics=False is an encoder alone.")
        if any(side % self.patch_size for side in self.flow_size):
            raise ConfigError(f"flow_size={self.flow_size} must hold multiples of patch_size={self.patch_size}.")

    def _check_divisible(self, heads: str, width: str) -> None:
        if getattr(self, width) % getattr(self, heads):
            raise ConfigError(
                f"{heads}={getattr(self, heads)} does not divide {width}={getattr(self, width)}; choose a divisor."
            )

    def check_level(self, level: object) -> None:
        """Raise :class:`InputError` unless ``level`` is one of this network's ``levels``."""
        if not is_integer(level) or level not in self.levels:
            *others, last = map(str, self.levels)
            raise InputError(f"level={level!r}: {', '.join(others)}{' or ' if others else ''}{last} is expected.")

    @property
    def img_size(self) -> tuple[int, int]:
        """Native (height, width) in pixels."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def encoder_args(self) -> dict[str, Any]:
        """Keyword arguments that give the timm model named ``encoder`` this shape."""
        return {
            "img_size": self.img_size,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
        }

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON types; ``MidwayConfig.from_dict`` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MidwayConfig":
        """Build from a mapping; an unknown key raises :class:`ConfigError` with the nearest one."""
        return override(cls(), values)


def check_keys(keys: Iterable[str]) -> None:
    """Raise :class:`ConfigError`, with the nearest name, for a key that :class:`MidwayConfig` does not have."""
    known = [field.name for field in fields(MidwayConfig)]
    for key in keys:
        if key not in known:
            raise ConfigError(f"unknown configuration key {key!r}.{nearest(key, known)} Known: {', '.join(known)}.")


def override(config: MidwayConfig, values: Mapping[str, Any]) -> MidwayConfig:
    """``config`` with some fields replaced; an unknown key is an error that suggests the nearest."""
    check_keys(values)
    return replace(config, **values)


ARCHITECTURES = {name: MidwayConfig(encoder=name, **fields) for name, (fields, _) in _REGISTERED.items()}
"""The registered architectures, by timm name."""


def architecture_config(name: str) -> MidwayConfig:
    """Configuration of a registered architecture, such as ``"midway_vits"``."""
    if name not in ARCHITECTURES:
        raise UnknownModelError(
            f"unknown architecture {name!r}.{nearest(name, ARCHITECTURES)} Known: {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]
