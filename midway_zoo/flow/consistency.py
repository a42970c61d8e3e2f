"""Where forward and backward flow agree."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError


def consistency_mask(flow: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5) -> Tensor:
    """Pixels that the backward flow brings back to where they started.

    |f(p) + b(p + f(p))|^2 < relative * (|f(p)|^2 + |b(p + f(p))|^2) + absolute, and p + f(p) inside the image: the
    test of Sundaram et al. (ECCV 2010) with its constants. Other pixels are occluded, leave the image, or are wrong.

    Args:
        flow: (B, 2, H, W) or (2, H, W) in pixels, from source to target.
        backward: the same shape, from target to source.
        relative: tolerance by squared length.
        absolute: tolerance in squared pixels.

    Returns:
        bool (B, 1, H, W) or (1, H, W) over the source; False where ``flow`` is NaN, or the nearest pixel of
        ``backward`` is. Next to such a pixel the backward flow is interpolated from its valid neighbours.

    Raises:
        InputError: for other shapes.
    """
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or flow.shape != backward.shape:
        raise InputError(
            f"flow {tuple(flow.shape)} and backward {tuple(backward.shape)}: both (B, 2, H, W) or (2, H, W) expected."
        )
    if flow.ndim == 3:
        return consistency_mask(flow[None], backward[None], relative=relative, absolute=absolute)[0]
    flow, backward = flow.float(), backward.float()
    height, width = flow.shape[2:]
    x, y, at = destinations(flow)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back, seen = _sample_valid(backward, at.nan_to_num())
    nearest = ((x + 0.5).floor().clamp(0, width - 1), (y + 0.5).floor().clamp(0, height - 1))
    column, row = (place.nan_to_num().long() for place in nearest)
    valid = backward.isfinite().all(dim=1)
    seen &= valid.flatten(1).gather(1, (row * width + column).flatten(1)).view_as(valid)
    apart = (flow + back).square().sum(dim=1)
    allowed = relative * (flow.square().sum(dim=1) + back.square().sum(dim=1)) + absolute
    return (inside & seen & (apart < allowed))[:, None]


def destinations(flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x and y (B, H, W) in pixels to which flow (B, 2, H, W) leads, and as (B, H, W, 2) for ``grid_sample``."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    # From pixel centres to [-1, 1] between the outer edges of the image.
    return x, y, torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)


def _sample_valid(flow: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (B, 2, H, W) sampled at (B, H, W, 2) from its valid pixels alone, and where there are any."""
    valid = flow.isfinite().all(dim=1, keepdim=True)
    stacked = torch.cat([flow.where(valid, torch.zeros_like(flow)), valid.to(flow.dtype)], dim=1)
    values = F.grid_sample(stacked, at, mode="bilinear", padding_mode="border", align_corners=False)
    weight = values[:, 2:]
    return values[:, :2] / weight.clamp_min(1e-6), weight[:, 0] > 1e-6
