"""Checkpoints of a run: complete or absent, read without executing code, old ones removed."""

import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.files import make_ordinary, write_json

logger = logging.getLogger(__name__)
MODEL, OPTIMIZER, STATE, CONFIG = "model.safetensors", "optimizer.pt", "state.json", "config.yaml"
BEST = "best.json"
_NAME = re.compile(r"step_(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder, ``checkpoints/step_00001000``."""

    path: Path
    step: int
    """Number of optimizer steps done when it was written."""

    def state(self) -> dict[str, Any]:
        """Step, task state and provenance."""
        try:
            loaded = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / STATE} is not readable ({error}); {self._remedy()}") from error
        if not isinstance(loaded, dict) or loaded.get("step") != self.step:
            raise CheckpointError(f"{self.path / STATE} does not say step {self.step}; {self._remedy()}")
        return loaded

    def model(self, renamed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """State of the task's model; ``renamed`` maps names of earlier versions to current ones."""
        try:
            state = load_file(self.path / MODEL)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path / MODEL} is not readable ({error}); {self._remedy()}") from error
        return {(renamed or {}).get(name, name): tensor for name, tensor in state.items()}

    def config(self) -> dict[str, Any]:
        """The configuration of the training run, as nested dicts."""
        try:
            loaded: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(self.path / CONFIG))  # type: ignore[assignment]
        except Exception as error:  # includes PyYAML's own classes, which OmegaConf does not wrap
            raise CheckpointError(f"{self.path / CONFIG} is not readable ({error}); {self._remedy()}") from error
        return loaded

    def optimizer(self) -> dict[str, Any]:
        """State of the optimizer, and of the gradient scaler if there was one."""
        try:
            loaded: dict[str, Any] = torch.load(self.path / OPTIMIZER, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises all kinds of errors for damaged files
            raise CheckpointError(f"{self.path / OPTIMIZER} is not readable ({error}); {self._remedy()}") from error
        return loaded

    def _remedy(self) -> str:
        return f"remove {self.path} to resume from the previous one."


def find_checkpoints(out: Path) -> list[Checkpoint]:
    """Complete checkpoints of a run folder, oldest first."""
    folder = out / "checkpoints"
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / STATE).is_file():
            found.append(Checkpoint(path, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def latest_checkpoint(out: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run folder, or None."""
    found = find_checkpoints(out)
    return found[-1] if found else None


def mark_best(out: Path, figure: str) -> Checkpoint | None:
    """Find the checkpoint with the lowest validation ``figure`` (the first if equal), and name it in best.json.

    Only existing checkpoints are compared; since the best is never pruned, this is the best of the run so far.

    Returns:
        The checkpoint, or None if none has that figure.
    """
    best: tuple[float, Checkpoint, dict[str, Any]] | None = None
    for checkpoint in find_checkpoints(out):
        figures = checkpoint.state().get("validation") or {}
        value = figures.get(figure)
        if value is not None and math.isfinite(value) and (best is None or value < best[0]):
            best = value, checkpoint, figures
    if best is None:
        return None
    written = {"step": best[1].step, "by": figure, "validation": best[2]}
    write_json(out / BEST, written, overwrite=True)
    return best[1]


def best_checkpoint(out: Path) -> Checkpoint | None:
    """The checkpoint that best.json names, or None if there is none, or it no longer exists."""
    try:
        step = json.loads((out / BEST).read_text(encoding="utf-8"))["step"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{out / BEST} is not readable ({error}); remove it.") from error
    return next((checkpoint for checkpoint in find_checkpoints(out) if checkpoint.step == step), None)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint folder, whatever its name."""
    try:
        step = int(json.loads((path / STATE).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE} is not readable ({error}); is it a checkpoint of a run?") from error
    return Checkpoint(path, step)


def save_checkpoint(
    out: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: Mapping[str, Any],
    config: str,
) -> Checkpoint:
    """Write a checkpoint under a temporary name, then rename it: the old ones survive a kill at any moment."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=folder))
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.items()}, temporary / MODEL)
        torch.save(dict(optimizer), temporary / OPTIMIZER)
        (temporary / CONFIG).write_text(config, encoding="utf-8")
        (temporary / STATE).write_text(json.dumps({"step": step, **state}, indent=2) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            make_ordinary(path, 0o777 if path == temporary else 0o666)  # safetensors' are readable by their owner only
            _sync(path)
        if final.exists():  # the same step, written before the run was resumed from an earlier one
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("saved %s", final)
    return Checkpoint(final, step)


def prune_checkpoints(out: Path, *, keep_last: int, keep_every: int | None, keep: frozenset[int] = frozenset()) -> None:
    """Remove checkpoints that are neither among the newest, nor multiples of ``keep_every``, nor in ``keep``, and the
    remains of interrupted writes."""
    found = find_checkpoints(out)
    for checkpoint in found[:-keep_last]:
        if checkpoint.step in keep or (keep_every and checkpoint.step % keep_every == 0):
            continue
        # Renamed first, so that a kill in between leaves no incomplete checkpoint under a valid name.
        doomed = checkpoint.path.with_name(f".{checkpoint.path.name}.part")
        checkpoint.path.rename(doomed)
    for remains in (out / "checkpoints").glob(".step_*.part"):
        shutil.rmtree(remains, ignore_errors=True)


def check_same_run(checkpoint: Checkpoint, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` for the first setting in which a checkpoint and the current run differ."""
    for key, before, now in differences(theirs, ours):
        if key == "data":
            raise ConfigError(
                f"the data changed since {checkpoint.path}: the run would not be the same. Restore the index "
                f"file, or start another run with a new out= and init_from={checkpoint.path}."
            )
        raise ConfigError(
            f"{checkpoint.path} was trained with {key}={before}, not {now}: the run would not be the same. "
            f"Resume with {key}={before}, or start another with a new out= and init_from={checkpoint.path}."
        )


def differences(theirs: Any, ours: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, their value, our value) wherever two nested mappings differ; keys of only one of them are
    ignored."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for name in (name for name in theirs if name in ours):
            yield from differences(theirs[name], ours[name], f"{key}.{name}" if key else name)
    elif theirs != ours:
        yield key, theirs, ours


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def run_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint that ``path`` names: a checkpoint folder, best.json, or the newest of a run folder; else None."""
    if path.name == BEST and path.is_file():
        return best_checkpoint(path.parent)
    if (path / MODEL).is_file() and (path / STATE).is_file():
        return open_checkpoint(path)
    return latest_checkpoint(path) if path.is_dir() else None
