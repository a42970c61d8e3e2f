"""The two losses of Midway pretraining: cross-frame DINO and latent dynamics (paper section 3, equation 3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import ConfigError
from midway_zoo.results import DynamicsOutput

GLOBAL_VIEWS = 4
"""x1, x2 of the source frame and y1, y2 of the target frame."""


def pair_mask(views: int, device: torch.device | None = None) -> Tensor:
    """Which (teacher view q, student view v) pairs count: (4, views) float of 0 and 1.

    A view is not compared with itself, nor a global view with the same box of the other frame.
    """
    mask = torch.ones(GLOBAL_VIEWS, views, device=device)
    for q in range(GLOBAL_VIEWS):
        mask[q, q] = 0
        mask[q, (q + 2) % GLOBAL_VIEWS] = 0
    return mask


def dino_loss(
    student: Tensor, teacher: Tensor, center: Tensor, *, student_temperature: float, teacher_temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy between centred, sharpened teacher views and student views, over all counted pairs at once.

    Args:
        student: logits (V, B, K), global views first.
        teacher: logits (4, B, K); no gradient flows into it.
        center: (1, K).
        student_temperature: 0.1 in the released runs.
        teacher_temperature: 0.04 in the released runs.

    Returns:
        The mean over pairs of views and the batch, a scalar; and the mean entropy of the teacher's
        distributions in nats (log K at most), which says whether it collapses.
    """
    student, teacher = student.float(), teacher.detach().float()
    targets = F.softmax((teacher - center) / teacher_temperature, dim=-1)
    scaled = student / student_temperature
    # -sum_k p log softmax(s) = logsumexp(s) - p . s, since p sums to one: no (V, B, K) log-softmax per pair.
    dots = torch.bmm(targets.transpose(0, 1), scaled.permute(1, 2, 0))  # (B, 4, V)
    terms = torch.logsumexp(scaled, dim=-1).transpose(0, 1)[:, None] - dots
    mask = pair_mask(student.shape[0], student.device)
    loss = (terms.mean(0) * mask).sum() / mask.sum()
    entropy = -torch.xlogy(targets, targets).sum(-1).mean()
    return loss, entropy.detach()


def dynamics_losses(output: DynamicsOutput) -> dict[int, Tensor]:
    """Per level the mean over batch and tokens of 2 - 2 cos(prediction, target); targets take no gradient."""
    return {
        level: 2 - 2 * F.cosine_similarity(prediction.float(), output.targets[level].detach().float(), dim=-1).mean()
        for level, prediction in output.predictions.items()
    }


def combine_levels(losses: Mapping[int, Tensor], weights: Sequence[float], reduction: str) -> Tensor:
    """One dynamics loss of all levels; ``weights`` are those of levels 2, 1, 0 (or as many as there are)."""
    if len(weights) < len(losses):
        raise ConfigError(f"dynamics_weights={list(weights)} must have one weight for each of {len(losses)} levels.")
    terms = [weight * loss for weight, loss in zip(weights[: len(losses)], losses.values(), strict=True)]
    total = torch.stack(terms).sum()
    return total / len(terms) if reduction == "mean" else total
