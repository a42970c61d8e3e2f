"""Where forward and backward flow agree."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError


def consistency_mask(flow: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5) -> Tensor:
    """Pixels that the backward flow brings back to where the forward flow took them from.

    |f(p) + b(p + f(p))|^2 < relative * (|f(p)|^2 + |b(p + f(p))|^2) + absolute, and p + f(p) inside the image: the
    test of Sundaram et al. (ECCV 2010) with its constants. What fails is occluded, leaves the image, or is wrong.

    Args:
        flow: (B, 2, H, W) or (2, H, W) in pixels, from source to target.
        backward: the same shape, from target to source.
        relative: tolerance by squared length.
        absolute: tolerance in squared pixels.

    Returns:
        bool (B, 1, H, W) or (1, H, W) over the source; False where either is NaN.

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
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # From pixel centres to [-1, 1] between the outer edges of the image.
    at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).nan_to_num()
    back = F.grid_sample(backward, at, mode="bilinear", padding_mode="border", align_corners=False)
    apart = (flow + back).square().sum(dim=1)
    allowed = relative * (flow.square().sum(dim=1) + back.square().sum(dim=1)) + absolute
    return (inside & (apart < allowed))[:, None]
