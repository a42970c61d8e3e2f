"""Gates of the forward dynamics: how much of every token is kept, and how much is replaced according to the motion."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.batches import in_order, inference, pair_batches, scatter
from midway_zoo.inference.images import Images, Size
from midway_zoo.results import ShapeRepr
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class GateMaps(ShapeRepr):
    """Gates of the forward dynamics (section 3.3) of B pairs, over the target's positions."""

    mean: dict[int, Tensor]
    """Level 2, 1, 0 -> (B, blocks, h, w) float32 in (0, 1): mean over channels of the gates of forward blocks
    1, 2, ... (block 0 has none). 1 keeps the block's input, 0 replaces it."""
    closed: dict[int, Tensor]
    """Level -> (B, blocks, h, w) float32 in [0, 1]: share of channels whose gate is below 0.5."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used."""


def gate_maps(model: Model, source: Images, target: Images, *, size: Size = None, batch_size: int = 8) -> GateMaps:
    """Gates of every level and block for pairs.

    Args:
        model: a network or a pretrained name.
        source: one image or several, all of one size.
        target: as many images of that size.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: pairs per forward pass.

    Returns:
        ``mean`` and ``closed`` {level: (B, blocks, h, w)} in the given order.

    Raises:
        InputError: for images or arguments that cannot be used, or pairs whose sizes lead to different grids.
        ConfigError: if the network is an encoder alone, or has no gates (``gating=False``, or ``forward_depth=1``).
    """
    network = resolve_network(model)
    config = network.require_dynamics().config
    if not config.gating or config.forward_depth < 2:
        raise ConfigError(
            f"this network has no gates (gating={config.gating}, forward_depth={config.forward_depth}); load weights "
            "that were trained with gating=True."
        )
    mean: dict[int, dict[int, Tensor]] = {level: {} for level in config.levels}
    closed: dict[int, dict[int, Tensor]] = {level: {} for level in config.levels}
    grids: set[tuple[int, int]] = set()
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            grids.add(grid)
            if len(grids) > 1:
                raise InputError("the pairs' sizes lead to different grids; call gate_maps once per size.")
            gates = network(*batch.images, return_gates=True, predictions_only=True).gates
            for level, found in (gates or {}).items():
                patches = torch.stack([gate[:, 1:].float() for gate in found], dim=1)  # without the class token
                scatter(mean[level], batch, patches.mean(-1).unflatten(2, grid))
                scatter(closed[level], batch, (patches < 0.5).float().mean(-1).unflatten(2, grid))
    return GateMaps(
        {level: torch.stack(in_order(found)) for level, found in mean.items()},
        {level: torch.stack(in_order(found)) for level, found in closed.items()},
        grids.pop(),
    )
