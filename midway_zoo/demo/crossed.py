"""Motion apart from content: every picture moves in every direction, so that similar pictures explain nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

import midway_zoo.analysis as analysis
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import ShapeRepr
from midway_zoo.scenes import SceneGenerator, ScenesConfig

_PICTURES, _SIDE, _PIXELS = 4, 64, 5
_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
_SEED = 2027


@dataclass(frozen=True, repr=False, eq=False)
class CrossedMotion(ShapeRepr):
    """Similarity of the motion latents of n pairs, ordered by direction, then by picture."""

    similarity: Tensor
    """(n, n) cosines."""
    agreement: float
    """Correlation of ``similarity`` with the cosines of the true motions, over all pairs of pairs."""
    random: float
    """The same for a network whose weights were never trained."""
    pixels: float
    """The same for the differences between the frames, the simplest cue to motion."""


def crossed_pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Sources and targets (n, 3, 64, 64) and the motions (n, 2) in pixels, of every picture in every direction.

    A target is the same picture seen through a shifted window, so that the motion is exactly the same everywhere.
    """
    config = ScenesConfig(height=_SIDE + 2 * _PIXELS, width=_SIDE + 2 * _PIXELS, frames=2, objects=(2, 4))
    frames = SceneGenerator(config, seed=_SEED).render(list(range(_PICTURES))).frames[:, 0]
    middle = slice(_PIXELS, _PIXELS + _SIDE)
    sources, targets, motions = [], [], []
    for x, y in _DIRECTIONS:
        for frame in frames:
            top, left = _PIXELS * (1 - y), _PIXELS * (1 - x)
            sources.append(frame[:, middle, middle])
            targets.append(frame[:, top : top + _SIDE, left : left + _SIDE])
            motions.append((float(x * _PIXELS), float(y * _PIXELS)))
    return torch.stack(sources), torch.stack(targets), torch.tensor(motions)


def crossed_motion(network: MidwayNetwork, fresh: MidwayNetwork) -> CrossedMotion:
    """What a network's motion latents say about motion alone, beside a ``fresh`` network of the same shape."""
    sources, targets, motions = crossed_pairs()
    similarity = [
        analysis.latent_similarity(infer_motion_latent(one, sources, targets)).float().cpu() for one in (network, fresh)
    ]
    difference = torch.nn.functional.normalize((targets - sources).flatten(1), dim=1)
    truth = torch.nn.functional.normalize(motions, dim=1)
    figures = [_agreement(each, truth @ truth.T) for each in (*similarity, difference @ difference.T)]
    return CrossedMotion(similarity[0], *figures)


def _agreement(similarity: Tensor, truth: Tensor) -> float:
    above = torch.triu(torch.ones_like(similarity, dtype=torch.bool), diagonal=1)
    return float(torch.corrcoef(torch.stack([similarity[above], truth[above]]).double())[0, 1])
