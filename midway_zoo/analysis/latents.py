"""How motions compare."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.results import MotionLatent

# A latent nearer to the mean of its clip than this share of its length differs from it by rounding alone.
_ROUNDING = 1e-5


def latent_similarity(latents: MotionLatent) -> Tensor:
    """Cosine similarity between every two motion latents, each taken as one vector of all its M * C numbers.

    What all latents share says nothing about how they differ: with more than two, their mean is subtracted first.
    Similar motions of a clip then show as bright blocks, opposite ones as dark.

    Args:
        latents: of B pairs, for example of :func:`~midway_zoo.infer_motion_latents`.

    Returns:
        (B, B) float32 in [-1, 1], symmetric, 1 on the diagonal. A latent that is the mean itself is similar to no
        other: 0.
    """
    flat = latents.tokens.detach().float().flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    if len(flat) > 2:
        flat = flat - flat.mean(dim=0)
        flat = flat.where(flat.norm(dim=1, keepdim=True) > _ROUNDING * length, 0)
    unit = F.normalize(flat, dim=1)
    return (unit @ unit.T).clamp(-1, 1).fill_diagonal_(1)
