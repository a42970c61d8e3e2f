"""Features of images."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from midway_zoo.checks import check_integer, is_integer
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.batches import batches, common, inference, progress, scatter, stack
from midway_zoo.inference.images import ImageStream, Size, count, iterate
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import Features
from midway_zoo.weights.registry import Model, resolve_network


def extract_features(
    model: Model,
    images: ImageStream,
    *,
    blocks: Sequence[int] = (2, 5, 8, 11),
    backward: bool = False,
    size: Size = None,
    batch_size: int = 16,
) -> Features:
    """Normed class token and patch features of images.

    Runs without gradients in evaluation mode and restores the network's mode, as every function here does.

    Args:
        model: a network or a pretrained name (loaded once). In paired mode the source encoder (student) is used.
        images: one image or several, of any sizes, an iterator too; see
            :func:`midway_zoo.inference.images.to_tensor`.
        blocks: encoder blocks to return, 0-based.
        backward: also return the source-side backward features v of levels 2, 1, 0, which the paper's
            linear read-outs use (section 4.1).
        size: None (shorter side as the model's native side), an int (that shorter side), (H, W), or
            "full"; see :func:`midway_zoo.inference.images.target_size`.
        batch_size: images per forward pass.

    Returns:
        ``cls`` (B, D), ``maps`` {block: (B, D, h, w)}, ``grid`` (h, w), in the given order and the model's
        dtype. If sizes lead to different grids, maps and grid are lists with one item per image.

    Raises:
        InputError: for images or arguments that cannot be used.
        ConfigError: for ``backward=True`` with a network that has no backward layers.
    """
    network = resolve_network(model)
    levels = _backward_levels(network) if backward else ()
    last = network.config.depth - 1
    check_blocks(blocks, last)
    check_integer("batch_size", batch_size, 1)
    taps = sorted({*blocks, last, *(network.config.feature_blocks if backward else ())})
    cls: dict[int, Tensor] = {}
    maps: dict[int, dict[int, Tensor]] = {block: {} for block in blocks}
    backs: dict[int, dict[int, Tensor]] = {level: {} for level in levels}
    singles = ((image,) for image in iterate(images))
    total = None if isinstance(images, Iterator) else count(images)
    with inference(network), progress(total, batch_size, "images") as bar:
        for batch in batches(network, singles, size, batch_size):
            grid = network.grid_of(batch.images[0])
            tokens = dict(zip(taps, network.encode(batch.images[0], blocks=taps), strict=True))
            scatter(cls, batch, tokens[last][:, 0])
            for block in blocks:
                scatter(maps[block], batch, _as_map(tokens[block], grid))
            if backward:
                taken = [tokens[block] for block in network.config.feature_blocks]
                for level, features in network.require_dynamics().backward_features(taken).items():
                    scatter(backs[level], batch, _as_map(features, grid))
            bar.update(len(batch.indices))
    if not cls:
        raise InputError("got no images: the iterator is exhausted.")
    collected = {block: stack(found) for block, found in maps.items()}
    return Features(
        cls=torch.stack([cls[index] for index in range(len(cls))]),
        maps=collected,
        grid=common([(value.shape[-2], value.shape[-1]) for value in next(iter(collected.values()))]),
        backward={level: stack(found) for level, found in backs.items()} if backward else None,
    )


def check_blocks(blocks: Sequence[int], last: int) -> None:
    """Raise :class:`InputError` unless they are different blocks of an encoder whose last one is ``last``."""
    indices = list(blocks) if isinstance(blocks, Sequence) else [None]
    usable = all(is_integer(index, 0, last) for index in indices)
    if not usable or not indices or len(set(indices)) < len(indices):
        raise InputError(f"blocks={blocks!r}: different block indices from 0 to {last} are expected.")


def _backward_levels(network: MidwayNetwork) -> tuple[int, ...]:
    if network.dynamics is None or not network.config.backward:
        missing = "backward" if network.config.dynamics else "dynamics"
        raise ConfigError(
            f"this network has no backward layers (config.{missing}=False), so it has no backward features; "
            "leave out backward=True and read the encoder's maps."
        )
    return network.config.levels


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(b, 1 + h * w, D) -> (b, D, h, w), without the class token."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
