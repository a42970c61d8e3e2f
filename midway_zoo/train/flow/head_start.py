"""A fresh flow head that begins where the differences between pairs are.

What tells one pair's motion from another's is a small part of a network's tokens: most of what they hold is common to
all tokens, or tells what is in the picture. On plain weights a small head learns, at the high rates that a small
network takes, to be silent (its last ReLU dies) before it finds that part.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from midway_zoo.models.network import MidwayNetwork

INITS = ("plain", "whitened")
"""Values of ``network.head_init``."""
PAIRS = 256
"""Over which the statistics of the tokens are taken."""

_SHRINK = 0.01  # of the mean variance, added to each direction's: what hardly varies at all is noise
_QUIET = 0.1  # scale of the last layer: a flow near zero gives no reason to be silent


@torch.no_grad()
def whiten(network: MidwayNetwork, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Fold a whitening of the four token maps into the head's first layers, and quieten its last one.

    Args:
        network: with a fresh flow head; on tokens of any network the projections then have outputs of zero mean and of
            about the same variance in every direction.
        batches: "source" and "target" (B, 3, H, W), normalised.
    """
    head = network.flow_head
    assert head is not None
    seen: list[Sequence[Tensor]] = []
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        for batch in batches:
            network.flow(batch["source"], batch["target"])
    finally:
        hook.remove()
    for project, maps in zip(head.project, zip(*seen, strict=True), strict=True):
        tokens = torch.cat([tokens[:, 1:].flatten(0, 1) for tokens in maps]).double()
        _whiten_input(project, tokens)  # type: ignore[arg-type]
    last = head.output[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.mul_(_QUIET)


def _whiten_input(layer: nn.Conv2d, tokens: Tensor) -> None:
    """Make a 1x1 convolution act on whitened tokens (n, width)."""
    mean = tokens.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov(tokens.T))
    scale = (variance.clamp(min=0) + _SHRINK * variance.mean()).rsqrt()
    weight = layer.weight[:, :, 0, 0].double() @ (directions * scale) @ directions.T
    layer.weight.copy_(weight[:, :, None, None])
    layer.get_parameter("bias").copy_(-weight @ mean)
