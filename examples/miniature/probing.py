"""How much of a pair's motion can be read off the motion latent by a linear map, without any training of the network.

The latent is what ``infer_motion_latent`` gives (the network's last level); the motion is the mean of the pair's exact
flow, two numbers. Ridge regression in closed form, on generated pairs that nothing is trained on; its strength is
chosen on a part of them that the figure does not come from.
"""

from collections.abc import Iterator

import rows
import torch
from torch import Tensor
from tracking import AT_ONCE, held_out, scenes

from midway_zoo import infer_motion_latent
from midway_zoo.analysis.probes import STRENGTHS, ridge
from midway_zoo.models.network import MidwayNetwork

_PARTS = (0.7, 0.8)  # the map is fitted on what is below the first, its strength chosen up to the second
_BATCH = 8 * AT_ONCE


def measure(network: MidwayNetwork, budget: rows.Budget) -> dict[str, float]:
    """End-point error in pixels of the mean flow: "epe" of the linear map, "zero_epe" of no motion, and "mean_epe" of
    the mean over the pairs that the map was fitted on, which is what a map on nothing gives."""
    latents, motions = (torch.cat(parts).double() for parts in zip(*_pairs(network, budget), strict=True))
    first, second = (int(len(latents) * part) for part in _PARTS)
    spread = latents[:first].std(0).clamp(min=1e-6)
    features = (latents - latents[:first].mean(0)) / spread
    mean = motions[:first].mean(0)
    fitted = [features @ ridge(features[:first], motions[:first] - mean, one) + mean for one in STRENGTHS]
    best = min(fitted, key=lambda one: error(one[first:second], motions[first:second]))
    test = motions[second:]
    return {
        "epe": error(best[second:], test),
        "zero_epe": error(torch.zeros_like(test), test),
        "mean_epe": error(mean.expand_as(test), test),
        "pairs": len(test),
    }


def error(found: Tensor, true: Tensor) -> float:
    """Mean distance of vectors (n, 2)."""
    return float(torch.linalg.vector_norm(found - true, dim=1).mean())


def _pairs(network: MidwayNetwork, budget: rows.Budget) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents (B, M * C) and mean flows (B, 2) of held-out pairs."""
    config, _ = scenes(budget)
    for batch in held_out(config, budget.probed, at_once=_BATCH):
        source, target = batch.frames.unbind(1)
        latent = infer_motion_latent(network, source, target, batch_size=_BATCH).tokens
        yield latent.flatten(1).float().cpu(), batch.flow[:, 0].flatten(2).mean(-1).cpu()
