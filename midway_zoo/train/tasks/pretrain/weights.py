"""Weights of pretraining beside the network's: projection heads and center, into a run and in the authors' layout."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import Checkpoint, run_checkpoint
from midway_zoo.train.tasks.pretrain.model import PretrainModel
from midway_zoo.train.weights import check_shapes, load_into, network_from
from midway_zoo.weights.released_writer import read_center, read_head, write_released

logger = logging.getLogger(__name__)
RENAMED = {"center": "dino.center"}
"""Tensors of checkpoints before the losses were modules -> their names now."""


def initialise(model: PretrainModel, source: str) -> None:
    """Copy weights into a fresh model.

    A released ``.pth`` and a run provide everything; a pretrained name or an exported folder provides the network, and
    the projection heads stay fresh.

    Raises:
        MidwayZooError: if the source cannot be read or does not fit.
    """
    load_into(model.network, network_from(source, paired=True), source)
    heads = _heads(Path(source))
    if model.head is None:
        return
    if not heads:
        logger.warning("init_from=%s holds no projection heads: they start fresh", source)
        return
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("network.")}
    check_shapes(state, heads, source)
    model.load_state_dict(model.state_dict() | {key: heads[key] for key in state})


def _heads(path: Path) -> dict[str, Tensor]:
    """Heads and center by our names; empty if the source has none."""
    run = run_checkpoint(path)
    if run is not None:
        heads = {key: value for key, value in run.model(RENAMED).items() if not key.startswith("network.")}
        return heads if "head.mlp.0.weight" in heads else {}  # of another task, or of the dynamics alone
    if path.suffix != ".pth" or not path.is_file():
        return {}
    heads = {f"head.{key}": value for key, value in read_head(path, side="student").items()}
    heads |= {f"teacher_head.{key}": value for key, value in read_head(path, side="teacher").items()}
    return heads | {"dino.center": read_center(path)}


def export_released(checkpoint: Checkpoint, out: Path, *, overwrite: bool = False) -> Path:
    """Write ``out``, a ``.pth`` that the authors' code and ``load_checkpoint`` read.

    The optimizer's state is left out, since its order of parameters differs.

    Raises:
        ConfigError: if the checkpoint has no projection heads, or ``out`` does not end in ``.pth``.
    """
    if out.suffix != ".pth":
        raise ConfigError(f"the released layout is one file; {out} should end in .pth.")
    facts, state = checkpoint.state(), checkpoint.model(RENAMED)
    if "head.mlp.0.weight" not in state:
        raise ConfigError(
            f"{checkpoint.path} holds no projection heads, so it has no released layout; use --layout zoo."
        )
    write_released(
        out,
        config=MidwayConfig.from_dict(facts["network"]),
        student=_room(state, "network.encoder."),
        teacher=_room(state, "network.target_encoder."),
        dynamics=_room(state, "network.dynamics."),
        student_head=_room(state, "head."),
        teacher_head=_room(state, "teacher_head."),
        center=state["dino.center"],
        epoch=int(checkpoint.step / facts["steps_per_epoch"]),
        args=_released_settings(checkpoint.config()),
        overwrite=overwrite,
    )
    return out


def _room(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _released_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Our configuration by the released names, as far as they have one."""
    optim, views, objective, head = config["optim"], config["views"], config["objective"], config["head"]
    start = objective.get("teacher_temperature_start")  # absent in runs of earlier versions
    return {
        "experiment": "main",
        "out_dim": head["out"],
        "norm_last_layer": head["norm_last_layer"],
        "momentum_teacher": optim["ema_momentum"],
        "use_bn_in_head": False,
        "dino_weight": objective["dino_weight"],
        "warmup_teacher_temp": objective["teacher_temperature"] if start is None else start,
        "teacher_temp": objective["teacher_temperature"],
        "warmup_teacher_temp_epochs": 0 if start is None else objective["teacher_temperature_epochs"],
        "use_fp16": config["precision"] == "fp16",
        "weight_decay": optim["weight_decay"],
        "weight_decay_end": optim["weight_decay_end"],
        "clip_grad": optim["clip"] or 0.0,
        "batch_size_per_gpu": config["batch_size"],
        "epochs": config["epochs"],
        "freeze_last_layer": optim["freeze_last_layer_epochs"],
        "lr": optim["base_lr"],
        "warmup_epochs": optim["warmup_epochs"],
        "min_lr": optim["min_lr"],
        "optimizer": "adamw",
        "drop_path_rate": config["network"]["drop_path"],
        "global_crops_scale": list(views["global_area"]),
        "local_crops_number": views["local_crops"],
        "local_crops_scale": list(views["local_area"]),
        "initial_crop_scale": list(views["initial_area"]),
        "global_crop_resolution": [views["global_size"]] * 2,
        "motion_crop_scale": list(views["dynamics_area"]),
        "motion_crop_ratio": list(views["aspect"]),
        "midway_weights": list(objective["dynamics_weights"]),
        "midway_start_epoch": 0,
        "repeat_sample": config["data"]["repeats"],
        "seed": config["seed"],
    }
