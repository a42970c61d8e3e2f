"""The released checkpoint layout: its names, its configuration, and how both become a network.

A released ``.pth`` holds ``student``, ``teacher`` (encoder and projection head), ``motion_loss``
(the dynamics), the optimizer and the run's pickled configuration ``args``. Only the tensors that
a network needs are ever read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from midway_zoo.checks import is_number
from midway_zoo.config import ARCHITECTURES, LEVELS, MidwayConfig, check_keys, override
from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import EncoderName, assemble, check_tensors, empty_network
from midway_zoo.weights.archive import TorchArchive, open_archive
from midway_zoo.weights.pickles import TensorRef, plain, short
from midway_zoo.weights.run_config import RunConfig

# Our name -> released name, inside the dynamics; i is the level, b the block.
_RENAMES = (
    (r"^source_embed\.", r"student_embed."),
    (r"^target_embed\.", r"teacher_embed."),
    (r"^source_backward\.(\d+)\.", r"student_feature_blocks_\1.0."),
    (r"^target_backward\.(\d+)\.", r"teacher_feature_blocks_\1.0."),
    (r"\.cross_attn\.([qkv])\.", r".cross_attn.proj\1."),
    (r"\.norm_memory\.", r".norm_y."),
    (r"^midway\.(\d+)\.", r"motion_blocks_\1."),
    (r"^forward_dynamics\.(\d+)\.blocks\.", r"forward_predictor_\1."),
    (r"^forward_dynamics\.(\d+)\.gates\.(\d+)\.norm\.", r"gating_mlps_\1.\2.norm_layer."),
    (r"^forward_dynamics\.(\d+)\.gates\.", r"gating_mlps_\1."),
)

# arch -> (width, heads); vit_nano is the authors' name for anything small, always with three heads.
ENCODER_ARCHS = {
    "vit_nano": (None, 3),
    "vit_tiny": (192, 3),
    "vit_small": (384, 6),
    "vit_base": (768, 12),
    "vit_large": (1024, 16),
}

# Switches of the authors' code that change the computation, with the value of the full method.
FULL_SWITCHES = {
    "use_pos_embed": True,
    "feature_block_type": "cross",
    "feature_depth": 1,
    "shared_feature_block": False,
    "use_cls_token": True,
    "motion_agg_type": "add",
    "shared_motion": False,
    "motion_pred_input": True,
    "gating_type": "pred-vector",
    "gating_tau": None,
    "pred_type": "self",
    "pos_embed_mode": "learn",
    "pred_tau": None,
    "pred_registers": 0,
    "shared_forward": False,
    "motion_head_type": "identity",
    "target_type": "forward",
}

VARIANT_SWITCHES: dict[str, dict[str, Any]] = {
    "backward": {"feature_block_type": None},
    "refinement": {"motion_agg_type": None, "motion_pred_input": False},
    "gating": {"gating_type": None},
}
"""Field of :class:`MidwayConfig` -> what ``midway_model_configs`` holds if that field is false. The settings of the
authors' ablation runs are not published: a file with anything but these or the full method is refused."""

# Tensors that only the full method has: a variant is believed if the switches say so and these are absent.
_VARIANT_TENSORS = {"backward": r"(student|teacher)_feature_blocks_", "gating": r"gating_mlps_"}


def _unwrapped(name: str) -> str:
    """A stored name without the prefixes of DistributedDataParallel (``module.``) and torch.compile
    (``_orig_mod.``)."""
    return re.sub(r"^(module\.)+", "", re.sub(r"(?<![^.])_orig_mod\.", "", name))


def released_name(name: str) -> str:
    """The released name of a tensor of our :class:`~midway_zoo.models.dynamics.Dynamics`."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_released(
    path: Path,
    *,
    encoder: EncoderName = "teacher",
    paired: bool = False,
    config: Mapping[str, Any] | None = None,
    supplied: Mapping[str, Any] | None = None,
) -> MidwayNetwork:
    """Build a network from a released-layout file on disk; see :func:`midway_zoo.load_checkpoint`.

    ``config`` overrides what the file says about itself, ``supplied`` fills in what it leaves open.
    """
    with open_archive(path) as archive:
        parts = Parts(archive)
        network = empty_network(
            MidwayNetwork, parts.config(encoder, paired=paired, overrides=config, supplied=supplied)
        )
        refs = parts.network_refs(network, encoder)
        found = {name: (ref.shape, ref.dtype) for name, ref in refs.items()}
        network = assemble(network, found, lambda name: archive.read(refs[name]), path.name, dtype=torch.float32)
    network.provenance = {"source": path.name, "encoder": "student and teacher" if paired else encoder}
    return network


class Parts:
    """The parts of a released checkpoint, as tensor references by released name."""

    def __init__(self, archive: TorchArchive) -> None:
        self.name = archive.name
        content = archive.content
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{self.name} holds a {type(content).__name__}, not a released checkpoint: "
                "a dict with student, teacher, motion_loss and args is expected."
            )
        self._content = content
        try:
            args = plain(content.get("args")) or {}
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from error
        if not isinstance(args, dict):
            raise CheckpointError(f"{self.name}: args is a {type(args).__name__}, not a configuration.")
        self.args = RunConfig(args)
        self.filled: set[str] = set()
        """Fields of the configuration last asked for that came from ``supplied``, since the file leaves them open."""

    def tensors(self, part: str) -> dict[str, TensorRef]:
        """Tensors of one part without the prefixes of wrappers; the projection head is left out."""
        return {name: value for name, value in self.all_tensors(part).items() if not name.startswith("dino_head.")}

    def all_tensors(self, part: str) -> dict[str, TensorRef]:
        """:meth:`tensors` with the projection head (``dino_head.*``)."""
        values = self._content.get(part)
        if not isinstance(values, Mapping) or not values:
            known = ", ".join(short(key) for key in list(self._content)[:8])
            if any(isinstance(held, TensorRef) for held in self._content.values()):
                raise CheckpointError(
                    f"{self.name} has no part {part!r}: it is a plain state_dict ({known}, ...), which "
                    "does not say which network it belongs to. Build that network with create_model(NAME), call "
                    "load_state_dict(torch.load(FILE, weights_only=True)), and save_pretrained(FOLDER): the folder can "
                    "be passed as a model."
                )
            raise CheckpointError(
                f"{self.name} has no part {part!r} (it holds: {known}). Is it a released Midway checkpoint?"
            )
        tensors = {}
        for name, value in values.items():
            name = _unwrapped(str(name))
            if not isinstance(value, TensorRef):
                raise CheckpointError(
                    f"{self.name}: {part}/{name} is not a tensor. The file is damaged or another layout."
                )
            if name in tensors:
                raise CheckpointError(f"{self.name}: part {part!r} holds {name} twice, with and without 'module.'.")
            if value.numel > value.storage.numel and 0 not in value.shape:  # one number repeated to an absurd size
                raise CheckpointError(f"{self.name}: {part}/{name} is a tensor larger than its storage.")
            tensors[name] = value
        return tensors

    def network_refs(self, network: MidwayNetwork, encoder: EncoderName) -> dict[str, TensorRef]:
        """Where each tensor of ``network`` is in the file; anything missing or left over is an error."""
        rooms: dict[str, str] = {"encoder": "student" if network.config.paired else encoder}
        rooms |= {"target_encoder": "teacher"} if network.config.paired else {}
        rooms |= {"dynamics": "dynamics"} if network.config.dynamics else {}
        return {
            f"{room}.{name}": ref for room, part in rooms.items() for name, ref in self.part_refs(network, part).items()
        }

    @property
    def encoder(self) -> EncoderName:
        """The encoder to prefer among those in the file."""
        return "student" if self._content.get("student") and not self._content.get("teacher") else "teacher"

    def part_refs(self, network: MidwayNetwork, part: str) -> dict[str, TensorRef]:
        """One part of a network ("teacher", "student" or "dynamics"), by the names of the module itself."""
        if part == "dynamics":
            module, stored = network.dynamics, "motion_loss"
            names = {name: released_name(name) for name in (module.state_dict() if module else {})}
        else:
            stored, names = part, {name: f"backbone.{name}" for name in network.encoder.state_dict()}
        tensors = self.tensors(stored) if names else {}
        expected = set(names.values())
        self._account(stored, missing=expected - tensors.keys(), unexpected=tensors.keys() - expected)
        return {ours: tensors[released] for ours, released in names.items()}

    def _account(self, part: str, missing: set[str], unexpected: set[str]) -> None:
        for kind, names in (("misses", missing), ("has unexpected", unexpected)):
            if names:
                shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                raise CheckpointError(f"{self.name}: part {part!r} {kind} {len(names)} tensor(s): {shown}.")

    def config(
        self,
        encoder: EncoderName = "teacher",
        *,
        paired: bool = False,
        overrides: Mapping[str, Any] | None = None,
        supplied: Mapping[str, Any] | None = None,
    ) -> MidwayConfig:
        """Infer the configuration: shapes from tensors, head counts and gate bias from ``args``.

        Args:
            encoder: the part that the encoder's shape is read from.
            paired: of the network; if true, the student's shape is read.
            overrides: fields that win over the file; with ``dynamics=False`` nothing is read about dynamics.
            supplied: fields that the file leaves open, such as those of the manifest.

        Raises:
            ConfigError: if the configuration is incomplete or contradicts itself.
            CheckpointError: if ``supplied`` contradicts the file.
        """
        given, known = dict(overrides or {}), dict(supplied or {})
        check_keys(given)
        check_keys(known)
        known = {key: value for key, value in known.items() if key not in given}
        fallback = known | given
        told = self._encoder_shape("student" if paired else encoder, fallback)
        dynamics = fallback.get("dynamics", not self._encoder_alone())
        told |= self._dynamics_shape(fallback) if dynamics else {"dynamics": False}
        self._check_supplied(known, told)
        values = told | {"paired": paired} | fallback
        self.filled = known.keys() - told.keys()
        try:
            return override(_nearest_architecture(values), values)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error} Pass config={{...}} to override what the file says.") from error

    def _check_supplied(self, known: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """What was supplied for a file must agree with what the file itself says."""
        for key, value in known.items():
            if key in told and not same(value, told[key]):
                raise CheckpointError(
                    f"{self.name}: the file says {key}={told[key]!r}, the configuration that is listed for it says "
                    f"{key}={value!r}. Either it is not the file that was listed, or the listing "
                    "(weights_manifest.json, register_weights) is wrong."
                )

    def _shape(self, tensors: Mapping[str, TensorRef], part: str, name: str, ndim: int) -> tuple[int, ...]:
        if name not in tensors:
            self._account(part, missing={name}, unexpected=set())
        shape = tensors[name].shape
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(
                f"{self.name}: {part}/{name} has shape {list(shape)}, {ndim} positive sides are expected."
            )
        return shape

    def _encoder_shape(self, part: str, given: Mapping[str, Any]) -> dict[str, Any]:
        tensors = self.tensors(part)
        width, channels, patch, patch_width = self._shape(tensors, part, "backbone.patch_embed.proj.weight", 4)
        if channels != 3 or patch != patch_width:
            raise CheckpointError(
                f"{self.name}: patch embedding {(width, channels, patch, patch_width)} is not RGB and square."
            )
        tokens = self._shape(tensors, part, "backbone.pos_embed", 3)[1] - 1
        values: dict[str, Any] = {
            "embed_dim": width,
            "patch_size": patch,
            "depth": _count(tensors, r"backbone\.blocks\.(\d+)\.", self.name),
        }
        values |= self._grid(tokens, patch, given)
        levels = self.args.get("motion_feature_levels")
        if isinstance(levels, list):
            values["feature_blocks"] = tuple(levels)
        return values | self._encoder_heads(width, given)

    def _grid(self, tokens: int, patch: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """The native grid: from the crop size if that fits the position table, else as given, else a square."""
        for key in ("motion_crop_resolution", "global_crop_resolution"):
            sides = self.args.get(key)
            if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
                rows, columns = (side // patch for side in sides)
                if rows * columns == tokens:
                    return {"grid": (rows, columns)}
        if "grid" in given:
            return {}  # checked against the position table with the other tensors' shapes
        side = math.isqrt(max(tokens, 0))
        if side < 1 or side * side != tokens:
            raise ConfigError(
                f"{self.name}: the position table has {tokens} patch rows, not a square number, and no crop size in "
                "its configuration fits. Pass config={'grid': (rows, columns)}."
            )
        return {"grid": (side, side)}

    def _encoder_heads(self, width: int, given: Mapping[str, Any]) -> dict[str, Any]:
        arch = self.args.get("arch")
        known_width, heads = ENCODER_ARCHS.get(str(arch), (None, None))
        if heads is not None and known_width in (None, width):
            return {"num_heads": heads}
        if "num_heads" not in given:
            raise ConfigError(
                f"{self.name}: the encoder's head count is unknown: its configuration says arch={arch!r}, "
                f"its tensors are {width} wide. Pass config={{'num_heads': ...}}."
            )
        return {}

    def _encoder_alone(self) -> bool:
        """Whether the file was written by a run without dynamics: it says so, and holds no tensors of them."""
        return self._content.get("motion_loss") == {} and self.args.says_no_dynamics()

    def _variant(self, tensors: Mapping[str, TensorRef], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Levels and switched-off parts of the method; an unknown switch is an error."""
        found = {
            int(match[1])
            for name in tensors
            if (match := re.match(r"(?:motion_blocks|forward_predictor)_([012])\.", name))
        }
        values: dict[str, Any] = {"levels": tuple(level for level in LEVELS if level in found) or LEVELS}
        expected = dict(FULL_SWITCHES)
        for field, switches in VARIANT_SWITCHES.items():
            off = all(key in settings and settings[key] == value for key, value in switches.items())
            pattern = _VARIANT_TENSORS.get(field)
            values[field] = not off or bool(pattern and any(re.match(pattern, name) for name in tensors))
            expected |= {} if values[field] else switches
        for key, value in expected.items():
            if key in settings and settings[key] != value:
                raise CheckpointError(
                    f"{self.name} was trained with {key}={settings[key]!r}; only {key}={value!r} is implemented."
                )
        return values

    def _dynamics_shape(self, given: Mapping[str, Any]) -> dict[str, Any]:
        part = "motion_loss"
        tensors = self.tensors(part)
        _, tokens, width = self._shape(tensors, part, "motion_tokens", 3)
        settings = self.args.dynamics() or {}
        values = self._variant(tensors, settings)
        level = values["levels"][-1]
        values |= {
            "motion_dim": width,
            "motion_tokens": tokens,
            "midway_depth": _count(tensors, rf"motion_blocks_{level}\.(\d+)\.", self.name),
            "forward_depth": _count(tensors, rf"forward_predictor_{level}\.(\d+)\.", self.name),
        }
        for ours, theirs in FROM_SETTINGS.items():
            used_with = _USED_WITH.get(ours)
            number: Any = settings.get(theirs)
            unused = used_with and not values[used_with] and theirs not in settings
            usable = is_number(number)
            if unused or (ours in given and not usable):
                continue
            if not usable:
                raise ConfigError(
                    f"{self.name}: its configuration has no usable {theirs} (found {number!r}), and shapes do not "
                    f"show it. Pass config={{'{ours}': ...}}."
                )
            values[ours] = float(number) if ours == "gate_bias" else number
        return values


class Selection(NamedTuple):
    """Some parts of a released file."""

    config: MidwayConfig
    """Of a network of these parts; without dynamics unless they were asked for."""
    filled: list[str]
    """Its fields that came from ``supplied``, since the file leaves them open."""
    refs: dict[str, dict[str, TensorRef]]
    """By part, then by the names of our modules."""


def select_parts(archive: TorchArchive, supplied: Mapping[str, Any], wanted: Sequence[str]) -> Selection:
    """Parts of a file ("teacher", "student", "dynamics"), accounted for tensor by tensor.

    For an encoder alone it does not matter what the file says about dynamics and the other encoder.

    Args:
        archive: on disk or remote; only its structure is read.
        supplied: fields of the configuration that the file may leave open; if it does not, the two must agree.
        wanted: the parts.

    Raises:
        ConfigError, CheckpointError: as :meth:`Parts.config`, and for tensors that do not fit.
    """
    contents = Parts(archive)
    encoder: EncoderName = "teacher" if "teacher" in wanted else "student" if "student" in wanted else contents.encoder
    overrides = None if "dynamics" in wanted else {"dynamics": False}
    config = contents.config(encoder, overrides=overrides, supplied=supplied)
    network = empty_network(MidwayNetwork, config)
    refs = {part: contents.part_refs(network, part) for part in wanted}
    for part, found in refs.items():
        module = network.dynamics if part == "dynamics" else network.encoder
        shapes = {} if module is None else {key: tuple(value.shape) for key, value in module.state_dict().items()}
        described = {key: (ref.shape, ref.dtype) for key, ref in found.items()}
        check_tensors(shapes, described, f"{archive.name}, part {part!r}")
    return Selection(config, sorted(contents.filled), refs)


FROM_SETTINGS = {
    "midway_heads": "num_motion_heads",
    "backward_heads": "num_feature_heads",
    "forward_heads": "num_pred_heads",
    "gate_bias": "gating_bias",
}
"""Field of :class:`MidwayConfig` -> its key in ``midway_model_configs``, for what shapes do not show."""

# A file of a variant may leave out the settings that the variant does not use.
_USED_WITH = {"backward_heads": "backward", "gate_bias": "gating"}


def same(one: Any, other: Any) -> bool:
    """Whether two values of a configuration are equal; JSON has lists where Python has tuples."""
    one, other = (tuple(value) if isinstance(value, list) else value for value in (one, other))
    return bool(one == other)


def _count(tensors: Mapping[str, TensorRef], pattern: str, name: str) -> int:
    """How many blocks match ``pattern``, whose group is the block index; a gap is an error."""
    found = {match[1] for tensor in tensors if (match := re.match(pattern, tensor))}
    for index in range(len(found)):
        if str(index) not in found:
            kind = pattern.replace("\\", "").replace("(d+)", str(index))
            raise CheckpointError(f"{name}: it holds {len(found)} blocks, but {kind}* is missing.")
    return len(found)


def _nearest_architecture(values: Mapping[str, Any]) -> MidwayConfig:
    """The registered architecture of these shapes; ViT-S, reshaped, for any other."""
    for config in ARCHITECTURES.values():
        if all(getattr(config, key) == values[key] for key in ("embed_dim", "patch_size", "depth") if key in values):
            return config
    return ARCHITECTURES["midway_vits"]


def checkpoint_summary(archive: TorchArchive) -> dict[str, Any]:
    """What a released file says about itself, without reading tensors: epoch, architecture, training data."""
    parts = Parts(archive)
    epoch = archive.content.get("epoch")
    return {
        "epoch": epoch if isinstance(epoch, int) else None,
        "arch": parts.args.get("arch"),
        "dataset": parts.args.get("dataset"),
    }
