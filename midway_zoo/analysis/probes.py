"""Linear probes: ridge regression in closed form, with its strength chosen on held-out rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.errors import InputError

MIN_GROUPS = 5
"""Fewest groups for fitting, choosing the strength and testing on different ones."""
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


@dataclass(frozen=True)
class Split:
    """Which rows are for fitting, which for choosing the strength, and which for testing."""

    fit: Tensor
    """(n,) bool."""
    choose: Tensor
    """(n,) bool."""
    test: Tensor
    """(n,) bool."""


def split_by(groups: Tensor) -> Split:
    """Split rows by their groups (n,), 70 % to fit, 10 % to choose, 20 % to test; no group is in two parts.

    Raises:
        InputError: if there are fewer than five groups.
    """
    names = groups.unique()
    if len(names) < MIN_GROUPS:
        raise InputError(f"{len(names)} groups: at least {MIN_GROUPS} are needed to fit, to choose and to test.")
    first, second = max(1, int(0.7 * len(names))), max(2, int(0.8 * len(names)))
    parts = (names[:first], names[first:second], names[second:])
    return Split(*(torch.isin(groups, part) for part in parts))


def ridge(features: Tensor, values: Tensor, strength: float) -> Tensor:
    """The map (width, k) that minimises |features @ map - values|^2 + strength * |map|^2."""
    if len(features) < features.shape[1]:  # the smaller of two systems that give the same map
        gram = features @ features.T
        return features.T @ torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), values)
    gram = features.T @ features
    return torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), features.T @ values)


def linear_probe(features: Tensor, values: Tensor, split: Split) -> Tensor:
    """Predictions (m, k) float64 of the best linear map for the test rows.

    Args:
        features: (n, width); standardised per column with mean and deviation of the rows of ``split.fit``.
        values: (n, k).
        split: parts of the n rows.
    """
    features, values = features.double(), values.double()
    fitted, mean = features[split.fit], values[split.fit].mean(0)
    features = (features - fitted.mean(0)) / fitted.std(0).clamp(min=1e-6)
    maps = [ridge(features[split.fit], values[split.fit] - mean, strength) for strength in STRENGTHS]
    best = min(maps, key=lambda one: float((features[split.choose] @ one + mean - values[split.choose]).square().sum()))
    return features[split.test] @ best + mean


def explained(found: Tensor, true: Tensor) -> float:
    """R^2: share of the variance of the true values (m, k) that the predicted ones explain. 0 is as good as predicting
    the mean; negative values are worse."""
    true = true.to(found)
    total = (true - true.mean(0)).square().sum()
    return float(1 - (found - true).square().sum() / total) if float(total) > 0 else float("nan")
