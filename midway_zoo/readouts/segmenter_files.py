"""Segmenters on disk, as written by ``midway-zoo train export``."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.files import atomic
from midway_zoo.readouts.head_files import read_exported
from midway_zoo.readouts.segmentation import Segmenter, SegmenterConfig
from midway_zoo.visualize import label_colours

HEAD = "segmentation_head.safetensors"
"""Tensors "head.*", and for standardised features "mean" and "std" (parts * D,); metadata "segmenter"
(:class:`~midway_zoo.readouts.segmentation.SegmenterConfig`) and "backbone", the timm name, null for a Midway network,
which is stored beside it."""
BACKBONE = "segmentation_backbone.safetensors"
"""The weights of the backbone, if it is a ViT of timm."""
BACKBONE_ROOMS = ("network.", "vit.")
"""Prefixes of a segmenter's tensors that belong to the backbone."""


def load_segmenter(path: str | PathLike[str]) -> Segmenter:
    """Load a segmenter written by ``midway-zoo train export``, on the CPU, in evaluation mode.

    Args:
        path: its folder.

    Returns:
        A :class:`~midway_zoo.readouts.segmentation.Segmenter`: ``segmenter.predict(images).labels``.

    Raises:
        MissingFileError: if the folder holds no head, or no backbone.
        CheckpointError: if one is damaged, or they do not fit together.
    """
    backbone, described, state, file = read_exported(path, HEAD, BACKBONE, "segmentation")
    return build_segmenter(backbone, described, state, file)


def write_mask(
    path: Path, labels: Tensor, *, palette: Sequence[Sequence[int]] | None = None, overwrite: bool = False
) -> None:
    """Write classes (H, W), 0 to 255, as a PNG whose palette shows their colours and whose indices are the classes."""
    picture = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    picture.putpalette(label_colours(palette).flatten().tolist())
    with atomic(path, overwrite=overwrite) as temporary:
        picture.save(temporary, format="PNG")


def build_segmenter(backbone: Any, described: Mapping[str, Any], state: Mapping[str, Tensor], origin: str) -> Segmenter:
    """Build a segmenter from a backbone, a description and the head's tensors; ``origin`` is for messages.

    Raises:
        CheckpointError: if they do not fit together.
    """
    try:
        segmenter = Segmenter(backbone, _config(described))
        own = {key for key in segmenter.state_dict() if not key.startswith(BACKBONE_ROOMS)}
        if own != state.keys():
            wrong = ", ".join(sorted(own ^ state.keys())[:4])
            raise CheckpointError(f"{origin} is not a head of this network: {wrong} is missing or unexpected.")
        segmenter.load_state_dict(segmenter.state_dict() | dict(state))
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{origin} is not a head of this network: {error}") from error
    return segmenter.eval()


def _config(described: Mapping[str, Any]) -> SegmenterConfig:
    if "segmenter" in described:
        return SegmenterConfig.from_dict(described["segmenter"])
    # Files of the first version: a linear head on standardised features, without a crop.
    features, names = described["features"], described.get("names")
    return SegmenterConfig(
        classes=described["classes"],
        source=features["source"],
        blocks=None if features["blocks"] is None else tuple(features["blocks"]),
        levels=None if features["levels"] is None else tuple(features["levels"]),
        standardise=True,
        names=None if names is None else tuple(names),
    )
