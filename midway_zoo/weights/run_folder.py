"""Networks from the folders of training runs, as they lie: ``RUN/checkpoints/step_*`` with weights and state."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import CheckpointError, ConfigError, SingleEncoderError
from midway_zoo.files import read_safetensors
from midway_zoo.models.network import MidwayNetwork

_logger = logging.getLogger(__name__)
_WEIGHTS, _STATE, _BEST = "model.safetensors", "state.json", "best.json"


def checkpoint_folder(path: Path) -> Path | None:
    """The checkpoint that a path means, or None if it is nothing of a run.

    A checkpoint folder means itself, a run folder its newest checkpoint, ``best.json`` in a run folder the one that
    validated best.

    Raises:
        CheckpointError: if ``best.json`` cannot be read or names none that is there.
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
        raise CheckpointError(f"{file} names step {step}, of which there is no checkpoint; pass the run folder itself.")
    return folder


def load_run(folder: Path, *, encoder: str = "teacher", paired: bool = False) -> MidwayNetwork:
    """The network of a checkpoint folder, on the CPU, in evaluation mode.

    Args:
        folder: see :func:`checkpoint_folder`.
        encoder: of a run with both encoders: which one.
        paired: both encoders.

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
        raise SingleEncoderError(f"{folder} holds one encoder, the {trained}; {wanted} cannot be had from it.")
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
    """A paired network's weights with one of its encoders."""
    kept, dropped = ("target_encoder.", "encoder.") if encoder == "teacher" else ("encoder.", "target_encoder.")
    return {
        ("encoder." + key.removeprefix(kept) if key.startswith(kept) else key): value
        for key, value in weights.items()
        if not key.startswith(dropped)
    }
