"""What flow fine-tuning minimises: the negative log-likelihood of a Laplace distribution (appendix B.4)."""

import torch
from torch import Tensor

from midway_zoo.models.flow_head import error_scale
from midway_zoo.train.data.flow_pairs import LONGEST


def valid_pixels(flow: Tensor) -> Tensor:
    """Where flow (B, 2, H, W) can be trained on, (B, H, W) bool: finite and shorter than 10 000 pixels."""
    return torch.hypot(flow[:, 0], flow[:, 1]) < LONGEST  # false for NaN and infinity


def flow_loss(output: Tensor, flow: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
    """Mean over valid pixels of (\\|du\\| + \\|dv\\|) / s + ln s, s = :func:`~midway_zoo.models.flow_head.error_scale`.

    Args:
        output: (B, 3, H, W) of :meth:`MidwayNetwork.flow <midway_zoo.MidwayNetwork.flow>`.
        flow: (B, 2, H, W) in pixels; anything that is not valid, NaN included, takes no part.
        pixels: what sums are divided by, where the mean is to be over more than this batch; None: its valid pixels.

    Returns:
        Scalars in float32: "loss", and without gradient "epe", the mean end-point error in pixels. Both are 0, with
        gradients of 0, if nothing is valid.
    """
    output, flow = output.float(), flow.float()
    valid = valid_pixels(flow)
    # Replaced before it is used: a NaN would reach the gradients even of terms that are masked out.
    error = output[:, :2] - torch.where(valid[:, None], flow, 0)
    scale = error_scale(output[:, 2])
    terms = error.abs().sum(dim=1) / scale + scale.log()
    count = (valid.sum() if pixels is None else pixels).clamp(min=1)
    epe = torch.linalg.vector_norm(error.detach(), dim=1)
    return {
        "loss": torch.where(valid, terms, 0).sum() / count,
        "epe": torch.where(valid, epe, 0).sum() / count,
    }
