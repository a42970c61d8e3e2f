"""Segmenters on disk: what ``midway-zoo train export`` writes of a segmentation run, and how it is read."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError
from midway_zoo.files import METADATA_KEY, atomic
from midway_zoo.readouts.backbone import TIMM, Backbone
from midway_zoo.readouts.segmentation import Segmenter, SegmenterConfig
from midway_zoo.visualize import label_colours
from midway_zoo.weights.registry import load_checkpoint

HEAD = "segmentation_head.safetensors"
"""Tensors "head.*", and where features are standardised "mean" and "std" (parts * D,); metadata "segmenter"
(:class:`~midway_zoo.readouts.segmentation.SegmenterConfig`) and "backbone", the timm name, null for a Midway network,
which is beside it."""
BACKBONE = "segmentation_backbone.safetensors"
"""The weights of a ViT of timm, where the backbone is one."""
BACKBONE_ROOMS = ("network.", "vit.")
"""What names of a segmenter's tensors that belong to the backbone begin with."""


def load_segmenter(path: str | PathLike[str]) -> Segmenter:
    """The segmenter that ``midway-zoo train export`` wrote, on the CPU, in evaluation mode.

    Args:
        path: its folder.

    Returns:
        A :class:`~midway_zoo.readouts.segmentation.Segmenter`: ``segmenter.predict(images).labels``.

    Raises:
        MissingFileError: if the folder holds no head, or no backbone.
        CheckpointError: if one is damaged, or they do not belong together.
    """
    folder = Path(path)
    file = folder / HEAD
    if not file.is_file():
        raise MissingFileError(f"there is no {file}: export a run of `midway-zoo train segmentation`.")
    described, state = _read(file)
    name = described.get("backbone")
    if name is None:
        return build_segmenter(load_checkpoint(folder), described, state, str(file))
    if not (folder / BACKBONE).is_file():
        raise MissingFileError(f"there is no {folder / BACKBONE}, the backbone of {file}: export the run again.")
    weights = _read(folder / BACKBONE)[1]
    return build_segmenter(timm_backbone(name, weights, str(folder / BACKBONE)), described, state, str(file))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[METADATA_KEY])
            return described, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no head or backbone of a segmenter: {error}. Export the run again."
        ) from error


def timm_backbone(name: str, weights: Mapping[str, Tensor], origin: str) -> Backbone:
    """A ViT of timm with these weights; nothing is fetched.

    Raises:
        CheckpointError: if this timm has no such model, or the weights are not its own.
    """
    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        raise CheckpointError(f"{origin} is of timm's {plain!r}, which timm {timm.__version__} does not have.")
    vit = timm.create_model(plain, pretrained=False, num_classes=0, dynamic_img_size=True)
    try:
        vit.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{origin} is no {plain}: {' '.join(str(error).split())[:300]}") from error
    return Backbone(vit, name=TIMM + plain).eval()


def write_mask(
    path: Path, labels: Tensor, *, palette: Sequence[Sequence[int]] | None = None, overwrite: bool = False
) -> None:
    """Write classes (H, W), 0 to 255, as a PNG whose palette shows their colours and whose indices are the classes."""
    picture = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    picture.putpalette(label_colours(palette).flatten().tolist())
    with atomic(path, overwrite=overwrite) as temporary:
        picture.save(temporary, format="PNG")


def build_segmenter(backbone: Any, described: Mapping[str, Any], state: Mapping[str, Tensor], origin: str) -> Segmenter:
    """A segmenter of a backbone, what is said of the head, and its tensors.

    Raises:
        CheckpointError: if they do not belong together.
    """
    try:
        segmenter = Segmenter(backbone, _config(described))
        own = {key for key in segmenter.state_dict() if not key.startswith(BACKBONE_ROOMS)}
        if own != state.keys():
            wrong = ", ".join(sorted(own ^ state.keys())[:4])
            raise CheckpointError(f"{origin} is no head of this network: {wrong} is missing or too much.")
        segmenter.load_state_dict(segmenter.state_dict() | dict(state))
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{origin} is no head of this network: {error}") from error
    return segmenter.eval()


def _config(described: Mapping[str, Any]) -> SegmenterConfig:
    if "segmenter" in described:
        return SegmenterConfig.from_dict(described["segmenter"])
    # Of the first version: a linear head on standardised features, whose crop was not told.
    features, names = described["features"], described.get("names")
    return SegmenterConfig(
        classes=described["classes"],
        source=features["source"],
        blocks=None if features["blocks"] is None else tuple(features["blocks"]),
        levels=None if features["levels"] is None else tuple(features["levels"]),
        standardise=True,
        names=None if names is None else tuple(names),
    )
