"""Sensitivity of every target token to every source token, and how much of it is mere identity."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.checks import check_draws, check_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import in_order, inference, pair_batches
from midway_zoo.inference.images import Images, Size, count
from midway_zoo.inference.perturbation import match_level, sensitivity, sensitivity_of
from midway_zoo.results import ShapeRepr
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class SensitivityMatrix(ShapeRepr):
    """Sensitivity of every target token to every source token, for B pairs of one size."""

    matrix: Tensor
    """(B, N, N) float32 cosines in [-1, 1]; rows are source tokens, columns target tokens, both row-major."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used, h * w = N."""
    given: tuple[int, int]
    """(H, W) of the images as given."""


def sensitivity_matrix(
    model: Model,
    source: Images,
    target: Images,
    *,
    size: Size = None,
    level: int | None = None,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    chunk_size: int | None = None,
) -> SensitivityMatrix:
    """Sensitivity of every target token to every source token (section 4.4): all heat maps of a pair at once.

    Row n is the heat map that :func:`~midway_zoo.perturbation_heatmap` gives for a point on token n. Working memory is
    that of ``chunk_size`` directional derivatives, whatever the number of tokens; only the result grows with it.
    :func:`sensitivity_rows` avoids even the full result.

    Args:
        model: a network or a pretrained name.
        source: one image or several, all of one size.
        target: as many images of that size.
        size: as in :func:`~midway_zoo.extract_features`; a larger one gives a finer grid, and the matrix grows with
            the square of the number of tokens.
        level: level of the forward dynamics to perturb, 2, 1 or 0; None for the highest that the network has.
        draws: random perturbations per token to average.
        seed: of the perturbations.
        batch_size: pairs per forward pass.
        chunk_size: derivatives taken at once per pair. More are faster until caches or memory are full; the result
            is the same up to rounding. None chooses by device and size.

    Returns:
        ``matrix`` (B, N, N) in the given order, ``grid`` (h, w) and ``given`` (H, W).

    Raises:
        InputError: for images or arguments that cannot be used, or pairs of different sizes.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    if chunk_size is not None:
        check_integer("chunk_size", chunk_size, 1)
    found: dict[int, Tensor] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            sizes.update(dict.fromkeys(batch.given, network.grid_of(batch.images[0])))
            if len(sizes) > 1:
                raise InputError("the pairs' sizes differ; call sensitivity_matrix once per size.")
            matrix = sensitivity(
                network, *batch.images, level=level, draws=draws, seed=seed, chunk_size=chunk_size, progress=True
            )
            found.update(zip(batch.indices, matrix, strict=True))
    ((given, grid),) = sizes.items()
    return SensitivityMatrix(torch.stack(in_order(found)), grid, given)


def sensitivity_rows(
    model: Model,
    source: Images,
    target: Images,
    *,
    size: Size = None,
    level: int | None = None,
    draws: int = 1,
    seed: int = 0,
    rows: int = 256,
) -> Iterator[Tensor]:
    """:func:`sensitivity_matrix` of one pair in blocks of rows, for grids whose N x N matrix is better kept on disk.

    Both frames are encoded once, when the first block is requested. Between blocks the caller's gradient mode holds.

    Args:
        model: a network or a pretrained name.
        source: one image.
        target: one image of the same size.
        size, level, draws, seed: as in :func:`sensitivity_matrix`.
        rows: source tokens per block.

    Yields:
        (r, N) float32: the next r rows; all N together are the matrix.

    Raises:
        InputError: for images or arguments that cannot be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    check_integer("rows", rows, 1)
    if count(source) != 1:
        raise InputError(f"{count(source)} pairs: sensitivity_rows takes one; call it once per pair.")
    with inference(network):
        (batch,) = pair_batches(network, source, target, size, 1)
        grid = network.grid_of(batch.images[0])
        levels = network.encode_pair(*batch.images)
    number = grid[0] * grid[1]
    with bar(total=number, unit=" tokens") as shown:
        for first in range(0, number, rows):
            chosen = list(range(first, min(first + rows, number)))
            # Not around the yield: a suspended generator must not leave the caller without gradients.
            with inference(network):
                block = sensitivity_of(network, *levels, grid, tokens=chosen, level=level, draws=draws, seed=seed)[0]
            yield block
            shown.update(len(chosen))


def identity_share(matrix: SensitivityMatrix | Tensor) -> Tensor:
    """Share of source tokens that influence the target token at their own place most.

    1 is the identity: the network predicts that nothing moves, whatever the frames show. The paper's gating is meant
    to prevent that (section 4.4). Compare it with the share of the frame that really does not move.

    Args:
        matrix: result of :func:`sensitivity_matrix`, or its (B, N, N) tensor.

    Returns:
        (B,) float32 in [0, 1].

    Raises:
        InputError: for another shape.
    """
    values = matrix.matrix if isinstance(matrix, SensitivityMatrix) else matrix
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] == 0:
        raise InputError(f"matrix of shape {tuple(values.shape)}: (B, N, N), one row per source token, is expected.")
    own = torch.arange(values.shape[2], device=values.device)
    return (values.argmax(dim=2) == own).float().mean(dim=1)
