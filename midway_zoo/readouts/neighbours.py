"""k-nearest-neighbour classification of frozen features, as DINO evaluates them (Wu et al. 2018; Caron et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def knn_votes(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    k: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
) -> dict[int, Tensor]:
    """Class scores of queries from their nearest labelled neighbours.

    Each of the k features with the highest cosine votes for its class with weight exp(cosine / temperature).

    Args:
        features: (N, D) of the labelled set, of any norm (they are normalised here).
        labels: (N,) int64 in [0, num_classes).
        queries: (Q, D).
        num_classes: K.
        k: numbers of neighbours; each gives one result, and numbers above N mean all neighbours.
        temperature: temperature of the votes.
        chunk: queries processed at once; memory grows with chunk * N.

    Returns:
        k -> scores (Q, K), float32, each row summing to 1.

    Raises:
        InputError: if shapes do not fit together, a label is not a class, or a number is not positive.
    """
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1] or not len(features):
        raise InputError(
            f"features {tuple(features.shape)} and queries {tuple(queries.shape)} must be (N, D) and (Q, D), N above 0."
        )
    if labels.shape != features.shape[:1] or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(f"labels {tuple(labels.shape)}: one per feature, from 0 to {num_classes - 1}, is expected.")
    if not k or min(k) < 1 or not temperature > 0:
        raise InputError(f"k={list(k)} must be positive integers, and temperature={temperature} above 0.")
    bank = F.normalize(features.float(), dim=1).T.contiguous()
    most = min(max(k), bank.shape[1])
    votes: dict[int, list[Tensor]] = {number: [] for number in k}
    for part in F.normalize(queries.float(), dim=1).split(chunk):
        cosines, nearest = (part @ bank).topk(most, dim=1)
        # The largest cosine is subtracted before the exponential, which does not change the ratios of votes.
        weights = ((cosines - cosines[:, :1]) / temperature).exp()
        classes = labels.to(nearest.device)[nearest]
        for number in k:
            first = min(number, most)
            scores = part.new_zeros(len(part), num_classes).scatter_add_(1, classes[:, :first], weights[:, :first])
            votes[number].append(scores / scores.sum(1, keepdim=True))
    return {number: torch.cat(parts) for number, parts in votes.items()}


def accuracy(scores: Tensor, labels: Tensor, top: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share in [0, 1] of queries whose class is among the highest of scores (Q, K): "top1", "top5"."""
    best = scores.topk(min(max(top), scores.shape[1]), dim=1).indices
    hits = best == labels.to(best.device)[:, None]
    return {f"top{number}": float(hits[:, :number].any(1).float().mean()) for number in top}
