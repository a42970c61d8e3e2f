"""Initialisation of the dynamics, optionally with a midway path that attends to the same place of the other frame.

From ordinary initial weights (truncated normal, std 0.02) the midway path must first learn that a token's partner is
near the same place of the other frame. The released networks had millions of pairs for that; a small network with tens
of thousands does not learn it, and its flow stays at zero. :func:`align` provides just this prior, nothing about
motion.
"""

import math

import torch
from torch import Tensor, nn

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.models.places import PlacedAttention

INITS = ("released", "normal", "aligned")
"""Values of ``network.dynamics_init``, see :func:`initialise_dynamics`."""

_AMPLITUDE = 1.5  # scale of the position channels, while content has a standard deviation of about 1
_SHARPNESS = 4.0  # scale of queries and keys: about 0.65 of the attention goes to the same place of the other frame
_PERIOD = 4.0  # shortest period in tokens; beyond it, positions a period apart would be confused


@torch.no_grad()
def initialise_dynamics(network: MidwayNetwork, kind: str) -> None:
    """Initialise fresh dynamics in one of the ways of :data:`INITS`.

    "released": like the released runs, with motion tokens and motion position table at zero (the tokens then stay
    similar for long), and the encoder's class token with a standard deviation of 0.02. "normal": tokens and tables have
    a standard deviation of 0.02 like all weights, as in a fresh network. "aligned": see :func:`align`.
    """
    dynamics = network.dynamics
    if kind == "released":
        nn.init.trunc_normal_(network.encoder.cls_token, std=0.02)
        if dynamics is not None:
            dynamics.motion_tokens.zero_()
            dynamics.pos_embed.zero_()
    elif kind == "aligned" and dynamics is not None:
        align(dynamics)


@torch.no_grad()
def align(dynamics: Dynamics) -> None:
    """Initialise fresh dynamics so that frames are matched by position.

    The last head's worth of channels of the midway path is kept free of content: the position tables hold sines and
    cosines of the token's column and row there, and a sign for the frame. The first block of every level attends by
    these channels alone, to the same place of the *other* frame, and passes on its content through random rotations.
    All linear layers have a standard deviation of 1 / sqrt(fan in), so that content matters beside the positions.
    With ``config.forward_places`` the placed blocks of the forward dynamics start by copying from their own place.

    Raises:
        ConfigError: if a head of the midway path has too few channels to distinguish the places of the grid.
    """
    config = dynamics.config
    width, heads = config.motion_dim, config.midway_heads
    place = width // heads
    rows, columns = config.grid
    least = 8 if max(rows, columns) <= _PERIOD else 10
    if place < least:
        raise ConfigError(
            f"network.dynamics_init=aligned needs motion_dim / midway_heads >= {least} for a grid of "
            f"{rows} x {columns} tokens, not {place}."
        )
    for module in dynamics.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
    dynamics.source_embed.weight[-place:] = 0
    positions, frames = _place_channels(config)
    for half, sign in zip(dynamics.pos_embed[0].chunk(2), (1.0, -1.0), strict=True):
        half.zero_()
        half[1:, -place:] = torch.cat([_AMPLITUDE * positions, sign * _AMPLITUDE * frames], dim=1)
    query = torch.zeros(place, width)
    query[:, -place:] = _SHARPNESS * torch.eye(place)
    key = query.clone()
    key[positions.shape[1] :] *= -1  # the other frame
    for path in dynamics.midway:
        attention = path[0].attn  # type: ignore[index]
        rotation, back = (torch.linalg.qr(torch.randn(width, width)).Q for _ in range(2))
        attention.qkv.weight.copy_(torch.cat([query.repeat(heads, 1), key.repeat(heads, 1), rotation]))
        attention.proj.weight.copy_(back)
    for path in dynamics.forward_dynamics:
        for block in path.blocks:  # type: ignore[union-attr]
            if block.placed:
                _look_at_the_same_place(block.attn)
    dynamics.target_embed.load_state_dict(dynamics.source_embed.state_dict())
    dynamics.target_backward.load_state_dict(dynamics.source_backward.state_dict())


def _look_at_the_same_place(attention: PlacedAttention) -> None:
    """Initially a token copies from its own place, since no displacement is known yet."""
    width = attention.proj.in_features
    attention.qkv.weight[2 * width :] = torch.eye(width)
    attention.proj.weight.copy_(torch.eye(width))
    attention.displace_all.weight.mul_(0.1)
    attention.displace_each.weight.zero_()


def _place_channels(config: MidwayConfig) -> tuple[Tensor, Tensor]:
    """Of each patch token: sines and cosines of column and row (N, 4 * periods), and ones (N, rest)."""
    rows, columns = config.grid
    place = config.motion_dim // config.midway_heads
    count = (place - place // 4) // 4
    longest = max(4 * _PERIOD, 2.0 * max(rows, columns))
    periods = _PERIOD * (longest / _PERIOD) ** (torch.arange(count) / max(1, count - 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.stack([x.flatten(), y.flatten()], dim=1)[..., None] * 2 * math.pi / periods
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return waves, torch.ones(rows * columns, place - waves.shape[1])
