"""The dynamics loss, which pretraining minimises and flow fine-tuning may keep beside its own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import ConfigError


class DynamicsLoss(nn.Module):
    """Distance of predictions from the target frame's tokens, over the levels (equation 3).

    Args:
        weights: weights of levels 2, 1, 0, or of as many as there are.
        reduction: "sum" of the levels, as in the released runs, or "mean", as in the paper's equation.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0), reduction: str = "sum") -> None:
        super().__init__()
        self.weights, self.reduction = tuple(weights), reduction

    def forward(
        self, predictions: Mapping[int, Tensor], targets: Mapping[int, Tensor]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """One loss of all levels, and that of each: the mean over batch and tokens of 2 - 2 cos(prediction, target).

        Args:
            predictions: level -> (B, L, D), in the order of the weights.
            targets: level -> (B, L, D); no gradient flows into them.

        Raises:
            ConfigError: if there are more levels than weights.
        """
        levels = {
            level: 2 - 2 * F.cosine_similarity(prediction.float(), targets[level].detach().float(), dim=-1).mean()
            for level, prediction in predictions.items()
        }
        if len(self.weights) < len(levels):
            raise ConfigError(f"weights={list(self.weights)}: one weight for each of {len(levels)} levels is expected.")
        terms = [weight * loss for weight, loss in zip(self.weights[: len(levels)], levels.values(), strict=True)]
        total = torch.stack(terms).sum()
        return (total / len(terms) if self.reduction == "mean" else total), levels
