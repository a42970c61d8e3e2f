"""Writing the released checkpoint layout, and reading the parts of it that only training needs.

The inverse of :mod:`midway_zoo.weights.released`: a file written here is read by ``load_checkpoint`` and has
the names that the authors' code loads. This is the only place that writes a pickle, since the layout prescribes one;
everything else is saved as safetensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import CheckpointError, ConfigError, MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.files import atomic
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import check_tensors, empty_network
from midway_zoo.weights.archive import TorchArchive, open_archive
from midway_zoo.weights.pickles import TensorRef
from midway_zoo.weights.released import (
    ENCODER_ARCHS,
    FROM_SETTINGS,
    FULL_SWITCHES,
    VARIANT_SWITCHES,
    Parts,
    released_name,
)

Tensors = Mapping[str, Tensor]

# Our name -> released name, inside a projection head.
_HEAD = {
    **{f"mlp.{layer}.{kind}": f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")},
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}
_GAIN, _DIRECTIONS = "last_layer.parametrizations.weight.original0", "last_layer.parametrizations.weight.original1"

_ENCODER_FIELDS = ("embed_dim", "depth", "num_heads", "patch_size", "grid", "feature_blocks", "paired")

# Not in the layout: timm's name follows from the shapes, and a flow head is trained later.
_ELSEWHERE = {"encoder", "flow_head", "flow_size"}

# What a torch.amp.GradScaler that was never used saves.
_FRESH_SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


def write_released(
    path: Path,
    *,
    config: MidwayConfig,
    student: Tensors,
    teacher: Tensors,
    dynamics: Tensors,
    student_head: Tensors,
    teacher_head: Tensors,
    center: Tensor,
    epoch: int,
    args: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    fp16_scaler: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a training state as a released ``.pth``.

    The structure of the file is read back before it gets its final name: either ``load_checkpoint`` gives a network
    of ``config``, or nothing is written.

    Args:
        path: where to; its folder must exist.
        config: the network's shape. ``paired`` has no effect: the layout holds both encoders.
        student: the student encoder's tensors, by timm's names.
        teacher: the teacher encoder's.
        dynamics: those of :class:`~midway_zoo.models.dynamics.Dynamics`; empty for ``config.dynamics=False``.
        student_head: the student's projection head: ``mlp.{0,2,4}.{weight,bias}`` and the weight-normalised
            ``last_layer.parametrizations.weight.original0`` (gain, (out, 1)) and ``original1`` ((out, bottleneck)).
        teacher_head: the teacher's.
        center: (1, out), of the invariance objective.
        epoch: how many epochs are done.
        args: the run's configuration in plain values. What describes the architecture is set from ``config``.
        optimizer: AdamW's state dict; None writes an empty one, from which a run cannot be resumed.
        fp16_scaler: the loss scaler's state dict; None writes the state of a fresh one.
        overwrite: replace an existing file.

    Raises:
        CheckpointError: if a tensor is missing, unexpected or of another shape than ``config`` says.
        ConfigError: if the layout cannot express ``config``.
        OutputExistsError: if ``path`` exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
        MissingExtraError: without OmegaConf, whose type the layout's ``args`` has.
    """
    _check_network(config, student, teacher, dynamics)
    for name, head in (("student_head", student_head), ("teacher_head", teacher_head)):
        _check_head(name, head, config.embed_dim, center)
    content = {
        "student": _named(student, "module.backbone.") | _named_head(student_head, "module.dino_head."),
        "teacher": _named(teacher, "backbone.") | _named_head(teacher_head, "dino_head."),
        "optimizer": dict(optimizer) if optimizer is not None else {"state": {}, "param_groups": []},
        "epoch": epoch,
        "args": _dict_config({**args, "out_dim": center.shape[1], **released_args(config, args)}),
        "fp16_scaler": dict(_FRESH_SCALER if fp16_scaler is None else fp16_scaler),
        "dino_loss": {"center": _own(center)},
        "motion_loss": {f"module.{released_name(name)}": _own(value) for name, value in dynamics.items()},
    }
    with atomic(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as file:
            torch.save(content, file)
        _check_written(temporary, path.name, config)


def released_args(config: MidwayConfig, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The part of a released run's configuration that describes the architecture, in plain values.

    Args:
        config: the network's shape.
        args: a configuration whose further ``midway_model_configs`` are kept.

    Raises:
        ConfigError: for an encoder that the layout has no name for, or forward dynamics that attend by place.
    """
    if config.forward_places:
        raise ConfigError("forward_places=True has no place in the released layout; export with --layout zoo.")
    values: dict[str, Any] = {
        "arch": _arch(config),
        "patch_size": config.patch_size,
        "num_register_tokens": 0,
        "motion_feature_levels": list(config.feature_blocks),
        "motion_crop_resolution": list(config.img_size),
    }
    if not config.dynamics:
        return {**values, "midway_model_configs": None}
    settings = {
        "train_lateral": True,
        **((args or {}).get("midway_model_configs") or {}),
        **FULL_SWITCHES,
        **{theirs: getattr(config, ours) for ours, theirs in FROM_SETTINGS.items()},
        "motion_dim": config.motion_dim,
        "motion_tokens": config.motion_tokens,
        "motion_depth": config.midway_depth,
        "predictor_depth": config.forward_depth,
    }
    for field, switches in VARIANT_SWITCHES.items():
        settings |= {} if getattr(config, field) else switches
    return {**values, "midway_model_configs": settings}


def read_head(path: Path, side: Literal["student", "teacher"] = "student") -> dict[str, Tensor]:
    """The projection head of one encoder, by the names that :func:`write_released` takes.

    Raises:
        MissingFileError, UnsafeFileError, CheckpointError: as ``load_checkpoint`` does.
    """
    with open_archive(path) as archive:
        tensors = Parts(archive).all_tensors(side)
        found = {name.removeprefix("dino_head."): ref for name, ref in tensors.items() if name.startswith("dino_head.")}
        _check_names(f"{path.name}: part {side!r}, projection head", set(_HEAD.values()), set(found))
        return {ours: _read(archive, found[theirs], f"{side}/dino_head.{theirs}") for ours, theirs in _HEAD.items()}


def read_center(path: Path) -> Tensor:
    """The center (1, out) of the invariance objective.

    Raises:
        MissingFileError, UnsafeFileError, CheckpointError: as ``load_checkpoint`` does.
    """
    with open_archive(path) as archive:
        tensors = Parts(archive).all_tensors("dino_loss")
        _check_names(f"{path.name}: part 'dino_loss'", {"center"}, set(tensors))
        return _read(archive, tensors["center"], "dino_loss/center")


def _read(archive: TorchArchive, ref: TensorRef, name: str) -> Tensor:
    tensor = archive.read(ref)
    if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{archive.name}: tensor {name} is not floating point or holds NaN or infinity; the training diverged or "
            "the file is damaged."
        )
    return tensor


def _arch(config: MidwayConfig) -> str:
    for arch, (width, heads) in ENCODER_ARCHS.items():
        if width == config.embed_dim and heads == config.num_heads:
            return arch
    # The authors' name for anything small.
    if config.num_heads == ENCODER_ARCHS["vit_nano"][1]:
        return "vit_nano"
    raise ConfigError(
        f"the released layout has no name for an encoder of width {config.embed_dim} with {config.num_heads} heads; "
        "choose num_heads=3, or save_pretrained, which keeps any configuration."
    )


def _dict_config(values: Mapping[str, Any]) -> Any:
    try:
        from omegaconf import OmegaConf
    except ImportError as error:
        raise MissingExtraError(f"writing a released .pth needs OmegaConf: {install_command('train')}") from error
    return OmegaConf.create(dict(values))


def _own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, alone in its storage: torch.save writes whole storages."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _named(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": _own(value) for name, value in tensors.items()}


def _named_head(head: Tensors, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{theirs}": _own(head[ours]) for ours, theirs in _HEAD.items()}


def _check_network(config: MidwayConfig, student: Tensors, teacher: Tensors, dynamics: Tensors) -> None:
    rooms: dict[str, dict[str, tuple[int, ...]]] = {"encoder": {}, "dynamics": {}}
    for name, value in empty_network(MidwayNetwork, config).state_dict().items():
        room, _, inner = name.partition(".")
        if room in rooms:
            rooms[room][inner] = tuple(value.shape)
    for name, tensors, expected in (
        ("student", student, rooms["encoder"]),
        ("teacher", teacher, rooms["encoder"]),
        ("dynamics", dynamics, rooms["dynamics"]),
    ):
        check_tensors(expected, {key: (tuple(value.shape), value.dtype) for key, value in tensors.items()}, name)


def _check_head(name: str, head: Tensors, width: int, center: Tensor) -> None:
    _check_names(name, set(_HEAD), set(head))
    hidden, out = head["mlp.0.weight"].shape[0], head[_GAIN].shape[0]
    bottleneck = head["mlp.4.weight"].shape[0]
    expected = {
        "mlp.0.weight": (hidden, width),
        "mlp.0.bias": (hidden,),
        "mlp.2.weight": (hidden, hidden),
        "mlp.2.bias": (hidden,),
        "mlp.4.weight": (bottleneck, hidden),
        "mlp.4.bias": (bottleneck,),
        _GAIN: (out, 1),
        _DIRECTIONS: (out, bottleneck),
    }
    check_tensors(expected, {key: (tuple(value.shape), value.dtype) for key, value in head.items()}, name)
    check_tensors({"center": (1, out)}, {"center": (tuple(center.shape), center.dtype)}, f"center ({name})")


def _check_names(where: str, expected: set[str], found: set[str]) -> None:
    for kind, names in (("misses", expected - found), ("has unexpected", found - expected)):
        if names:
            raise CheckpointError(f"{where} {kind} {len(names)} tensor(s): {', '.join(sorted(names)[:4])}.")


def _check_written(temporary: Path, name: str, config: MidwayConfig) -> None:
    """Whether the reader sees ``config`` in the file, and finds every tensor of its network."""
    with open_archive(temporary) as archive:
        archive.name = name
        parts = Parts(archive)
        found = parts.config("student", paired=config.paired)
        wanted, seen = config.to_dict(), found.to_dict()
        # The file of an encoder alone says nothing about dynamics.
        told = {"dynamics", *_ENCODER_FIELDS} if not config.dynamics else wanted.keys() - _ELSEWHERE
        different = [key for key in wanted if key in told and wanted[key] != seen[key]]
        if different:
            values = ", ".join(f"{key}={wanted[key]!r} (it would be read as {seen[key]!r})" for key in different)
            raise ConfigError(f"{name}: the released layout cannot express {values}; save_pretrained keeps it.")
        parts.network_refs(empty_network(MidwayNetwork, found), "student")
