"""Heat maps: where a point went, from and to pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import InputError, MidwayZooError
from midway_zoo.inference import heatmap
from midway_zoo.inference.perturbation import sensitivity
from tests.inference.calls import (
    close,
    normalised,
    pair,
)


@pytest.mark.parametrize("level", [2, 1, 0])
def test_a_heat_map_is_a_row_of_the_sensitivity_matrix(nano: mz.MidwayNetwork, level: int) -> None:
    source, target = pair(32, 40)
    points = [(0, 0), (27, 13)]
    found = mz.perturbation_heatmap(nano, source, target, points, size="full", level=level, draws=2, seed=3)
    full = sensitivity(nano, normalised(source), normalised(target), level=level, draws=2, seed=3)
    assert found.heatmap.shape == (2, 4, 5)
    assert found.grid == (4, 5)
    assert found.source_token.tolist() == [[0, 0], [3, 1]]
    close(found.heatmap, torch.stack([full[0, 0], full[1, 1 * 5 + 3]]).view(2, 4, 5))


@pytest.mark.parametrize(
    ("given_size", "size", "grid"),
    [((64, 64), None, (8, 8)), ((50, 90), (64, 64), (8, 8)), ((120, 70), (64, 96), (8, 12))],
)
@pytest.mark.parametrize(("column", "row"), [(0, 0), (7, 0), (3, 7), (5, 2)])
def test_the_peak_is_at_its_tokens_centre_in_pixels(
    nano: mz.MidwayNetwork,
    monkeypatch: pytest.MonkeyPatch,
    given_size: tuple[int, int],
    size: Any,
    grid: tuple[int, int],
    column: int,
    row: int,
) -> None:
    """Pixel centres are at integers, so a token from pixel 0 to 7 has its centre at 3.5; and back again."""
    matrix = torch.rand(1, 1, grid[0] * grid[1]) / 2
    matrix[0, 0, row * grid[1] + column] = 0.9
    monkeypatch.setattr(heatmap, "sensitivity", lambda *_, **__: matrix)
    image = torch.rand(3, *given_size)
    centre = [(column + 0.5) * given_size[1] / grid[1] - 0.5, (row + 0.5) * given_size[0] / grid[0] - 0.5]
    found = mz.perturbation_heatmap(nano, image, image, centre, size=size)
    close(found.target_xy, torch.tensor([centre]), atol=1e-4)
    assert found.source_token.tolist() == [[column, row]]
    assert int(found.heatmap.argmax()) == row * grid[1] + column


@pytest.mark.parametrize(
    ("xy", "token"),
    [((0, 0), (0, 0)), ((7.4, 7.4), (0, 0)), ((7.6, 7.4), (1, 0)), ((39, 31), (4, 3)), ((8, 31), (1, 3))],
)
@pytest.mark.parametrize("as_kind", [tuple, list, torch.tensor, np.array, lambda xy: [xy, xy]])
def test_a_point_is_on_the_token_that_covers_it(
    nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, xy: Any, token: Any, as_kind: Callable[[Any], Any]
) -> None:
    """Five tokens of 8 pixels across, four down; a pixel reaches half a pixel to each side of its centre."""
    monkeypatch.setattr(heatmap, "sensitivity", lambda *_, **__: torch.zeros(2, 1, 20))
    source, target = pair(32, 40)
    found = mz.perturbation_heatmap(nano, source, target, as_kind(xy), size="full")
    assert found.source_token.tolist() == [list(token)] * 2
    assert found.source_token.dtype == torch.int64


@pytest.mark.parametrize("xy", [(-1, 0), (0, -0.5), (40, 0), (0, 32), (1e9, 0), (float("nan"), 0), (0, float("inf"))])
def test_a_point_outside_the_picture_is_refused(nano: mz.MidwayNetwork, xy: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"xy\[0\]=\(.*outside the image of 40 x 32 pixels \(width x height\)"):
        mz.perturbation_heatmap(nano, *pair(32, 40), xy, size="full")


@pytest.mark.parametrize(
    "xy",
    [5, (1,), (1, 2, 3), [(1, 2)] * 3, [(1, 2)], torch.zeros(2, 2, 2), [], None, "12", [(1, 2), (3,)], {"x": 1}],
    ids=lambda xy: repr(xy).replace("\n", ""),
)
def test_points_of_another_shape_are_refused(nano: mz.MidwayNetwork, xy: Any) -> None:
    with pytest.raises(MidwayZooError, match=r"xy.*\(2, 2\)"):
        mz.perturbation_heatmap(nano, *pair(), xy, size="full")
