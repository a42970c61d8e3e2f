"""A network as exporters can follow it: the same weights, position tables as products, no question about sizes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from midway_zoo.exporting.positions import PositionTable, Sides
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.models.network import MidwayNetwork


class FollowedDynamics(Dynamics):
    """The dynamics of a network, sharing its parameters.

    Args:
        dynamics: those of the network.
        grid: the one token grid (h, w) that will be asked for, or None for any.
    """

    def __init__(self, dynamics: Dynamics, grid: tuple[int, int] | None) -> None:
        nn.Module.__init__(self)
        self.config = dynamics.config
        self.motion_tokens = dynamics.motion_tokens
        for name, child in dynamics.named_children():
            self.add_module(name, child)
        halves = dynamics.pos_embed.detach().chunk(2, dim=1)
        self.tables = nn.ModuleList(PositionTable(half, dynamics.config.grid, grid) for half in halves)

    def position_tables(self, grid: Sides) -> tuple[Tensor, Tensor]:
        source, target = self.tables
        return source(grid), target(grid)


class FollowedNetwork(MidwayNetwork):
    """A network in evaluation mode, sharing its parameters with the one that it is made from.

    Args:
        network: that one.
        grid: the one token grid (h, w) that will be asked for, or None for any.
    """

    def __init__(self, network: MidwayNetwork, grid: tuple[int, int] | None) -> None:
        nn.Module.__init__(self)
        self.config, self.provenance, self.fixed = network.config, network.provenance, grid
        self.encoder, self.target_encoder = network.encoder, network.target_encoder
        self.flow_head = network.flow_head
        self.dynamics = None if network.dynamics is None else FollowedDynamics(network.dynamics, grid)
        self.places = PositionTable(self.encoder.pos_embed, self.config.grid, grid)
        self.target_places = None
        if self.target_encoder is not None:
            self.target_places = PositionTable(self.target_encoder.pos_embed, self.config.grid, grid)
        self.eval()

    def grid_of(self, images: Tensor) -> Any:
        """As recorded from the images' shape, unless there is one grid only."""
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
        """As :meth:`MidwayNetwork.encode_pair`; halves are cut by the batch's size, which may be unknown."""
        if self.target_encoder is not None:
            return self.encode(source), self.encode(target, target=True)
        count = source.shape[0]
        both = self.encode(torch.cat([source, target]))
        return [level[:count] for level in both], [level[count:] for level in both]
