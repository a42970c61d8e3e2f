"""The dynamics loss against its definition."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import ConfigError
from midway_zoo.train.losses import DynamicsLoss


def test_dynamics_loss() -> None:
    prediction, target = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    predictions, targets = {2: prediction, 0: 3 * target}, {2: target, 0: target}
    total, levels = DynamicsLoss()(predictions, targets)
    cosine = (F.normalize(prediction, dim=-1) * F.normalize(target, dim=-1)).sum(-1)
    torch.testing.assert_close(levels[2], (2 - 2 * cosine).mean())
    torch.testing.assert_close(levels[0], torch.zeros(()), atol=1e-6, rtol=0)
    torch.testing.assert_close(total, levels[2] + levels[0])


def test_levels_are_summed_or_averaged() -> None:
    predictions, targets = ({level: torch.randn(2, 5, 8) for level in (2, 1, 0)} for _ in range(2))
    total, levels = DynamicsLoss()(predictions, targets)
    torch.testing.assert_close(DynamicsLoss(reduction="mean")(predictions, targets)[0], total / 3)
    weighted, _ = DynamicsLoss([1, 0, 2])(predictions, targets)
    torch.testing.assert_close(weighted, levels[2] + 2 * levels[0])
    with pytest.raises(ConfigError, match="one weight"):
        DynamicsLoss([1])(predictions, targets)
