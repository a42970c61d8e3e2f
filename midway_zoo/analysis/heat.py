"""Where several points of one frame are in several others: the heat maps of the paper's figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.checks import check_draws, check_integer
from midway_zoo.inference.batches import inference, pair_batches
from midway_zoo.inference.heatmap import parse_points, pixels_per_token, tokens_under
from midway_zoo.inference.images import ImageLike, Images, Size, count, to_tensor
from midway_zoo.inference.perturbation import match_level, sensitivity
from midway_zoo.results import ShapeRepr
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class HeatMaps(ShapeRepr):
    """Sensitivity of T target frames to n points of one source frame."""

    heatmaps: Tensor
    """(T, n, h, w) float32 cosines in [-1, 1]."""
    xy: Tensor
    """(n, 2) float32: the points as asked for, in pixels of the source."""
    tokens: Tensor
    """(n, 2) int64: column and row of the token under each point, which was perturbed."""
    target_xy: Tensor
    """(T, n, 2) float32: centre of the most sensitive target token, in pixels of the images as given."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used."""
    given: tuple[int, int]
    """(H, W) of the images as given."""


def heat_maps(
    model: Model,
    source: ImageLike,
    targets: Images,
    xy: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    size: Size = None,
    level: int | None = None,
    draws: int = 8,
    seed: int = 0,
    batch_size: int = 8,
) -> HeatMaps:
    """Where points of one frame went in other frames (section 4.4).

    Each map is that of :func:`~midway_zoo.perturbation_heatmap` for the point; points on one token share their work.

    Args:
        model: a network or a pretrained name.
        source: one image.
        targets: one image or several of the same size.
        xy: (x, y) in pixels of the source, or several (n, 2).
        size: as in :func:`~midway_zoo.extract_features`.
        level: level of the forward dynamics to perturb, 2, 1 or 0; None for the highest that the network has.
        draws: random perturbations per token to average.
        seed: seed of the perturbations.
        batch_size: targets per forward pass.

    Returns:
        ``heatmaps`` (T, n, h, w), ``target_xy`` (T, n, 2) and the tokens that were perturbed.

    Raises:
        InputError: for images or arguments that cannot be used, a point outside the image, or sizes that differ.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    check_integer("batch_size", batch_size, 1)
    points = parse_points(xy, None, "one (x, y) or several, (n, 2),")
    first = to_tensor(source)
    given = (first.shape[1], first.shape[2])
    maps: list[Tensor] = []
    tokens, grid = torch.zeros(0, 2), (0, 0)
    with inference(network):
        for batch in pair_batches(network, [first] * count(targets), targets, size, batch_size):
            grid = network.grid_of(batch.images[0])
            tokens = tokens_under(points, given, grid)
            chosen, which = (tokens[:, 1] * grid[1] + tokens[:, 0]).unique(return_inverse=True)
            found = sensitivity(
                network, *batch.images, tokens=chosen.tolist(), level=level, draws=draws, seed=seed, progress=True
            )
            maps.append(found[:, which.to(found.device)])
    matrix = torch.cat(maps)
    peak = matrix.argmax(dim=-1)
    centre = torch.stack([peak % grid[1], peak // grid[1]], dim=-1) + 0.5
    target_xy = centre * centre.new_tensor(pixels_per_token(given, grid)) - 0.5
    return HeatMaps(matrix.unflatten(2, grid), points, tokens, target_xy, grid, given)
