"""Motion latents of image pairs."""

import torch
from torch import Tensor

from midway_zoo.inference.batches import common, in_order, inference, pair_batches, scatter
from midway_zoo.inference.images import Images, Size
from midway_zoo.results import MotionLatent
from midway_zoo.weights.registry import Model, resolve_network


def infer_motion_latent(
    model: Model, source: Images, target: Images, *, size: Size = None, batch_size: int = 8
) -> MotionLatent:
    """Motion latents of image pairs: what happened between source and target (section 3.1).

    Args:
        model: a network or a pretrained name. One encoder sees both frames; a network in paired mode
            uses its student for the source and its teacher for the target, as in pretraining.
        source: one image or several.
        target: as many images; each has the size of its source.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: pairs per forward pass.

    Returns:
        ``tokens`` (B, 10, C), ``levels`` {2, 1, 0: (B, 10, C)}, ``pooled`` (B, C), in the given order.

    Raises:
        InputError: for images or arguments that cannot be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    dynamics = network.require_dynamics()
    found: dict[int, dict[int, Tensor]] = {level: {} for level in network.config.levels}
    grids: dict[int, tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            latents = dynamics.motion_latents(*network.encode_pair(*batch.images), grid).motion_latents
            for level in found:
                scatter(found[level], batch, latents[level])
            grids.update(dict.fromkeys(batch.indices, grid))
    levels = {level: torch.stack(in_order(values)) for level, values in found.items()}
    return motion_latent(levels, common(in_order(grids)))


def motion_latent(
    levels: dict[int, Tensor],
    grid: tuple[int, int] | list[tuple[int, int]],
    pts_seconds: Tensor | None = None,
    concealed: Tensor | None = None,
) -> MotionLatent:
    """The result from latents of all levels, each (B, M, C); those of the lowest level are the final ones."""
    final = levels[min(levels)]
    return MotionLatent(final, levels, final.mean(dim=1), grid, pts_seconds, concealed)
