"""Networks from paths: released files, files and folders of this package, and the runs of its trainer."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import (
    CheckpointError,
    ConfigError,
    InputTypeError,
    MissingFileError,
    SingleEncoderError,
    WeightsUnavailableError,
)
from midway_zoo.models.network import MidwayNetwork, flow_fields, with_flow_head
from midway_zoo.names import list_models
from midway_zoo.reading import read_safetensors
from midway_zoo.storage import WEIGHTS, EncoderName, load_file, load_folder

_logger = logging.getLogger(__name__)
_WEIGHTS, _STATE, _BEST = "model.safetensors", "state.json", "best.json"


def checkpoint_folder(path: Path) -> Path | None:
    """The checkpoint folder that a path stands for, or None if it does not belong to a run.

    A checkpoint folder stands for itself, a run folder for its newest checkpoint, ``best.json`` in a run folder for the
    one that validated best.

    Raises:
        CheckpointError: if ``best.json`` cannot be read or its checkpoint is missing.
    """
    if path.name == _BEST and path.is_file():
        return _best(path)
    if (path / _STATE).is_file() and (path / _WEIGHTS).is_file():
        return path
    steps = sorted(state.parent for state in path.glob(f"checkpoints/step_*/{_STATE}"))
    return steps[-1] if steps else None


def _best(file: Path) -> Path:
    try:
        step = int(json.loads(file.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not readable ({error}); pass the run folder itself.") from error
    folder = file.parent / "checkpoints" / f"step_{step:08d}"
    if not (folder / _STATE).is_file():
        raise CheckpointError(f"{file} names step {step}, whose checkpoint is missing; pass the run folder itself.")
    return folder


def load_run(folder: Path, *, encoder: str = "teacher", paired: bool = False) -> MidwayNetwork:
    """The network of a checkpoint folder, on the CPU, in evaluation mode.

    Args:
        folder: see :func:`checkpoint_folder`.
        encoder: which one, for a run with both encoders.
        paired: keep both encoders.

    Raises:
        CheckpointError: if it is damaged or describes no network.
        SingleEncoderError: for both encoders, or the student, of a run that has the teacher alone.
    """
    facts = _facts(folder)
    config = MidwayConfig.from_dict(facts["network"])
    state = read_safetensors(folder / _WEIGHTS)
    weights = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    trained = facts.get("encoder", "teacher")
    if config.paired and not paired:
        weights, config, trained = _one(weights, encoder), override(config, {"paired": False}), encoder
    elif not config.paired and (paired or encoder != trained):
        wanted = "both" if paired else f"the {encoder}"
        raise SingleEncoderError(f"{folder} holds one encoder, the {trained}; {wanted} is not in it.")
    network = MidwayNetwork(config)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: its weights do not fit its configuration: {error}") from error
    network.provenance = {
        "source": "midway_zoo.train",
        "task": (facts.get("identity") or {}).get("task"),
        "step": facts.get("step"),
        "encoder": "student and teacher" if config.paired else trained,
        "trained_with": facts.get("provenance"),
    }
    _logger.info("%s: step %s", folder, facts.get("step"))
    return network.eval()


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / _STATE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not isinstance(facts.get("network"), dict):
            raise ConfigError("it does not describe its network")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be used ({error}); pass another checkpoint of the run.") from error
    return facts


def _one(weights: Mapping[str, Tensor], encoder: str) -> dict[str, Tensor]:
    """The weights of a paired network with only one of its encoders."""
    kept, dropped = ("target_encoder.", "encoder.") if encoder == "teacher" else ("encoder.", "target_encoder.")
    return {
        ("encoder." + key.removeprefix(kept) if key.startswith(kept) else key): value
        for key, value in weights.items()
        if not key.startswith(dropped)
    }


def load_checkpoint(
    path: str | PathLike[str],
    *,
    encoder: Literal["teacher", "student"] = "teacher",
    paired: bool = False,
    config: Mapping[str, Any] | MidwayConfig | None = None,
) -> MidwayNetwork:
    """A network from a file on disk, read safely: no code in the file is ever run.

    Args:
        path: a released-layout ``.pth`` of any width, grid or token count; a folder or ``.safetensors`` file written
            by this package; or a training run: its folder (for the newest checkpoint), its ``best.json`` (for the
            one that validated best) or one of its ``checkpoints/step_*``.
        encoder: which encoder to use: "teacher", as is usual for self-supervised models, or "student".
        paired: keep both encoders, student for source and teacher for target frames, as in pretraining.
        config: for a ``.pth``: fields of :class:`~midway_zoo.MidwayConfig` that override what is inferred
            (shapes come from tensors, head counts and gate bias from the pickled configuration); with
            ``flow_head`` the network gets a fresh flow head.

    Returns:
        The network on the CPU, in evaluation mode. A ``.pth`` is converted to float32, so that ordinary frames can be
        passed to it; files of this package keep their precision.

    Raises:
        MissingFileError: if there is no such file.
        UnsafeFileError: if a pickle requests anything outside the allow-list.
        CheckpointError: if the file is damaged, or a tensor is missing, unexpected, misshapen or non-finite.
        ConfigError: if the configuration cannot be inferred or contradicts itself.
    """
    if encoder not in ("teacher", "student"):
        raise ConfigError(f'encoder={encoder!r}: "teacher" or "student" is expected.')
    if not isinstance(path, str | PathLike):
        raise InputTypeError(f"load_checkpoint takes a path, not {type(path).__name__}.")
    path = Path(path)
    if not path.exists():
        hint = f" For the zoo's weights of that name use create_model({str(path)!r}, pretrained=True)."
        raise MissingFileError(f"there is no file {path}.{hint if str(path) in list_models() else ''}")
    if (read := _reader(path)) is not None:
        if config is not None:
            raise ConfigError("config= is for released .pth files; a file of this package carries its configuration.")
        return read(encoder=encoder, paired=paired)
    if isinstance(config, MidwayConfig):
        paired = paired or config.paired
        config = {key: value for key, value in config.to_dict().items() if key not in ("encoder", "paired")}
    elif config is not None and (not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config)):
        raise InputTypeError(f"config={config!r}: a mapping of MidwayConfig fields is expected.")
    elif config and "paired" in config:
        raise ConfigError("pass paired= as an argument, not in config=.")
    from midway_zoo.weights.released import load_released  # imported only for pickles

    fields = dict(config or {})
    head = flow_fields(fields)
    return with_flow_head(load_released(path, encoder=encoder, paired=paired, config=fields), head, path.name)


def _reader(path: Path) -> Callable[..., MidwayNetwork] | None:
    """The reader of a file or folder that carries its configuration; None for a released file."""
    run = checkpoint_folder(path)
    if run is not None:
        return partial(load_run, run)
    if path.is_dir():
        return partial(load_folder, MidwayNetwork, path)
    return partial(load_file, MidwayNetwork, path) if path.suffix == ".safetensors" else None


def load_once(path: Path) -> MidwayNetwork:
    """:func:`load_checkpoint`, once per process, and again if the file changes."""
    held = checkpoint_folder(path) or path
    files = [held / WEIGHTS, held] if held.is_dir() else [held]
    return _load_once(path, next((file.stat().st_mtime_ns for file in files if file.exists()), 0))


@lru_cache(maxsize=4)
def _load_once(path: Path, changed_ns: int) -> MidwayNetwork:
    return load_checkpoint(path)


def load_registered(
    name: str,
    entry: Mapping[str, Any],
    *,
    encoder: EncoderName,
    paired: bool = False,
    overrides: Mapping[str, Any] | None = None,
    encoder_alone: bool = False,
) -> MidwayNetwork:
    """The network of a name that :func:`midway_zoo.register_weights` gave a path.

    Args:
        name: for messages.
        entry: what was registered.
        encoder: as for :func:`load_checkpoint`.
        paired: likewise.
        overrides: fields that override what a released file says.
        encoder_alone: read no dynamics, where the file allows it.

    Raises:
        WeightsUnavailableError: if there is no such file.
        ConfigError: for fields of a configuration where the file carries its own.
    """
    path = Path(entry["path"])
    if not path.exists():
        raise WeightsUnavailableError(f"{name}: the file registered for it, {path}, does not exist.")
    if (read := _reader(path)) is not None:
        if overrides or entry.get("config"):
            raise ConfigError(f"{name}: {path} carries its configuration; leave out yours.")
        return read(encoder=encoder, paired=paired)
    from midway_zoo.weights.released import load_released  # imported only for pickles

    fields = {"dynamics": False} if encoder_alone else overrides
    return load_released(path, encoder=encoder, paired=paired, config=fields, supplied=entry.get("config"))
