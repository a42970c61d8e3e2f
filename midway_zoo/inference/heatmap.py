"""Heat maps of where a point of one image went in another, and points in pixels of images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midway_zoo.checks import check_draws
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import in_order, inference, pair_batches, scatter, stack
from midway_zoo.inference.images import Images, Size, count
from midway_zoo.inference.perturbation import match_level, matches, sensitivity
from midway_zoo.results import PerturbationHeatmap
from midway_zoo.weights.registry import Model, resolve_network


def perturbation_heatmap(
    model: Model,
    source: Images,
    target: Images,
    xy: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    size: Size = None,
    batch_size: int = 8,
    level: int | None = None,
    draws: int = 8,
    seed: int = 0,
) -> PerturbationHeatmap:
    """Where one point of the source went: its sensitivity over the target's tokens (section 4.4).

    Args:
        model: a network or a pretrained name.
        source: one image or several, all of one size.
        target: as many images of that size.
        xy: (x, y) in pixels of the source, or one per pair (B, 2).
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: pairs at once.
        level: level of the forward dynamics to perturb, 2, 1 or 0; None: the highest, 2.
        draws: random perturbations to average.
        seed: of the random perturbations.

    Returns:
        ``heatmap`` (B, h, w) cosines in [-1, 1], the perturbed token, and the peak's position in pixels.

    Raises:
        InputError: for images or arguments that cannot be used, or a point outside the image.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    pairs = count(source)
    points = parse_points(xy, {1, pairs}, f"one (x, y) or one per pair, ({pairs}, 2)").expand(pairs, 2)
    heat: dict[int, Tensor] = {}
    tokens: dict[int, Tensor] = {}
    peaks: dict[int, Tensor] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            where = list(zip(batch.indices, batch.given, strict=True))
            chosen = torch.cat([tokens_under(points, given, grid, slice(index, index + 1)) for index, given in where])
            flat = chosen[:, 1] * grid[1] + chosen[:, 0]
            matrix = sensitivity(network, *batch.images, tokens=flat, level=level, draws=draws, seed=seed)
            centre = matches(matrix, grid, window=0)[0][:, 0] + 0.5
            scatter(heat, batch, matrix.unflatten(2, grid)[:, 0])
            scatter(tokens, batch, chosen)
            for row, (index, given) in enumerate(where):
                peaks[index] = centre[row] * centre.new_tensor(pixels_per_token(given, grid)) - 0.5
    heatmap = stack(heat)
    if isinstance(heatmap, list):
        raise InputError("the pairs' sizes lead to different grids; call perturbation_heatmap once per size.")
    return PerturbationHeatmap(
        heatmap, torch.stack(in_order(tokens)), torch.stack(in_order(peaks)), (heatmap.shape[1], heatmap.shape[2])
    )


def parse_points(xy: Any, counts: set[int] | None, expected: str) -> Tensor:
    """(n, 2) float32 points on the CPU, from one (x, y) or several; ``counts`` are the allowed numbers, None for any.

    A list of one point counts as several: it is refused where one point per pair is expected for more pairs.

    Raises:
        InputError: naming what is ``expected``.
    """
    try:
        points = torch.as_tensor(xy, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"xy={xy!r:.80}: {expected} is expected.") from error
    several = points.ndim == 2 and len(points) > 0 and (counts is None or len(points) == max(counts))
    if points.shape[-1:] != (2,) or not (several or points.ndim == 1):
        raise InputError(f"xy has shape {tuple(points.shape)}: {expected} is expected.")
    return points.reshape(-1, 2)


def check_inside(points: Tensor, given: tuple[int, int], first: int = 0) -> None:
    """Raise :class:`InputError`, counting from ``first``, for points (n, 2) outside (height, width) pixels."""
    last = points.new_tensor([given[1] - 1, given[0] - 1])
    inside = ((points >= 0) & (points <= last)).all(dim=1)
    if not inside.all():
        index = int(inside.logical_not().nonzero()[0])
        x, y = points[index].tolist()
        raise InputError(
            f"xy[{first + index}]=({x:g}, {y:g}) is outside the image of {given[1]} x {given[0]} pixels "
            "(width x height)."
        )


def tokens_under(points: Tensor, given: tuple[int, int], grid: tuple[int, int], rows: slice = slice(None)) -> Tensor:
    """(n, 2) columns and rows of the tokens under points (n, 2) in pixels of (height, width) ``given``."""
    chosen = points[rows]
    check_inside(chosen, given, rows.start or 0)
    column_row = ((chosen + 0.5) / chosen.new_tensor(pixels_per_token(given, grid))).long()
    return column_row.minimum(column_row.new_tensor([grid[1] - 1, grid[0] - 1]))


def pixels_per_token(given: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """(x, y) pixels of an image of (height, width) per token."""
    return given[1] / grid[1], given[0] / grid[0]
