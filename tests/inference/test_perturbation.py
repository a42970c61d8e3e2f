"""Perturbation: sensitivity, heat maps, zero-shot flow."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.errors import InputError
from midway_zoo.inference import flow as flow_prediction
from midway_zoo.inference.perturbation import matches, sensitivity, token_flow
from tests.inference.calls import (
    CALLS,
    close,
    close_results,
    normalised,
    pair,
    tensors_of,
)
from tests.oracles import shifted

PERTURBATIONS = pytest.mark.parametrize(
    "call", [CALLS["predict_flow"], CALLS["perturbation_heatmap"]], ids=["predict_flow", "perturbation_heatmap"]
)


@pytest.mark.parametrize("level", [2, 1, 0])
def test_sensitivity_is_the_derivative(nano: mz.MidwayNetwork, level: int) -> None:
    """Against central differences in double precision, for two draws of the documented tangents."""
    network = copy.deepcopy(nano).double()
    source, target = (normalised(images).double() for images in pair(16, 24))
    draws, seed, step, tokens = 2, 5, 1e-5, [0, 4, 5]
    found = sensitivity(network, source, target, tokens=tokens, level=level, draws=draws, seed=seed)
    assert found.shape == (2, 3, 6)

    tangents = torch.randn(draws, 6, 96, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        encoded = network.encode_pair(source, target)
        motion, features = network.dynamics.forward_inputs(*encoded, (2, 3), level=level)
        for row, token in enumerate(tokens):
            cosines = torch.zeros(2, 6).double()
            for tangent in tangents[:, token]:
                ahead, behind = features.clone(), features.clone()
                ahead[:, 1 + token] += step * tangent
                behind[:, 1 + token] -= step * tangent
                moved = network.dynamics.predict(level, motion, ahead)[0]
                moved = (moved - network.dynamics.predict(level, motion, behind)[0]) / (2 * step)
                cosines += F.cosine_similarity(moved[:, 1:], tangent, dim=-1) / draws
            close(found[:, row].double(), cosines, atol=1e-5)
    assert found.abs().max() > 0.02  # something moved


def test_sensitivity_is_in_range_and_differs_between_tokens_and_levels(nano: mz.MidwayNetwork) -> None:
    source, target = (normalised(images) for images in pair())
    found = [sensitivity(nano, source, target, level=level) for level in (2, 1, 0)]
    for matrix in found:
        assert matrix.shape == (2, 16, 16)
        assert matrix.dtype == torch.float32
        assert matrix.abs().max() <= 1 + 1e-6
        assert matrix.std(dim=1).min() > 1e-3
    assert (found[0] - found[1]).abs().max() > 1e-2
    assert (found[1] - found[2]).abs().max() > 1e-2


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 1000])
def test_the_chunk_size_changes_nothing(nano: mz.MidwayNetwork, chunk_size: int) -> None:
    source, target = (normalised(images) for images in pair())
    close(sensitivity(nano, source, target, chunk_size=chunk_size), sensitivity(nano, source, target))


def test_chosen_tokens_are_rows_of_the_full_matrix(nano: mz.MidwayNetwork) -> None:
    source, target = (normalised(images) for images in pair())
    full = sensitivity(nano, source, target, draws=2, seed=3)
    close(sensitivity(nano, source, target, draws=2, seed=3, tokens=[9, 0, 15]), full[:, [9, 0, 15]])
    per_pair = sensitivity(nano, source, target, draws=2, seed=3, tokens=torch.tensor([9, 4]))
    close(per_pair, torch.stack([full[0, 9:10], full[1, 4:5]]))


@pytest.mark.parametrize("tokens", [[-1], [16], [1.5], torch.tensor([3]), torch.tensor([3, 16])], ids=repr)
def test_tokens_that_do_not_exist_are_refused(nano: mz.MidwayNetwork, tokens: Any) -> None:
    """-1 would be the class token, which is not a place in the picture."""
    source, target = (normalised(images) for images in pair())
    with pytest.raises(InputError, match="token"):
        sensitivity(nano, source, target, tokens=tokens)


def test_flow_and_confidence_are_those_of_the_sensitivity_matrix(nano: mz.MidwayNetwork) -> None:
    """At a grid of 4 x 4 on 32 x 32 pixels a token is 8 pixels wide and high."""
    source, target = pair()
    found = mz.predict_flow(nano, source, target, size="full", level=1, draws=2, seed=3, window=1)
    matrix = sensitivity(nano, normalised(source), normalised(target), level=1, draws=2, seed=3)
    flow, confidence = token_flow(matrix, (4, 4), window=1)
    assert found.method == "perturbation"
    assert found.flow.dtype == found.confidence.dtype == torch.float32
    close(found.flow, F.interpolate(flow * 8, size=(32, 32), mode="bilinear", align_corners=False), atol=1e-3)
    close(found.confidence, F.interpolate(confidence, size=(32, 32), mode="bilinear", align_corners=False))
    assert found.confidence.abs().max() <= 1


def inside(pixels: int, tokens: int, move: int) -> Tensor:
    """Pixels between tokens whose target, and the window around it, lie within the grid."""
    position = (torch.arange(pixels) + 0.5) * tokens / pixels - 0.5
    return (position >= max(0, 1 - move)) & (position <= tokens - 1 - max(0, move + 1))


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, 0), (0, -1), (-3, 2), (1, 3)])
@pytest.mark.parametrize(
    ("given_size", "size", "grid"),
    [((96, 96), None, (8, 8)), ((50, 90), (64, 64), (8, 8)), ((120, 70), (64, 96), (8, 12)), ((37, 131), 64, (8, 28))],
)
@pytest.mark.parametrize("window", [0, 1])
def test_flow_is_in_pixels_of_the_given_picture(
    nano: mz.MidwayNetwork,
    monkeypatch: pytest.MonkeyPatch,
    given_size: tuple[int, int],
    size: Any,
    grid: tuple[int, int],
    dx: int,
    dy: int,
    window: int,
) -> None:
    """A move of (dx, dy) tokens is one of (dx W / w, dy H / h) pixels, whatever the size inside the network."""
    height, width = given_size
    monkeypatch.setattr(flow_prediction, "sensitivity_of", lambda *_, **__: shifted(grid, dx, dy)[None])
    found = mz.predict_flow(nano, torch.rand(3, *given_size), torch.rand(3, *given_size), size=size, window=window)
    assert found.grid == grid
    assert found.flow.shape == (1, 2, height, width)
    rows, columns = inside(height, grid[0], dy), inside(width, grid[1], dx)
    assert rows.any()
    assert columns.any()
    flow = found.flow[0][:, rows][:, :, columns]
    close(flow[0], torch.full_like(flow[0], dx * width / grid[1]), atol=1e-3)
    close(flow[1], torch.full_like(flow[1], dy * height / grid[0]), atol=1e-3)
    close(found.confidence, torch.ones(1, 1, height, width))


def test_channel_0_is_x_and_channel_1_is_y(nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_prediction, "sensitivity_of", lambda *_, **__: shifted((8, 8), 2, -1)[None])
    flow = mz.predict_flow(nano, torch.rand(3, 64, 64), torch.rand(3, 64, 64), window=0).flow
    close(flow[0, :, 40, 20], torch.tensor([16.0, -8.0]))


def test_window_is_the_radius_of_a_softmax_around_the_peak() -> None:
    """By hand: temperature 0.1, so a neighbour that is lower by 0.1 weighs 1/e."""
    matrix = torch.full((1, 1, 5 * 6), -50.0)
    place = matrix.view(5, 6)
    place[2, 3], place[2, 4], place[1, 3] = 0.5, 0.4, 0.4
    place[2, 1] = 0.45  # two tokens away: outside a window of 1
    small, far = np.exp(-1), np.exp(-0.5)
    for window, x, y in [
        (0, 3.0, 2.0),
        (1, 3 + small / (1 + 2 * small), 2 - small / (1 + 2 * small)),
        (2, 3 + (small - 2 * far) / (1 + 2 * small + far), 2 - small / (1 + 2 * small + far)),
    ]:
        position, peak = matches(matrix, (5, 6), window=window)
        close(position, torch.tensor([[[x, y]]], dtype=torch.float32), atol=1e-5)
        close(peak, torch.tensor([[0.5]]))


def test_window_reaches_predict_flow(nano: mz.MidwayNetwork) -> None:
    source, target = pair()
    plain, soft = (mz.predict_flow(nano, source, target, size="full", window=window).flow for window in (0, 1))
    centres = plain[:, :, 3:5, 3:5].mean(dim=(2, 3))  # the mean of the pixels around a token's centre is its value
    close(centres / 8, (centres / 8).round(), atol=1e-4)
    assert (plain - soft).abs().max() > 1e-2


@PERTURBATIONS
def test_a_seed_decides_and_the_global_generator_is_left_alone(
    nano: mz.MidwayNetwork, call: Callable[..., Any]
) -> None:
    source, target = pair()
    state = torch.get_rng_state()
    first = call(nano, source, target, seed=1)
    assert torch.get_rng_state().equal(state)
    torch.rand(3)
    close_results(call(nano, source, target, seed=1), first, atol=0)
    assert any(
        not one.equal(other)
        for one, other in zip(tensors_of(call(nano, source, target, seed=2)), tensors_of(first), strict=True)
    )


def test_draws_are_averaged(nano: mz.MidwayNetwork) -> None:
    """Averages over many draws agree better between seeds than single draws."""
    source, target = pair(16, 16)

    def disagreement(draws: int) -> float:
        one, other = (
            mz.perturbation_heatmap(nano, source, target, (3, 3), size="full", draws=draws, seed=seed).heatmap
            for seed in (1, 2)
        )
        return float((one - other).abs().mean())

    assert disagreement(32) < disagreement(1) / 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("level", level) for level in (3, -1, "2", 2.0, True, [2])),
        *(("draws", draws) for draws in (0, -1, 1.5, True, None, "2")),
        *(("seed", seed) for seed in (-1, 1.5, True, None, 2**63)),
    ],
)
@pytest.mark.parametrize("function", [mz.predict_flow, mz.perturbation_heatmap])
def test_perturbation_arguments_that_make_no_sense_are_named(
    nano: mz.MidwayNetwork, function: Callable[..., Any], argument: str, value: Any
) -> None:
    point = [(1, 1)] if function is mz.perturbation_heatmap else []
    with pytest.raises(InputError, match=re.escape(f"{argument}={value!r}")):
        function(nano, *pair(), *point, size="full", **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("window", -1, "window=-1"),
        ("window", 0.5, "window=0.5"),
        ("window", True, "window=True"),
        ("window", None, "window=None"),
        ("method", "raft", "method='raft'"),
        ("method", None, "method=None"),
        ("method", "head", 'no flow head; use method="perturbation"'),
    ],
)
def test_flow_arguments_that_make_no_sense_are_named(
    nano: mz.MidwayNetwork, argument: str, value: Any, named: str
) -> None:
    with pytest.raises(InputError) as caught:
        mz.predict_flow(nano, *pair(), **{argument: value})
    assert named in str(caught.value)


def test_auto_without_a_head_is_the_perturbation_method(nano: mz.MidwayNetwork) -> None:
    source, target = pair()
    found = mz.predict_flow(nano, source, target, size="full")
    assert found.method == "perturbation"
    close_results(found, mz.predict_flow(nano, source, target, size="full", method="perturbation"), atol=0)
