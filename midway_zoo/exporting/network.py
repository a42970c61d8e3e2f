"""A network that exporters can trace: the same weights, position tables as products, no branches on sizes."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from midway_zoo.exporting.positions import PositionTable, Sides
from midway_zoo.models.dynamics import Dynamics, PerLevel
from midway_zoo.models.network import MidwayNetwork

Reads: TypeAlias = Literal["encoder", "latents", "dynamics", "flow"]
_AFTER_MOTION = ("forward_dynamics", "source_backward", "target_backward")
"""Layers of a level that come after its motion latents."""


def _without(layers: nn.Module, level: int) -> PerLevel:
    """The layers of all other levels, shared."""
    kept = {int(name): layer for name, layer in sorted(layers.named_children()) if int(name) != level}
    remaining = iter(kept.values())
    return PerLevel(kept, lambda: next(remaining))


class FollowedDynamics(Dynamics):
    """The dynamics of a network, sharing its parameters.

    Args:
        dynamics: the network's dynamics.
        grid: the only token grid (h, w) that will be used, or None for any.
        latents_only: leave out layers of the last level that the motion latents do not need.
    """

    def __init__(self, dynamics: Dynamics, grid: tuple[int, int] | None, *, latents_only: bool) -> None:
        nn.Module.__init__(self)
        self.config = dynamics.config
        self.motion_tokens = dynamics.motion_tokens
        for name, child in dynamics.named_children():
            last = dynamics.config.levels[-1] if latents_only and name in _AFTER_MOTION else None
            self.add_module(name, child if last is None else _without(child, last))
        halves = dynamics.pos_embed.detach().chunk(2, dim=1)
        self.tables = nn.ModuleList(PositionTable(half, dynamics.config.grid, grid) for half in halves)

    def position_tables(self, grid: Sides) -> tuple[Tensor, Tensor]:
        source, target = self.tables
        return source(grid), target(grid)


class FollowedNetwork(MidwayNetwork):
    """A network in evaluation mode, sharing its parameters with the one that it is made from.

    Args:
        network: the network.
        grid: the only token grid (h, w) that will be used, or None for any.
        reads: what will be computed; other parameters are left out, since all formats but ONNX would store them.
    """

    def __init__(self, network: MidwayNetwork, grid: tuple[int, int] | None, reads: Reads) -> None:
        nn.Module.__init__(self)
        self.config, self.provenance, self.fixed = network.config, network.provenance, grid
        self.encoder, self.flow_head = network.encoder, network.flow_head if reads == "flow" else None
        self.target_encoder = None if reads == "encoder" else network.target_encoder
        self.dynamics = None
        if network.dynamics is not None and reads != "encoder":
            self.dynamics = FollowedDynamics(network.dynamics, grid, latents_only=reads == "latents")
        self.places = PositionTable(self.encoder.pos_embed, self.config.grid, grid)
        self.target_places = None
        if self.target_encoder is not None:
            self.target_places = PositionTable(self.target_encoder.pos_embed, self.config.grid, grid)
        self.eval()

    def grid_of(self, images: Tensor) -> Any:
        """The grid of the images, traced from their shape unless it is fixed."""
        if self.fixed is not None:
            return self.fixed
        return images.shape[2] // self.config.patch_size, images.shape[3] // self.config.patch_size

    def encode(self, images: Tensor, *, target: bool = False, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """As :meth:`MidwayNetwork.encode`, from the encoder's parts."""
        encoder, places = self.encoder, self.places
        if target and self.target_encoder is not None and self.target_places is not None:
            encoder, places = self.target_encoder, self.target_places
        wanted = list(self.config.feature_blocks if blocks is None else blocks)
        patches = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([encoder.cls_token.expand(images.shape[0], -1, -1), patches], dim=1) + places(
            self.grid_of(images)
        )
        found = []
        for index in range(max(wanted) + 1):
            x = encoder.blocks[index](x)
            if index in wanted:
                found.append(encoder.norm(x))
        return found

    def encode_pair(self, source: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As :meth:`MidwayNetwork.encode_pair`, but split by the batch size, which may be unknown while tracing."""
        if self.target_encoder is not None:
            return self.encode(source), self.encode(target, target=True)
        count = source.shape[0]
        both = self.encode(torch.cat([source, target]))
        return [level[:count] for level in both], [level[count:] for level in both]
