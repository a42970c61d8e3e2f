"""The head of a segmentation run as a file of its own, beside the network it belongs to."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from midway_zoo.errors import CheckpointError, MissingFileError
from midway_zoo.files import METADATA_KEY
from midway_zoo.train.checkpoints import open_checkpoint

HEAD = "segmentation_head.safetensors"
"""Tensors "head.weight" (K, parts * D, 1, 1) and "head.bias" (K,) of the convolution, "mean" and "std" (parts * D,) of
what it reads; metadata "features" (``FeaturesConfig``), "classes" and
"names"."""


def segmentation_head(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and metadata of the head in a run's checkpoint; None if the run had none."""
    read = open_checkpoint(checkpoint)
    described = read.state().get("segmentation")
    if described is None:
        return None
    tensors = {key: value for key, value in read.model().items() if not key.startswith("network.")}
    return tensors, described


def load_segmentation(folder: str | Path) -> Any:
    """The :class:`~midway_zoo.train.tasks.segmentation.model.SegmentationModel` of an export, in evaluation mode.

    Raises:
        MissingFileError: if the folder holds no network, or no head.
        CheckpointError: if one is damaged.
    """
    from midway_zoo.train.tasks.segmentation.config import FeaturesConfig
    from midway_zoo.train.tasks.segmentation.model import SegmentationModel
    from midway_zoo.weights.registry import load_checkpoint

    path = Path(folder) / HEAD
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: export a run of `midway-zoo train segmentation`.")
    network = load_checkpoint(folder)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()[METADATA_KEY])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = SegmentationModel(network, FeaturesConfig(**described["features"]), described["classes"])
        if {key for key in model.state_dict() if not key.startswith("network.")} != state.keys():
            raise CheckpointError(f"{path} is no head of this network: it holds {', '.join(state)}.")
        model.load_state_dict(model.state_dict() | state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no head of this network: {error}") from error
    return model.eval()


def head_facts(features: Any, classes: int, names: list[str] | None) -> dict[str, Any]:
    """What a checkpoint says about its head."""
    return {"features": asdict(features), "classes": classes, "names": names}
