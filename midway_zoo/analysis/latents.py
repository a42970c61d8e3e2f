"""Similarity of motions."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.inference.clips import infer_motion_latents
from midway_zoo.inference.frames import ClipLike
from midway_zoo.inference.images import Size
from midway_zoo.results import MotionLatent, ShapeRepr
from midway_zoo.weights.registry import Model

# A latent nearer to the mean of its clip than this fraction of its norm differs from it only by rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True, repr=False, eq=False)
class ClipSimilarity(ShapeRepr):
    """Similarity of the P motions of a clip."""

    similarity: Tensor
    """(P, P) float32 cosines in [-1, 1]; see :func:`latent_similarity`."""
    latents: MotionLatent
    """Motion latents of the pairs, in order."""
    gap: int
    """Distance from source to target of a pair, in frames taken."""


def clip_similarity(
    model: Model,
    clip: ClipLike,
    *,
    stride: int = 1,
    fps: float | None = None,
    gap: int = 1,
    size: Size = None,
    batch_size: int = 8,
) -> ClipSimilarity:
    """Similarity of the motions along a clip: where it repeats itself, reverses or stands still.

    Args and errors are those of :func:`~midway_zoo.infer_motion_latents`.
    """
    latents = infer_motion_latents(model, clip, stride=stride, fps=fps, gap=gap, size=size, batch_size=batch_size)
    return ClipSimilarity(latent_similarity(latents).cpu(), latents, gap)


def latent_similarity(latents: MotionLatent) -> Tensor:
    """Cosine similarity between every two motion latents, each taken as one vector of all its M * C numbers.

    With more than two latents, their mean is subtracted first: what they share says nothing about how they differ.
    Similar motions of a clip then show as bright blocks, opposite ones as dark blocks.

    Args:
        latents: of B pairs, for example from :func:`~midway_zoo.infer_motion_latents`.

    Returns:
        (B, B) float32 in [-1, 1], symmetric, 1 on the diagonal. A latent equal to the mean has
        similarity 0 with all others.
    """
    unit = F.normalize(centred(latents.tokens), dim=1)
    return (unit @ unit.T).clamp(-1, 1).fill_diagonal_(1)


def centred(tokens: Tensor, mean: Tensor | None = None) -> Tensor:
    """Latents (B, M, C) as vectors (B, M * C) float32 around their mean, or around a given one (M * C,).

    Two or fewer are not centred; latents that differ from the mean only by rounding become 0.
    """
    flat = tokens.detach().float().flatten(1)
    if mean is None and len(flat) <= 2:
        return flat
    length = flat.norm(dim=1, keepdim=True)
    apart = flat - (flat.mean(dim=0) if mean is None else mean.to(flat))
    return apart.where(apart.norm(dim=1, keepdim=True) > _ROUNDING * length, torch.zeros(()).to(apart))
