"""Initialisation of a fresh flow head by whitening its inputs.

Only a small part of the variance of a network's tokens depends on motion: most of it is common to all tokens, or
depends on content. With ordinary initial weights, and the high learning rates that small networks use, a small head
learns to predict zero (its last ReLU dies) before it finds that part.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from midway_zoo.models.network import MidwayNetwork, flow_maps

INITS = ("plain", "whitened")
"""Values of ``network.head_init``."""
PAIRS = 256
"""Number of pairs for the statistics of the tokens."""

_AT_ONCE = 16  # pairs at a time: every process does this on its own, on the CPU
_SHRINK = 0.01  # fraction of the mean variance, added to every direction, since what hardly varies is noise
_QUIET = 0.1  # scale of the last layer, so that the first flow is near zero

logger = logging.getLogger(__name__)


@torch.no_grad()
def whiten(network: MidwayNetwork, batches: Iterable[Mapping[str, Tensor]], *, pairs: int = PAIRS) -> None:
    """Fold a whitening of the four token maps into the head's first layers, and scale down its last one.

    Args:
        network: with a fresh flow head; on tokens of any network the projections then have outputs of zero mean and of
            about the same variance in every direction.
        batches: "source" and "target" (B, 3, H, W), normalised.
        pairs: how many are taken of them.
    """
    head = network.flow_head
    assert head is not None
    logger.info("whitening the inputs of the flow head over %d pairs", pairs)
    statistics = [_Statistics(project.in_channels) for project in head.project]  # type: ignore[arg-type]
    for source, target in _frames(batches, pairs):
        before, after = network.encode_pair(source, target)
        maps = flow_maps(before, network.require_dynamics()(before, after, network.grid_of(source)))
        for one, tokens in zip(statistics, maps, strict=True):
            one.update(tokens[:, 1:].flatten(0, 1))
    for project, one in zip(head.project, statistics, strict=True):
        _whiten_input(project, one)  # type: ignore[arg-type]
    last = head.output[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.mul_(_QUIET)


def _frames(batches: Iterable[Mapping[str, Tensor]], pairs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``pairs`` pairs, a few at a time."""
    for batch in batches:
        frames = [batch[name][:pairs].split(_AT_ONCE) for name in ("source", "target")]
        yield from zip(*frames, strict=True)
        pairs -= len(batch["source"])
        if pairs <= 0:
            return


class _Statistics:
    """Mean and covariance of tokens (n, width)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def update(self, tokens: Tensor) -> None:
        tokens = tokens.double().cpu()
        self.count += len(tokens)
        self.sum += tokens.sum(0)
        self.products += tokens.T @ tokens

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        return self.products / self.count - torch.outer(self.mean, self.mean)


def _whiten_input(layer: nn.Conv2d, tokens: _Statistics) -> None:
    """Make a 1x1 convolution act on whitened tokens."""
    variance, directions = torch.linalg.eigh(tokens.covariance)
    scale = (variance.clamp(min=0) + _SHRINK * variance.mean()).rsqrt()
    weight = layer.weight[:, :, 0, 0].double().cpu() @ (directions * scale) @ directions.T
    layer.weight.copy_(weight[:, :, None, None])
    layer.get_parameter("bias").copy_(-weight @ tokens.mean)
