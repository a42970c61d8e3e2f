"""Files as the authors' loop leaves them, down to the pickle's names and the order of the zip.

The loop saves state dicts (ordered, with ``_metadata``), an optimizer whose groups hold NumPy scalars, a loss scaler's
state and hydra's configuration, with torch 2.2 and NumPy 1.26: protocol 2, storages in text order, no record of
alignment. torch and NumPy of today write other names and another order, so the zip is written again here.
"""

import argparse
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SCALARS = {1: b"cnumpy.core.multiarray\nscalar\n", 2: b"cnumpy._core.multiarray\nscalar\n"}
GRAD_SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 7,
}


def state_dict(tensors: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """As ``Module.state_dict`` gives it: ordered, with the versions of all modules in ``_metadata``."""
    state = OrderedDict(tensors)
    modules = {""} | {name.rpartition(".")[0] for name in tensors}
    state._metadata = OrderedDict((name, {"version": 1}) for name in sorted(modules))  # type: ignore[attr-defined]
    return state


def adamw(parameters: list[Tensor], *, moments: bool = True) -> dict[str, Any]:
    """The state of an AdamW that trains ``parameters``, in the loop's two groups, its settings out of schedule arrays.

    Args:
        parameters: the trained tensors.
        moments: False leaves out what makes the state twice their size.
    """
    order = sorted(range(len(parameters)), key=lambda index: parameters[index].ndim < 2)
    state: dict[int, dict[str, Tensor]] = {}
    for place, index in enumerate(order):
        tensor = parameters[index]
        state[place] = {"step": torch.tensor(1000.0)}
        if moments:
            state[place] |= {"exp_avg": 0.01 * tensor, "exp_avg_sq": tensor * tensor}
    matrices = sum(tensor.ndim >= 2 for tensor in parameters)
    rates, decays = np.linspace(5e-4, 1e-6, 7), np.linspace(0.04, 0.4, 7)
    fixed = {"betas": (0.9, 0.999), "eps": 1e-08}
    switches = {"amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False}
    groups = [
        {"lr": rates[3], **fixed, "weight_decay": decays[3], **switches, "params": list(range(matrices))},
        {"lr": rates[3], **fixed, "weight_decay": 0.0, **switches, "params": list(range(matrices, len(order)))},
    ]
    return {"state": state, "param_groups": [{**group, "fused": None} for group in groups]}


def as_trained(checkpoint: Mapping[str, Any], *, moments: bool = False) -> dict[str, Any]:
    """A checkpoint of plain dicts of tensors in the structure of the loop, with an optimizer if it has none."""
    parts = {key: state_dict(checkpoint[key]) for key in ("student", "teacher", "dino_loss", "motion_loss")}
    trained = [*parts["student"].values(), *(v for name, v in parts["motion_loss"].items() if "teacher" not in name)]
    return {
        "student": parts["student"],
        "teacher": parts["teacher"],
        "optimizer": checkpoint.get("optimizer") or adamw(trained, moments=moments),
        "epoch": checkpoint["epoch"],
        "args": checkpoint["args"],
        "fp16_scaler": GRAD_SCALER,
        "dino_loss": parts["dino_loss"],
        "motion_loss": parts["motion_loss"],
    }


def namespace(values: Mapping[str, Any]) -> argparse.Namespace:
    """A configuration as argparse leaves it, with plain containers inside."""
    return argparse.Namespace(**values)


def save(content: Any, path: Path, *, numpy: int = 1) -> None:
    """Write ``content`` as torch 2.2.0 does, naming NumPy's scalars as NumPy 1 or 2 does."""
    modern = path.with_name(f".{path.name}.modern")
    torch.save(content, modern)
    try:
        with zipfile.ZipFile(modern) as source, zipfile.ZipFile(path, "w") as target:
            rewrite(source, target, path.stem, numpy)
    finally:
        modern.unlink()


def rewrite(source: zipfile.ZipFile, target: zipfile.ZipFile, top: str, numpy: int) -> None:
    """The entries of torch 2.2 in its order, under the folder ``top``."""
    entries = {info.filename.partition("/")[2]: info for info in source.infolist()}
    storages = sorted(name for name in entries if name.startswith("data/"))  # text: data/0, data/1, data/10, data/100
    for name in ("data.pkl", "byteorder", *storages, "version", ".data/serialization_id"):
        content = source.read(entries[name])
        if name == "data.pkl":
            content = content.replace(_SCALARS[3 - numpy], _SCALARS[numpy])
        target.writestr(zipfile.ZipInfo(f"{top}/{name}"), content)
