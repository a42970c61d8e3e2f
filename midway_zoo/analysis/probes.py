"""What a linear map can read: ridge regression in closed form, its strength chosen on pairs it was not fitted on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.errors import InputError

MIN_GROUPS = 5
"""Needed to fit, to choose and to test on different ones."""
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


@dataclass(frozen=True)
class Split:
    """Which rows a map is fitted on, which choose its strength, and which the figure comes from."""

    fit: Tensor
    """(n,) bool."""
    choose: Tensor
    """(n,) bool."""
    test: Tensor
    """(n,) bool."""


def split_by(groups: Tensor) -> Split:
    """Seven tenths, a tenth and a fifth of the groups, whole: rows of one group (n,) are never on two sides.

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
    """The map (width, k) that minimises |features @ map - values|^2 + strength |map|^2."""
    if len(features) < features.shape[1]:  # the same map from the smaller of the two systems
        gram = features @ features.T
        return features.T @ torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), values)
    gram = features.T @ features
    return torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), features.T @ values)


def linear_probe(features: Tensor, values: Tensor, split: Split) -> Tensor:
    """Values (m, k) float64 of the test rows as the best linear map of features (n, width) reads them.

    Args:
        features: brought to mean 0 and deviation 1 per column over the rows of ``split.fit``.
        values: (n, k).
        split: of the n rows.
    """
    features, values = features.double(), values.double()
    fitted, mean = features[split.fit], values[split.fit].mean(0)
    features = (features - fitted.mean(0)) / fitted.std(0).clamp(min=1e-6)
    maps = [ridge(features[split.fit], values[split.fit] - mean, strength) for strength in STRENGTHS]
    best = min(maps, key=lambda one: float((features[split.choose] @ one + mean - values[split.choose]).square().sum()))
    return features[split.test] @ best + mean


def explained(found: Tensor, true: Tensor) -> float:
    """R^2: share of the variance of true values (m, k) that found ones explain; 0 is what their mean explains, and
    below that is worse than it."""
    true = true.to(found)
    total = (true - true.mean(0)).square().sum()
    return float(1 - (found - true).square().sum() / total) if float(total) > 0 else float("nan")
