"""A pretraining checkpoint in the authors' ``.pth`` layout."""

from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import open_checkpoint
from midway_zoo.train.export import checkpoint_config
from midway_zoo.weights.released_writer import write_released


def export_released(checkpoint: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Write ``out``, a ``.pth`` that the authors' code and ``load_checkpoint`` read.

    The optimizer's state is left out: its order of parameters is another one.

    Raises:
        ConfigError: if the checkpoint is of another task, has no projection heads, or ``out`` is no ``.pth``.
    """
    if out.suffix != ".pth":
        raise ConfigError(f"the released layout is one file; {out} should end in .pth.")
    read = open_checkpoint(checkpoint)
    facts, state = read.state(), read.model()
    settings = checkpoint_config(checkpoint)
    if facts["identity"]["task"] != "pretrain" or "head.mlp.0.weight" not in state:
        raise ConfigError(f"{checkpoint} holds no projection heads, so it has no released layout; use --layout zoo.")
    write_released(
        out,
        config=MidwayConfig.from_dict(facts["network"]),
        student=_room(state, "network.encoder."),
        teacher=_room(state, "network.target_encoder."),
        dynamics=_room(state, "network.dynamics."),
        student_head=_room(state, "head."),
        teacher_head=_room(state, "teacher_head."),
        center=state["center"],
        epoch=int(read.step / facts["steps_per_epoch"]),
        args=_released_settings(settings),
        overwrite=overwrite,
    )
    return out


def _room(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _released_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Our configuration by the released names, as far as they have one."""
    optim, views, objective, head = config["optim"], config["views"], config["objective"], config["head"]
    return {
        "experiment": "main",
        "out_dim": head["out"],
        "norm_last_layer": head["norm_last_layer"],
        "momentum_teacher": optim["ema_momentum"],
        "use_bn_in_head": False,
        "dino_weight": objective["dino_weight"],
        "warmup_teacher_temp": objective["teacher_temperature"],
        "teacher_temp": objective["teacher_temperature"],
        "warmup_teacher_temp_epochs": 0,
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
