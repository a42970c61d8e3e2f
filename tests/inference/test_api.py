"""Features, motion latents, flow and heat maps of pictures of any size, and what these functions leave untouched."""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError, MidwayZooError, UnknownModelError
from midway_zoo.inference import api
from midway_zoo.inference import flow as flow_prediction
from midway_zoo.inference.perturbation import matches, sensitivity, token_flow
from tests.oracles import shifted

PATCH = 8
SIZES = [(64, 64), (48, 80), (64, 64), (80, 48), (48, 80)]
"""(height, width) of pictures with three different grids, each an eighth of the size at size="full"."""


def normalised(images: Tensor) -> Tensor:
    """What the network takes, made by hand: the encoder's mean and std are ImageNet's."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (images - mean) / std


def pair(height: int = 32, width: int = 32, number: int = 2) -> tuple[Tensor, Tensor]:
    """Small source and target pictures (B, 3, H, W); with size="full" a grid of an eighth."""
    return torch.rand(number, 3, height, width), torch.rand(number, 3, height, width)


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


CALLS: dict[str, Callable[..., Any]] = {
    "extract_features": lambda network, source, target, size="full", **kw: mz.extract_features(
        network, source, backward=True, size=size, **kw
    ),
    "infer_motion_latent": lambda network, source, target, size="full", **kw: mz.infer_motion_latent(
        network, source, target, size=size, **kw
    ),
    "predict_flow": lambda network, source, target, size="full", **kw: mz.predict_flow(
        network, source, target, size=size, **kw
    ),
    "perturbation_heatmap": lambda network, source, target, size="full", **kw: mz.perturbation_heatmap(
        network, source, target, (3, 4), size=size, draws=1, **kw
    ),
}
"""The four functions with one signature, on pictures as large as they are."""
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
PERTURBATIONS = pytest.mark.parametrize(
    "call", [CALLS["predict_flow"], CALLS["perturbation_heatmap"]], ids=["predict_flow", "perturbation_heatmap"]
)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in a result."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def close_results(found: Any, expected: Any, atol: float = 1e-5) -> None:
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for one, other in pairs:
        close(one, other, atol)


# Features.


def test_features_have_the_documented_shapes(nano: mz.MidwayNetwork) -> None:
    found = mz.extract_features(nano, torch.rand(2, 3, 64, 96), backward=True)
    assert len(found) == 2
    assert found.cls.shape == (2, 96)
    assert list(found.maps) == [2, 5, 8, 11]
    assert list(found.backward) == [2, 1, 0]
    assert {value.shape for value in [*found.maps.values(), *found.backward.values()]} == {(2, 96, 8, 12)}
    assert found.grid == (8, 12)
    assert mz.extract_features(nano, torch.rand(3, 64, 64)).backward is None


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (104, 64)])
def test_features_are_those_of_the_network_on_normalised_input(nano: mz.MidwayNetwork, size: tuple[int, int]) -> None:
    """At the native size nothing is resized: only mean and std lie between the pictures and the network."""
    images = torch.rand(2, 3, *size)
    found = mz.extract_features(nano, images, backward=True)
    with torch.no_grad():
        levels = nano.encode(normalised(images))
        out = nano(normalised(images), normalised(images.flip(0)))
    grid = (size[0] // PATCH, size[1] // PATCH)
    assert found.grid == grid
    close(found.cls, levels[-1][:, 0])
    for block, level in zip((2, 5, 8, 11), levels, strict=True):
        close(found.maps[block], level[:, 1:].transpose(1, 2).reshape(2, 96, *grid))
    for level, tokens in out.source_backward.items():
        close(found.backward[level], tokens[:, 1:].transpose(1, 2).reshape(2, 96, *grid))


def test_maps_are_row_major(nano: mz.MidwayNetwork) -> None:
    """Turning patches into a map is not transposed: a change in the upper right corner shows most there."""
    image = torch.full((3, 64, 96), 0.5)
    changed = image.clone()
    changed[:, :8, -8:] = 1
    before, after = (mz.extract_features(nano, picture, blocks=(0,)).maps[0][0] for picture in (image, changed))
    assert int((after - before).norm(dim=0).argmax()) == 11  # row 0, column 11 of 8 x 12


@pytest.mark.parametrize("blocks", [(2, 5, 8, 11), (0,), [11], (7, 3), range(12), (11, 2)], ids=str)
def test_blocks_are_returned_in_the_order_given(nano: mz.MidwayNetwork, blocks: Any) -> None:
    images = torch.rand(2, 3, 64, 64)
    found = mz.extract_features(nano, images, blocks=blocks, backward=True)
    assert list(found.maps) == list(blocks)
    everything = mz.extract_features(nano, images, blocks=range(12), backward=True)
    for block in blocks:
        close(found.maps[block], everything.maps[block])
    close(found.cls, everything.cls)
    for level in (2, 1, 0):
        close(found.backward[level], everything.backward[level])


@pytest.mark.parametrize("blocks", [(), (12,), (-1,), (2, 2), (2.0,), (True,), ("2",), 5, None], ids=str)
def test_blocks_that_do_not_exist_are_refused(nano: mz.MidwayNetwork, blocks: Any) -> None:
    with pytest.raises(InputError, match=r"blocks=.*from 0 to 11"):
        mz.extract_features(nano, torch.rand(3, 64, 64), blocks=blocks)


def test_paired_mode_reads_the_source_encoder() -> None:
    network = mz.create_model("midway_nano", paired=True)
    image = torch.rand(3, 64, 64)
    before = mz.extract_features(network, image)
    with torch.no_grad():
        for parameter in network.target_encoder.parameters():
            parameter.add_(1)
    close_results(mz.extract_features(network, image), before, atol=0)


@pytest.mark.parametrize(
    ("size", "grid"), [(None, (8, 13)), (96, (12, 20)), ((64, 64), (8, 8)), ([24, 40], (3, 5)), ("full", (6, 10))]
)
def test_the_grid_that_was_used_is_reported(nano: mz.MidwayNetwork, size: Any, grid: tuple[int, int]) -> None:
    source, target = torch.rand(3, 48, 80), torch.rand(3, 48, 80)
    features = mz.extract_features(nano, source, size=size)
    assert features.grid == grid
    assert features.maps[2].shape == (1, 96, *grid)
    assert mz.infer_motion_latent(nano, source, target, size=size).grid == grid


@pytest.mark.parametrize("size", [0, "big", (64, 60), (64,), 10**6], ids=str)
@EVERY_CALL
def test_a_size_that_makes_no_sense_is_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], size: Any) -> None:
    with pytest.raises(InputError, match=r"size=|over 65536 patches"):
        call(nano, *pair(), size=size)


# Motion latents.


def test_motion_latents_are_those_of_the_network_on_normalised_input(nano: mz.MidwayNetwork) -> None:
    source, target = pair(64, 96, 3)
    found = mz.infer_motion_latent(nano, source, target)
    with torch.no_grad():
        expected = nano(normalised(source), normalised(target)).motion_latents
    assert found.tokens.shape == (3, 10, 48)
    assert list(found.levels) == [2, 1, 0]
    for level in (2, 1, 0):
        close(found.levels[level], expected[level])
    close(found.tokens, expected[0])
    close(found.pooled, expected[0].mean(dim=1))
    assert found.grid == (8, 12)
    assert found.pts_seconds is None


def test_motion_has_a_direction(nano: mz.MidwayNetwork) -> None:
    source, target = pair(64, 64)
    there, back = mz.infer_motion_latent(nano, source, target), mz.infer_motion_latent(nano, target, source)
    assert (there.tokens - back.tokens).abs().max() > 1e-2


# Several pictures at once.


@EVERY_CALL
def test_results_come_in_the_order_given_whatever_the_sizes(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    """Batches group pictures by size, results do not; sizes here are such that heat maps have equal grids, too."""
    sizes = [(32, 32), (29, 35), (32, 32), (35, 29), (30, 30)]
    source, target = ([torch.rand(3, *size) for size in sizes] for _ in range(2))
    together = list(tensors_of_items(call(nano, source, target, batch_size=2), len(sizes)))
    for index, found in enumerate(together):
        alone = tensors_of_items(call(nano, source[index], target[index]), 1)[0]
        for one, other in zip(found, alone, strict=True):
            close(one, other)


def tensors_of_items(result: Any, number: int) -> list[list[Tensor]]:
    """Per item its part of each batch tensor or list of a result."""
    values: list[Any] = []
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        values += list(value.values()) if isinstance(value, dict) else [value]
    batched = [value for value in values if isinstance(value, Tensor) or (isinstance(value, list) and len(value))]
    batched = [value for value in batched if isinstance(value[0], Tensor)]
    assert all(len(value) == number for value in batched)
    return [[value[index] for value in batched] for index in range(number)]


def test_different_grids_give_lists(nano: mz.MidwayNetwork) -> None:
    images, targets = ([torch.rand(3, *size) for size in SIZES] for _ in range(2))
    features = mz.extract_features(nano, images, size="full", backward=True, batch_size=2)
    grids = [(height // PATCH, width // PATCH) for height, width in SIZES]
    assert features.grid == grids
    assert features.cls.shape == (5, 96)
    for maps in [*features.maps.values(), *features.backward.values()]:
        assert [tuple(value.shape) for value in maps] == [(96, *grid) for grid in grids]
    motion = mz.infer_motion_latent(nano, images, targets, size="full", batch_size=2)
    assert motion.grid == grids
    assert motion.tokens.shape == (5, 10, 48)


def test_flow_of_different_sizes_gives_lists(nano: mz.MidwayNetwork) -> None:
    sizes = [(32, 32), (24, 40), (32, 32)]
    source, target = ([torch.rand(3, *size) for size in sizes] for _ in range(2))
    found = mz.predict_flow(nano, source, target, size="full")
    assert [tuple(flow.shape) for flow in found.flow] == [(2, *size) for size in sizes]
    assert [tuple(confidence.shape) for confidence in found.confidence] == [(1, *size) for size in sizes]
    assert found.grid == [(4, 4), (3, 5), (4, 4)]


def test_heat_maps_of_different_grids_are_refused(nano: mz.MidwayNetwork) -> None:
    images = [torch.rand(3, 32, 32), torch.rand(3, 24, 40)]
    with pytest.raises(InputError, match="once per size"):
        mz.perturbation_heatmap(nano, images, images, (1, 1), size="full", draws=1)


@EVERY_CALL
def test_the_batch_size_changes_nothing_and_bounds_every_pass(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair(number=4)
    whole = call(nano, source, target, batch_size=4)
    members = 1 if call is CALLS["extract_features"] else 2
    for batch_size in (1, 3, 5):
        seen: list[int] = []
        hook = nano.encoder.patch_embed.register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(len(inputs[0]))
        )
        close_results(call(nano, source, target, batch_size=batch_size), whole)
        hook.remove()
        assert max(seen) <= batch_size * members
        assert sum(seen) == 4 * members


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None])
@EVERY_CALL
def test_a_batch_size_that_makes_no_sense_is_refused(
    nano: mz.MidwayNetwork, call: Callable[..., Any], batch_size: Any
) -> None:
    with pytest.raises(InputError, match=f"batch_size={batch_size}"):
        call(nano, *pair(), batch_size=batch_size)


@pytest.mark.parametrize("kind", ["PIL", "path", "array", "list"])
@EVERY_CALL
def test_pictures_may_be_of_any_kind(
    nano: mz.MidwayNetwork, tmp_path: Path, call: Callable[..., Any], kind: str
) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = call(nano, *(torch.from_numpy(array).permute(2, 0, 1) for array in arrays))
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    convert: dict[str, Callable[[int], Any]] = {
        "PIL": lambda index: Image.fromarray(arrays[index]),
        "path": lambda index: tmp_path / f"{index}.png",
        "array": lambda index: arrays[index],
        "list": lambda index: [arrays[index] / 255],
    }
    close_results(call(nano, convert[kind](0), convert[kind](1)), expected)


# Perturbation: sensitivity, heat maps, flow.


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
    """-1 would be the class token, which is no place in the picture."""
    source, target = (normalised(images) for images in pair())
    with pytest.raises(InputError, match="token"):
        sensitivity(nano, source, target, tokens=tokens)


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
    monkeypatch.setattr(api, "sensitivity", lambda *_, **__: matrix)
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
    monkeypatch.setattr(api, "sensitivity", lambda *_, **__: torch.zeros(2, 1, 20))
    source, target = pair(32, 40)
    found = mz.perturbation_heatmap(nano, source, target, as_kind(xy), size="full")
    assert found.source_token.tolist() == [list(token)] * 2
    assert found.source_token.dtype == torch.int64


@pytest.mark.parametrize("xy", [(-1, 0), (0, -0.5), (40, 0), (0, 32), (1e9, 0), (float("nan"), 0), (0, float("inf"))])
def test_a_point_outside_the_picture_is_refused(nano: mz.MidwayNetwork, xy: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"xy=\(.*outside the image of 40 x 32 pixels \(width x height\)"):
        mz.perturbation_heatmap(nano, *pair(32, 40), xy, size="full")


@pytest.mark.parametrize(
    "xy",
    [5, (1,), (1, 2, 3), [(1, 2)] * 3, [(1, 2)], torch.zeros(2, 2, 2), [], None, "12", [(1, 2), (3,)], {"x": 1}],
    ids=lambda xy: repr(xy).replace("\n", ""),
)
def test_points_of_another_shape_are_refused(nano: mz.MidwayNetwork, xy: Any) -> None:
    with pytest.raises(MidwayZooError, match=r"xy.*\(2, 2\)"):
        mz.perturbation_heatmap(nano, *pair(), xy, size="full")


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


# Pairs and models that do not fit.

PAIR_CALLS = pytest.mark.parametrize(
    "call", [call for name, call in CALLS.items() if name != "extract_features"], ids=list(CALLS)[1:]
)


@PAIR_CALLS
@pytest.mark.parametrize(("sources", "targets"), [(2, 3), (3, 1), (1, 2)])
def test_each_source_needs_one_target(
    nano: mz.MidwayNetwork, call: Callable[..., Any], sources: int, targets: int
) -> None:
    with pytest.raises(InputError, match=f"{sources} source and {targets} target"):
        call(nano, torch.rand(sources, 3, 32, 32), torch.rand(targets, 3, 32, 32))


@PAIR_CALLS
def test_source_and_target_of_different_sizes_are_named(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    target = [torch.rand(3, 32, 32), torch.rand(3, 32, 40)]
    with pytest.raises(InputError, match=r"pair 1: .*32 x 32 and 40 x 32 pixels \(width x height\)"):
        call(nano, source, target)


@EVERY_CALL
@pytest.mark.parametrize("images", [[], torch.zeros(0, 3, 32, 32)], ids=["list", "tensor"])
def test_no_pictures_are_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], images: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        call(nano, images, images)


@EVERY_CALL
def test_a_picture_that_is_refused_is_named_by_its_place(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32), torch.rand(3, 32, 32) * 255]
    with pytest.raises(InputError, match=r"image 2: .*\[0, 1\]"):
        call(nano, images, images)


@EVERY_CALL
@pytest.mark.parametrize(
    "images", [None, 5, (torch.rand(3, 32, 32) for _ in range(2))], ids=["None", "int", "iterator"]
)
def test_pictures_of_another_type_are_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], images: Any) -> None:
    with pytest.raises(InputTypeError, match="pass a PIL image"):
        call(nano, images, images)


@EVERY_CALL
@pytest.mark.parametrize("model", [None, 5, Path("midway_vits"), torch.nn.Identity()], ids=lambda m: type(m).__name__)
def test_a_model_of_another_type_is_refused(call: Callable[..., Any], model: Any) -> None:
    with pytest.raises(InputTypeError, match=rf"{type(model).__name__} is no Midway network.*create_model"):
        call(model, *pair())


@EVERY_CALL
def test_the_bare_encoder_is_refused_with_the_reason(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    with pytest.raises(InputTypeError, match="encoder alone"):
        call(nano.encoder, *pair())


@EVERY_CALL
def test_an_unknown_name_is_refused_with_the_nearest(call: Callable[..., Any]) -> None:
    with pytest.raises(UnknownModelError, match=r"'midway_vit'.*'midway_vits'"):
        call("midway_vit", *pair())


def test_a_name_is_loaded_once(nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []

    def create(name: str, pretrained: bool = False) -> mz.MidwayNetwork:
        loaded.append((name, pretrained))
        return nano

    monkeypatch.setattr("midway_zoo.weights.registry.create_model", create)
    image = torch.rand(3, 32, 32)
    first, second = (mz.extract_features("a name of this test alone", image) for _ in range(2))
    assert loaded == [("a name of this test alone", True)]
    close_results(first, second, atol=0)


# What stays as it was.


@pytest.fixture
def part_in_training(nano: mz.MidwayNetwork) -> mz.MidwayNetwork:
    """A copy in training mode, except for its encoder, of which one block is in training mode again."""
    network = copy.deepcopy(nano).train()
    network.encoder.eval()
    network.encoder.blocks[3].train()
    return network


@EVERY_CALL
@pytest.mark.parametrize(
    ("brightest", "outcome"), [(1, nullcontext()), (2, pytest.raises(InputError))], ids=["result", "error"]
)
def test_modes_of_all_parts_are_put_back(
    part_in_training: mz.MidwayNetwork,
    call: Callable[..., Any],
    brightest: float,
    outcome: AbstractContextManager[Any],
) -> None:
    """The error comes in the second batch, when the network has already run."""
    source, target = pair()
    source[1, 0, 0, 0] = brightest
    during: list[bool] = []
    part_in_training.dynamics.source_embed.register_forward_hook(lambda part, *_: during.append(part.training))
    part_in_training.encoder.blocks[3].register_forward_hook(lambda part, *_: during.append(part.training))
    before = {name: module.training for name, module in part_in_training.named_modules()}
    with outcome:
        call(part_in_training, source, target, batch_size=1)
    assert {name: module.training for name, module in part_in_training.named_modules()} == before
    assert during
    assert not any(during)


@EVERY_CALL
@pytest.mark.parametrize("brightest", [1, 2], ids=["result", "error"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradient_mode_is_put_back(
    nano: mz.MidwayNetwork, call: Callable[..., Any], mode: Callable[[], Any], brightest: float
) -> None:
    source, target = pair()
    source[1, 0, 0, 0] = brightest
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with nullcontext() if brightest == 1 else pytest.raises(InputError):
            call(nano, source, target, batch_size=1)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@EVERY_CALL
def test_results_carry_no_gradient_and_parameters_get_none(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair()
    found = list(tensors_of(call(nano, source.requires_grad_(), target)))
    assert found
    assert not any(value.requires_grad for value in found)
    assert all(parameter.grad is None for parameter in nano.parameters())


@EVERY_CALL
def test_pictures_and_weights_are_not_changed(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair(30, 45)
    images = source.clone(), target.clone()
    weights = {name: value.clone() for name, value in nano.state_dict().items()}
    call(nano, source, target)
    assert source.equal(images[0])
    assert target.equal(images[1])
    assert all(value.equal(weights[name]) for name, value in nano.state_dict().items())


@EVERY_CALL
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-4), (torch.bfloat16, None)], ids=["float64", "bfloat16"]
)
def test_networks_of_other_precision_give_the_same_in_theirs(
    nano: mz.MidwayNetwork, call: Callable[..., Any], dtype: torch.dtype, atol: float | None
) -> None:
    """Features and latents in the network's precision; pixels and cosines in float32."""
    source, target = pair()
    found, expected = call(copy.deepcopy(nano).to(dtype), source, target), call(nano, source, target)
    own = isinstance(found, mz.Features | mz.MotionLatent)
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert one.shape == other.shape
        if one.is_floating_point():
            assert one.dtype == (dtype if own else torch.float32)
            assert one.isfinite().all()
        if atol is not None:
            close(one.float(), other.float(), atol=atol)
        elif own:
            assert F.cosine_similarity(one.float().flatten(), other.flatten(), dim=0) > 0.98


@pytest.mark.parametrize(
    ("name", "pictures", "more", "options"),
    [
        ("extract_features", 1, (), {"blocks": (1, 4), "backward": True}),
        ("infer_motion_latent", 2, (), {"batch_size": 1}),
        ("predict_flow", 2, (), {"window": 0, "level": 1}),
        ("perturbation_heatmap", 2, ((9, 3),), {"draws": 2, "level": 0}),
    ],
)
def test_methods_of_the_network_are_the_functions(
    nano: mz.MidwayNetwork, name: str, pictures: int, more: tuple[Any, ...], options: dict[str, Any]
) -> None:
    arguments = (*pair()[:pictures], *more)
    found = getattr(nano, name)(*arguments, size="full", **options)
    close_results(found, getattr(mz, name)(nano, *arguments, size="full", **options), atol=0)


# Results.


@EVERY_CALL
def test_results_print_shapes_and_no_numbers(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    images = [torch.rand(3, 32, 32), torch.rand(3, 33, 31)]
    shown = repr(call(nano, images, images))
    assert "\n" not in shown
    assert "tensor" not in shown
    assert not re.search(r"\d\.\d|\de-\d", shown)


def test_results_print_each_field_with_dtype_and_shape(nano: mz.MidwayNetwork) -> None:
    source, target = torch.rand(2, 3, 32, 40), torch.rand(2, 3, 32, 40)
    other = torch.rand(3, 24, 24)
    assert repr(mz.extract_features(nano, source, size="full", blocks=(2, 11))) == (
        "Features(cls=float32[2, 96], maps={2: float32[2, 96, 4, 5], 11: float32[2, 96, 4, 5]}, grid=(4, 5))"
    )
    assert repr(mz.extract_features(nano, [source[0], other], size="full", blocks=(2,))) == (
        "Features(cls=float32[2, 96], maps={2: [float32[96, 4, 5], float32[96, 3, 3]]}, grid=[(4, 5), (3, 3)])"
    )
    assert repr(mz.infer_motion_latent(nano, source, target, size="full")) == (
        "MotionLatent(tokens=float32[2, 10, 48], levels={2: float32[2, 10, 48], 1: float32[2, 10, 48], "
        "0: float32[2, 10, 48]}, pooled=float32[2, 48], grid=(4, 5))"
    )
    assert repr(mz.predict_flow(nano, source, target, size="full")) == (
        "FlowPrediction(flow=float32[2, 2, 32, 40], confidence=float32[2, 1, 32, 40], method='perturbation', "
        "grid=(4, 5))"
    )
    assert repr(mz.perturbation_heatmap(nano, source, target, (1, 1), size="full", draws=1)) == (
        "PerturbationHeatmap(heatmap=float32[2, 4, 5], source_token=int64[2, 2], target_xy=float32[2, 2], grid=(4, 5))"
    )


@EVERY_CALL
def test_results_are_frozen(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    found = call(nano, *pair())
    for field in dataclasses.fields(found):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(found, field.name, None)


@EVERY_CALL
def test_results_can_be_compared_and_kept_in_a_set(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    """By identity: comparing tensors field by field would raise, since their truth is ambiguous."""
    source, target = pair()
    first, second = call(nano, source, target), call(nano, source, target)
    assert first == first
    assert first != second
    assert len({first, second}) == 2
