"""One pair from its files: uint8 images, flow with NaN wherever it cannot be trusted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.flow import read_flow
from midway_zoo.inference.images import read_image
from midway_zoo.results import _ShapeRepr
from midway_zoo.train.data.flow.entries import FlowEntry

LONGEST = 1e4
"""Longer vectors, in pixels, are errors of rendering (FlyingThings3D has some); CroCo v2 leaves them out too."""
_TARTANAIR_CUT_OFF = 200  # lower values of its masks: occluded or out of the picture


@dataclass(frozen=True, repr=False, eq=False)
class FlowSample(_ShapeRepr):
    """One pair."""

    source: Tensor
    """uint8 (3, H, W), RGB."""
    target: Tensor
    """As ``source``."""
    flow: Tensor | None
    """float32 (2, H, W), pixels, source to target, channel 0 = x to the right, 1 = y down; both NaN where invalid.
    None where it is not published."""
    occlusion: Tensor | None = None
    """bool (H, W): the source pixel is not seen in the target; None where it is not known or was not asked for."""

    def tensors(self) -> dict[str, Tensor]:
        """``source``, ``target`` and ``flow``, for a batch."""
        assert self.flow is not None
        return {"source": self.source, "target": self.target, "flow": self.flow}


def read_sample(entry: FlowEntry, *, occlusion: bool = False) -> FlowSample:
    """Read the files of one pair.

    Vectors with a component that is not finite, of 10 000 pixels and more, or that the data set's mask excludes become
    NaN. Of flow at twice the images' resolution (Spring, whose values are in pixels of the images) every second row and
    column is taken, as its authors do: a mean of four vectors would invent motion at edges.

    Args:
        entry: from one of the lists.
        occlusion: read that too, where there is one.

    Raises:
        MissingFileError: if a file is gone.
        InputError: if one cannot be read, or sizes do not fit.
        MissingExtraError: for Spring without h5py.
    """
    source, target = read_image(entry.source), read_image(entry.target)
    if source.shape != target.shape:
        raise InputError(f"{entry.source} and {entry.target} differ in size: {_size(source)} and {_size(target)}.")
    flow = None if entry.flow is None else _flow(entry, source)
    hidden = None
    if occlusion and entry.occlusion is not None:
        hidden = _occlusion(entry, source)
    return FlowSample(source, target, flow, hidden)


def _flow(entry: FlowEntry, image: Tensor) -> Tensor:
    assert entry.flow is not None
    flow = read_flow(entry.flow)
    if entry.kind == "doubled":
        flow = flow[:, ::2, ::2].contiguous()
    _check_size(entry.flow, flow, image)
    valid = torch.hypot(flow[0], flow[1]) < LONGEST  # false for NaN and infinity
    if entry.mask is not None:
        valid &= ~_invalid(entry.mask, image)
    return flow.where(valid, float("nan"))


def _invalid(path: Path, image: Tensor) -> Tensor:
    if path.suffix != ".npy":
        return _marks(path, image)
    try:
        marks = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no mask {path}.") from error
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no readable mask (.npy): {error}.") from error
    if marks.ndim != 2 or marks.dtype != np.uint8:
        raise InputError(f"{path}: {marks.dtype} array of shape {marks.shape}; uint8 (H, W) is expected.")
    mask = torch.from_numpy(marks >= _TARTANAIR_CUT_OFF)
    _check_size(path, mask, image)
    return mask


def _occlusion(entry: FlowEntry, image: Tensor) -> Tensor:
    assert entry.occlusion is not None
    if entry.kind != "sparse":
        return _marks(entry.occlusion, image)
    visible = read_flow(entry.occlusion)  # KITTI: the flow of pixels that are seen in both frames
    _check_size(entry.occlusion, visible, image)
    return visible.isnan().any(dim=0)


def _marks(path: Path, image: Tensor) -> Tensor:
    """Nonzero pixels of an 8-bit picture."""
    try:
        with Image.open(path) as picture:
            marks = torch.from_numpy(np.array(picture.convert("L")) > 0)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no mask {path}.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}.") from error
    _check_size(path, marks, image)
    return marks


def _check_size(path: Path, values: Tensor, image: Tensor) -> None:
    if values.shape[-2:] != image.shape[-2:]:
        raise InputError(f"{path} is {_size(values)}, its image {_size(image)}.")


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"
