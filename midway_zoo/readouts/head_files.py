"""Read-outs as written by ``midway-zoo train export``: a head beside its backbone."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor

from midway_zoo.errors import CheckpointError, MissingFileError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import METADATA_KEY, stand_in
from midway_zoo.readouts.backbone import TIMM, Backbone
from midway_zoo.weights.checkpoint import load_checkpoint


def read_exported(
    path: str | PathLike[str], head: str, backbone: str, task: str
) -> tuple[MidwayNetwork | Backbone, dict[str, Any], dict[str, Tensor], str]:
    """Read the backbone, the description of the head, the head's tensors, and the head's path for messages.

    Args:
        path: the exported folder.
        head: name of the head's file in it.
        backbone: name of the file with the weights of a ViT of timm; a Midway network is a checkpoint in the folder.
        task: name of the training task, for messages.

    Raises:
        MissingFileError: if the folder holds no head, or no backbone.
        CheckpointError: if one is damaged.
    """
    folder = Path(path)
    file = folder / head
    if not file.is_file():
        raise MissingFileError(f"there is no {file}: export a run of `midway-zoo train {task}`.")
    described, state = _read(file, task)
    name = described.get("backbone")
    if name is None:
        return load_checkpoint(folder), described, state, str(file)
    weights = folder / backbone
    if not weights.is_file():
        raise MissingFileError(f"there is no {weights}, the backbone of {file}: export the run again.")
    return timm_backbone(name, _read(weights, task)[1], str(weights)), described, state, str(file)


def _read(path: Path, task: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[METADATA_KEY])
            return described, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        problem = stand_in(path) or f"is not a head or backbone of a {task} run: {error}. Export the run again."
        raise CheckpointError(f"{path} {problem}") from error


def timm_backbone(name: str, weights: Mapping[str, Tensor], origin: str) -> Backbone:
    """A ViT of timm with these weights; nothing is fetched.

    Raises:
        CheckpointError: if this version of timm has no such model, or the weights do not fit.
    """
    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        raise CheckpointError(f"{origin} belongs to timm's {plain!r}, which timm {timm.__version__} does not have.")
    vit = timm.create_model(plain, pretrained=False, num_classes=0, dynamic_img_size=True)
    try:
        vit.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{origin} is not a {plain}: {' '.join(str(error).split())[:300]}") from error
    return Backbone(vit, name=TIMM + plain).eval()
