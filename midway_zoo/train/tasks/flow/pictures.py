"""What a person looks at while a run goes: a pair, its flow, and what the network makes of it."""

import torch
from torch import Tensor

from midway_zoo.visualize import flow_to_image


def draw_pictures(source: Tensor, target: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """Source and target above true and predicted flow, uint8 (3, 2 * H, 2 * W).

    Args:
        source: uint8 (3, H, W).
        target: as ``source``.
        truth: (2, H, W) in pixels, NaN where invalid; its longest vector has full colour in both pictures.
        found: (2, H, W).
    """
    length = torch.linalg.vector_norm(truth.float(), dim=0)
    longest = max(float(length.nan_to_num(0, 0, 0).max()), 1.0)
    flows = [flow_to_image(flow.float().cpu(), max_flow=longest) for flow in (truth, found)]
    frames = torch.cat([source.cpu(), target.cpu()], dim=2)
    return torch.cat([frames, torch.cat(flows, dim=2)], dim=1)
