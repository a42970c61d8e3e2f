"""Pictures: Middlebury flow colours, principal components of features, and heat maps over images."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import flow_to_image as torchvision_flow_to_image

from midway_zoo.errors import InputError, InputTypeError, MidwayZooError
from midway_zoo.visualize import features_to_image, flow_to_image, heatmap_overlay

NAN, INF = float("nan"), float("inf")


def uniform(x: float, y: float, height: int = 2, width: int = 3) -> Tensor:
    """A flow field (2, H, W) with the same vector everywhere."""
    return torch.tensor([x, y]).float().view(2, 1, 1).expand(2, height, width).clone()


def colour_of(x: float, y: float, **kwargs: Any) -> list[int]:
    """The colour of one vector."""
    return flow_to_image(uniform(x, y), **kwargs)[:, 0, 0].tolist()


# Flow.


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (1, 0, (255, 0, 0)),  # right: red
        (0, 1, (255, 229, 0)),  # down: yellow
        (-1, 0, (0, 209, 255)),  # left: cyan to blue
        (0, -1, (88, 0, 255)),  # up: violet
    ],
)
@pytest.mark.parametrize("length", [0.01, 1, 300])
def test_hue_is_direction(x: float, y: float, expected: tuple[int, int, int], length: float) -> None:
    """The wheel of Baker et al. has 55 colours: right is its first, down, left and up lie 13.5, 27 and 40.5 further."""
    assert colour_of(x * length, y * length) == pytest.approx(expected, abs=2)


def test_no_motion_is_white() -> None:
    assert (flow_to_image(torch.zeros(2, 4, 5)) == 255).all()
    assert colour_of(0, 0, max_flow=3) == [255, 255, 255]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_saturation_is_length_as_a_share_of_max_flow(share: float) -> None:
    fade = round(255 * (1 - share))
    assert colour_of(8 * share, 0, max_flow=8) == pytest.approx([255, fade, fade], abs=1)


@pytest.mark.parametrize("length", [8.1, 16, 1000])
def test_vectors_longer_than_max_flow_are_darkened(length: float) -> None:
    assert colour_of(length, 0, max_flow=8) == [191, 0, 0]
    assert colour_of(-length, 0, max_flow=8) == pytest.approx([0, 157, 191], abs=2)


def test_without_max_flow_each_image_has_its_longest_vector_saturated() -> None:
    flow = torch.stack([uniform(2, 0), uniform(100, 0)])
    flow[:, :, 0, 0] /= 2
    images = flow_to_image(flow)
    assert images[0].equal(images[1])
    assert images[0, :, 1, 1].tolist() == [255, 0, 0]
    assert images[0, :, 0, 0].tolist() == pytest.approx([255, 128, 128], abs=1)


@pytest.mark.parametrize("invalid", [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (INF, 0.0), (0.0, -INF)])
def test_invalid_pixels_are_black_and_change_no_other(invalid: tuple[float, float]) -> None:
    flow = torch.randn(2, 6, 7)
    flow[:, 2, 3] = 0
    expected = flow_to_image(flow)
    flow[:, 2, 3] = torch.tensor(invalid)
    expected[:, 2, 3] = 0
    assert flow_to_image(flow).equal(expected)


def test_a_flow_without_valid_pixels_is_black() -> None:
    assert (flow_to_image(uniform(NAN, NAN)) == 0).all()


@pytest.mark.parametrize("scale", [0.1, 1, 50])
def test_colours_are_those_of_torchvision(scale: float) -> None:
    """All directions and lengths, on a disc around the centre; torchvision normalises by the longest vector."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 51), indexing="ij")
    flow = torch.stack([x, y]) * scale
    longest = float(torch.hypot(*flow).max())
    expected = torchvision_flow_to_image(flow).int()
    assert (flow_to_image(flow).int() - expected).abs().max() <= 3
    assert (flow_to_image(flow, max_flow=longest).int() - expected).abs().max() <= 3


@pytest.mark.parametrize("max_flow", [None, 1.5])
def test_a_batch_is_drawn_as_its_images(max_flow: float | None) -> None:
    flow = torch.randn(3, 2, 5, 6)
    flow[1, :, 2, 2] = NAN
    images = flow_to_image(flow, max_flow=max_flow)
    assert images.shape == (3, 3, 5, 6)
    assert images.dtype == torch.uint8
    for image, single in zip(images, flow, strict=True):
        assert flow_to_image(single, max_flow=max_flow).equal(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_flow_of_other_float_types_is_drawn_alike(dtype: torch.dtype) -> None:
    flow = torch.randint(-8, 9, (2, 5, 6)).float()
    assert flow_to_image(flow.to(dtype)).equal(flow_to_image(flow))


@pytest.mark.filterwarnings("error")
def test_flow_that_requires_grad_is_drawn_without_a_warning() -> None:
    flow = torch.randn(2, 5, 6)
    assert flow_to_image(flow.clone().requires_grad_()).equal(flow_to_image(flow))


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 0, 5), (1, 2, 4, 0)])
def test_flow_of_no_pixels_gives_a_picture_of_none(shape: tuple[int, ...]) -> None:
    image = flow_to_image(torch.zeros(shape))
    assert image.shape == (*shape[:-3], 3, *shape[-2:])


@pytest.mark.parametrize(
    ("flow", "error", "named"),
    [
        (torch.zeros(3, 4, 5), InputError, "(3, 4, 5)"),
        (torch.zeros(4, 5, 2), InputError, "(4, 5, 2)"),
        (torch.zeros(2, 5), InputError, "(2, 5)"),
        (torch.zeros(1, 1, 2, 4, 5), InputError, "(1, 1, 2, 4, 5)"),
        (torch.zeros(2, 4, 5).long(), InputError, "int64"),
        (np.zeros((2, 4, 5), np.float32), InputTypeError, "ndarray"),
        (None, InputTypeError, "NoneType"),
    ],
    ids=["channels", "channels last", "two axes", "five axes", "integers", "array", "None"],
)
def test_what_is_no_flow_is_refused(flow: Any, error: type[MidwayZooError], named: str) -> None:
    with pytest.raises(error) as caught:
        flow_to_image(flow)
    assert named in str(caught.value)


@pytest.mark.parametrize("max_flow", [0, -1.0, NAN, INF])
def test_a_max_flow_that_makes_no_sense_is_refused(max_flow: float) -> None:
    with pytest.raises(InputError, match=f"max_flow={max_flow!r}"):
        flow_to_image(torch.zeros(2, 4, 5), max_flow=max_flow)


# Features.


def orthogonal_features(sign: float = 1) -> Tensor:
    """(4, 4, 4): channels 2, 0 and 3 vary independently by 30, 6 and 1; the principal components are these axes."""
    tokens = torch.tensor(list(itertools.product([-30.0, 30.0], [-6.0, -3.0, 3.0, 6.0], [-1.0, 1.0]))) * sign
    maps = torch.zeros(4, 16)
    maps[2], maps[0], maps[3] = tokens.T
    return maps.view(4, 4, 4) + 5


@pytest.mark.parametrize("sign", [1, -1])
def test_red_green_blue_are_the_principal_components_each_with_a_fixed_sign(sign: float) -> None:
    """The largest entry of each component is positive: a channel that rises is drawn lighter."""
    maps = orthogonal_features(sign)
    image = features_to_image(maps)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 4)
    for colour, channel in zip(image.int(), (2, 0, 3), strict=True):
        values = maps[channel]
        expected = (values - values.min()) / (values.max() - values.min()) * 255
        assert (colour - expected).abs().max() <= 1


def test_the_picture_is_the_same_every_time() -> None:
    maps = torch.randn(2, 32, 5, 6)
    assert features_to_image(maps).equal(features_to_image(maps.clone()))


def test_all_frames_share_one_projection() -> None:
    """A frame that holds the tokens of another in other places has their colours in these places."""
    first = torch.randn(16, 4, 5) * torch.arange(1, 17).view(16, 1, 1)
    other = torch.randn(16, 4, 5) + 3
    images = features_to_image(torch.stack([first, other, first.flip(1, 2)]))
    assert images.shape == (3, 3, 4, 5)
    assert images[2].equal(images[0].flip(1, 2))
    assert not images[0].equal(features_to_image(first))  # alone it would have a projection of its own


def test_frames_of_different_grids_can_be_given_as_a_list() -> None:
    maps = torch.randn(2, 16, 4, 6)
    images = features_to_image([maps[0], maps[1, :, :2], maps[1, :, 2:]])
    assert isinstance(images, list)
    assert [tuple(image.shape) for image in images] == [(3, 4, 6), (3, 2, 6), (3, 2, 6)]
    whole = features_to_image(maps)
    assert images[0].equal(whole[0])
    assert torch.cat(images[1:], dim=1).equal(whole[1])


@pytest.mark.parametrize("as_list", [False, True])
def test_size_enlarges_to_flat_squares(as_list: bool) -> None:
    maps = torch.randn(2, 8, 3, 4)
    small, large = features_to_image(maps), features_to_image(list(maps) if as_list else maps, size=(6, 12))
    assert torch.stack(list(large)).equal(small.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_of_other_float_types_are_drawn_alike(dtype: torch.dtype) -> None:
    maps = orthogonal_features()
    assert features_to_image(maps.to(dtype)).equal(features_to_image(maps))


def test_features_that_require_grad_are_drawn() -> None:
    maps = torch.randn(8, 3, 4)
    image = features_to_image(maps.clone().requires_grad_())
    assert not image.requires_grad
    assert image.equal(features_to_image(maps))


def test_equal_features_everywhere_give_a_flat_picture() -> None:
    assert len(features_to_image(torch.ones(2, 8, 3, 4)).unique()) == 1


@pytest.mark.parametrize(
    ("maps", "error", "named"),
    [
        (torch.zeros(4, 5), InputError, "(4, 5)"),
        (torch.zeros(1, 1, 8, 4, 5), InputError, "(1, 1, 8, 4, 5)"),
        (torch.zeros(2, 4, 5), InputError, "D >= 3"),
        (torch.zeros(0, 8, 4, 5), InputError, "expected"),
        (torch.zeros(8, 0, 5), InputError, "expected"),
        ([], InputError, "expected"),
        ([torch.zeros(8, 4, 5), torch.zeros(6, 4, 5)], InputError, "one width"),
        ([torch.zeros(1, 8, 4, 5)], InputError, "(D, h, w)"),
        (torch.full((8, 4, 5), NAN), InputError, "NaN"),
        (torch.full((8, 4, 5), INF), InputError, "infinity"),
        (np.zeros((8, 4, 5)), InputTypeError, "ndarray"),
        ([np.zeros((8, 4, 5))], InputTypeError, "ndarray"),
        (None, InputTypeError, "NoneType"),
    ],
    ids=[
        "two axes",
        "five axes",
        "two channels",
        "no frames",
        "no rows",
        "empty list",
        "two widths",
        "list of batches",
        "NaN",
        "inf",
        "array",
        "list of arrays",
        "None",
    ],
)
def test_what_are_no_features_is_refused(maps: Any, error: type[MidwayZooError], named: str) -> None:
    with pytest.raises(error) as caught:
        features_to_image(maps)
    assert named in str(caught.value)


@pytest.mark.parametrize("size", [(0, 4), (-1, 4), (4,), (4, 4.0), "big"])
def test_a_picture_size_that_makes_no_sense_is_refused(size: Any) -> None:
    with pytest.raises(MidwayZooError) as caught:
        features_to_image(torch.randn(8, 3, 4), size=size)
    assert f"size={size!r}" in str(caught.value)


# Heat maps.

DARKEST, LIGHTEST = [0, 0, 4], [252, 255, 164]


def ramp(height: int = 4, width: int = 8) -> Tensor:
    """Values that rise from 0 to 1 along the rows."""
    return torch.linspace(0, 1, height * width).view(height, width)


def test_alpha_zero_is_the_image_and_one_the_heat_map_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    assert heatmap_overlay(image, ramp(), alpha=0).equal(torch.from_numpy(image).permute(2, 0, 1))
    heat = heatmap_overlay(image, ramp(), alpha=1)
    assert heat.equal(heatmap_overlay(255 - image, ramp(), alpha=1))
    assert heat[:, 0, 0].tolist() == DARKEST
    assert heat[:, -1, -1].tolist() == LIGHTEST


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_alpha_blends(alpha: float) -> None:
    image = torch.rand(3, 4, 8)
    heat = heatmap_overlay(image, ramp(), alpha=1).float()
    expected = (1 - alpha) * image * 255 + alpha * heat
    found = heatmap_overlay(image, ramp(), alpha=alpha)
    assert found.dtype == torch.uint8
    assert (found - expected).abs().max() <= 1.01


def test_higher_values_are_lighter() -> None:
    heat = heatmap_overlay(torch.zeros(3, 1, 64), ramp(1, 64), alpha=1).float()
    luminance = (heat * torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)).sum(dim=0)[0]
    assert (luminance.diff() >= 0).all()


def test_a_small_heat_map_is_enlarged_to_the_image() -> None:
    overlay = heatmap_overlay(torch.zeros(3, 40, 60), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), alpha=1)
    assert overlay.shape == (3, 40, 60)
    assert overlay[:, 20, 0].tolist() == DARKEST
    assert overlay[:, 20, -1].tolist() == LIGHTEST
    middle = overlay[:, 20, 25:35].float()
    assert middle.diff(dim=1).abs().max() < 30  # gradual, not in squares


def test_vmin_and_vmax_fix_the_scale() -> None:
    image = torch.zeros(3, 1, 3)
    found = heatmap_overlay(image, torch.tensor([[-5.0, 0.5, 7.0]]), alpha=1, vmin=0, vmax=1)
    assert found[:, 0, 0].tolist() == DARKEST
    assert found[:, 0, 2].tolist() == LIGHTEST
    alike = heatmap_overlay(image, torch.tensor([[0.0, 0.5, 1.0]]), alpha=1)
    assert found.equal(alike)


def test_a_flat_heat_map_is_drawn_flat() -> None:
    overlay = heatmap_overlay(torch.zeros(3, 4, 8), torch.full((4, 8), 0.7), alpha=1)
    assert (overlay == overlay[:, :1, :1]).all()


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("offset", [0, 5])
def test_values_that_are_not_finite_leave_the_others_as_they_are(value: float, offset: float) -> None:
    heatmap = ramp() + offset
    expected = heatmap_overlay(torch.zeros(3, 4, 8), heatmap, alpha=1)
    heatmap[1, 1], heatmap[2, 2] = value, -value
    found = heatmap_overlay(torch.zeros(3, 4, 8), heatmap, alpha=1)
    others = heatmap.isfinite()
    assert found[:, others].equal(expected[:, others])


@pytest.mark.parametrize("kind", ["PIL", "path", "array", "tensor", "grey"])
def test_the_image_may_be_of_any_kind(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8), dtype=np.uint8)
    colour = np.stack([pixels] * 3, axis=2)
    Image.fromarray(colour).save(tmp_path / "image.png")
    image = {
        "PIL": Image.fromarray(colour),
        "path": tmp_path / "image.png",
        "array": colour,
        "tensor": torch.from_numpy(colour).permute(2, 0, 1),
        "grey": pixels,
    }[kind]
    assert heatmap_overlay(image, ramp()).equal(heatmap_overlay(colour, ramp()))


@pytest.mark.parametrize(
    ("heatmap", "error", "named"),
    [
        (torch.zeros(1, 4, 8), InputError, "(1, 4, 8)"),
        (torch.zeros(8), InputError, "(8,)"),
        (torch.zeros(0, 8), InputError, "(0, 8)"),
        (np.zeros((4, 8)), InputTypeError, "ndarray"),
        (None, InputTypeError, "NoneType"),
    ],
    ids=["batch", "one axis", "no rows", "array", "None"],
)
def test_what_is_no_heat_map_is_refused(heatmap: Any, error: type[MidwayZooError], named: str) -> None:
    with pytest.raises(error) as caught:
        heatmap_overlay(torch.zeros(3, 4, 8), heatmap)
    assert named in str(caught.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, NAN, math.inf])
def test_an_alpha_that_makes_no_sense_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=f"alpha={alpha!r}"):
        heatmap_overlay(torch.zeros(3, 4, 8), ramp(), alpha=alpha)


@pytest.mark.parametrize("scale", [{"vmin": NAN}, {"vmax": NAN}, {"vmin": 1, "vmax": 0}, {"vmin": -INF}], ids=str)
def test_a_scale_that_makes_no_sense_is_refused(scale: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"vm(in|ax)="):
        heatmap_overlay(torch.zeros(3, 4, 8), ramp(), **scale)


def test_an_image_that_is_none_is_refused() -> None:
    with pytest.raises(InputTypeError, match="pass a PIL image"):
        heatmap_overlay(None, ramp())


def test_a_default_of_double_precision_changes_no_picture() -> None:
    flow = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    picture, heat = torch.rand(3, 16, 16), torch.rand(4, 4)
    expected = flow_to_image(flow), heatmap_overlay(picture, heat)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(flow_to_image(flow), expected[0])
        assert torch.equal(heatmap_overlay(picture, heat), expected[1])
    finally:
        torch.set_default_dtype(torch.float32)
