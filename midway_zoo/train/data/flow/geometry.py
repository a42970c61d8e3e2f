"""Resizing, flipping and cropping of image pairs together with their flow."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.train.data.flow.reading import FlowSample


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 images (..., 3, H, W) at another (height, width), bilinear, without antialiasing (as OpenCV does)."""
    if images.shape[-2:] == size:
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return resized.reshape(*images.shape[:-2], *size)


def resize_dense(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow (2, H, W) at another (height, width), bilinear, in pixels of that size.

    Whatever an invalid vector has a part in is invalid.
    """
    if flow.shape[-2:] == size:
        return flow
    resized = F.interpolate(flow[None], size=size, mode="bilinear", align_corners=False)[0]
    return resized * _factors(flow, size)


def resize_sparse(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Sparse flow (2, H, W) at another (height, width), in pixels of that size, without interpolation.

    Each valid vector goes to the pixel that its own pixel's centre falls into; of several, the one closest to the
    centre stays. All other pixels are NaN.
    """
    if flow.shape[-2:] == size:
        return flow
    values = (flow * _factors(flow, size)).numpy()
    rows, columns = np.nonzero(~np.isnan(values).any(axis=0))
    exact = [
        (place + 0.5) * new / old - 0.5 for place, new, old in zip((rows, columns), size, flow.shape[1:], strict=True)
    ]
    y, x = (
        np.clip(np.floor(place + 0.5).astype(np.int64), 0, side - 1) for place, side in zip(exact, size, strict=True)
    )
    nearest = np.argsort((exact[0] - y) ** 2 + (exact[1] - x) ** 2, kind="stable")
    _, first = np.unique((y * size[1] + x)[nearest], return_index=True)
    kept = nearest[first]
    result = np.full((2, *size), np.nan, dtype=np.float32)
    result[:, y[kept], x[kept]] = values[:, rows[kept], columns[kept]]
    return torch.from_numpy(result)


def flip(sample: FlowSample, *, horizontal: bool, vertical: bool) -> FlowSample:
    """A pair mirrored left to right, top to bottom, or both; u or v change sign with it."""
    dims = [dim for dim, wanted in ((-1, horizontal), (-2, vertical)) if wanted]
    if not dims:
        return sample
    flow = sample.flow
    if flow is not None:
        signs = flow.new_tensor([-1 if horizontal else 1, -1 if vertical else 1]).view(2, 1, 1)
        flow = flow.flip(dims) * signs
    return FlowSample(sample.source.flip(dims), sample.target.flip(dims), flow)


def crop(sample: FlowSample, y: int, x: int, size: tuple[int, int]) -> FlowSample:
    """The same window (height, width) of both images and the flow, from row ``y`` and column ``x``."""
    rows, columns = slice(y, y + size[0]), slice(x, x + size[1])
    flow = None if sample.flow is None else sample.flow[:, rows, columns]
    return FlowSample(sample.source[:, rows, columns], sample.target[:, rows, columns], flow)


def _factors(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, 1, 1): how much longer u and v become."""
    return flow.new_tensor([size[1] / flow.shape[2], size[0] / flow.shape[1]]).view(2, 1, 1)
