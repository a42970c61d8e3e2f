"""Further looks at a pair: what a head leaves over is found after warping, and mirrors even its errors out."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.errors import InputError
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.refinement import mean_over_mirrors, refined, warp
from tests.models.test_flow_head import TINY


@pytest.fixture(scope="module")
def network() -> mz.MidwayNetwork:
    torch.manual_seed(2)
    network = mz.MidwayNetwork(TINY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


def scene(network: mz.MidwayNetwork, right: float, down: float) -> EncodedFrames:
    """A frame that shows at each pixel where in the scene it is; the scene has moved by (right, down)."""
    y, x = torch.meshgrid(torch.arange(32.0) - down, torch.arange(48.0) - right, indexing="ij")
    return EncodedFrames(network, torch.stack([x, y, torch.zeros_like(x)])[None])


def timid(source: EncodedFrames, target: EncodedFrames) -> Tensor:
    """Seven tenths of the true flow, as a head that errs on the side of no motion."""
    flow = 0.7 * (source.images - target.images)[:, :2]
    return torch.cat([flow, flow[:, :1].abs()], dim=1)


def test_each_look_finds_the_same_share_of_what_is_left(network: mz.MidwayNetwork) -> None:
    source, target = scene(network, 0, 0), scene(network, 3, -2)
    first = timid(source, target)
    torch.testing.assert_close(refined(timid, source, target, first, 0), first)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    truth = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    errors = [
        float((refined(timid, source, target, first, times)[inner][:, :2] - truth).norm(dim=1).mean())
        for times in range(4)
    ]
    assert errors[0] == pytest.approx(0.3 * 13**0.5, abs=1e-3)
    assert all(after < 0.5 * before for before, after in pairwise(errors))


def test_a_look_that_makes_it_worse_is_not_believed(network: mz.MidwayNetwork) -> None:
    calls = []

    def wild(source: EncodedFrames, target: EncodedFrames) -> Tensor:
        calls.append(1)
        return timid(source, target) + torch.tensor([9.0, -9.0, 0.0]).view(1, 3, 1, 1)

    source, target = scene(network, 0, 0), scene(network, 3, -2)
    first = timid(source, target)
    found = refined(wild, source, target, first, 2)
    assert len(calls) == 2
    inner = (slice(None), slice(0, 2), slice(12, -12), slice(12, -12))
    torch.testing.assert_close(found[inner], first[inner], atol=0.2, rtol=0)
    still = scene(network, 0, 0)
    found = refined(wild, source, still, wild(source, still), 1)
    assert found[inner].abs().max() < 0.05  # nor is the first one, where nothing moves


def test_warping_goes_by_pixels_and_passes_what_is_unknown_on() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0] = 1.5
    flow[0, 1, 2, 3] = torch.nan
    found = warp(ramp, flow)
    assert found[0, 0, 0].tolist() == pytest.approx([1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.0, 7.0], abs=1e-5)
    assert found[0, 0, 2, 3].isnan()
    assert found.isnan().sum() == 1


def test_mirrors_even_out_what_a_head_adds_on_one_side(network: mz.MidwayNetwork) -> None:
    def biased(source: EncodedFrames, target: EncodedFrames) -> Tensor:
        flow = (source.images - target.images)[:, :2]
        # In the mirrored frame the scene's x runs to the left.
        axes = zip(source.images[0, :2], (1, 0), strict=True)
        sign = torch.stack([image.diff(dim=axis).sign().mean() for image, axis in axes])
        return torch.cat([flow * sign.view(1, 2, 1, 1) + 0.5, torch.zeros_like(flow[:, :1])], dim=1)

    source, target = scene(network, 0, 0), scene(network, 3, -2)
    found = mean_over_mirrors(biased)(source, target)
    expected = torch.tensor([3.0, -2.0, 0.0]).view(1, 3, 1, 1).expand_as(found)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(biased(source, target), expected + torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1))


@pytest.mark.parametrize("options", [{"refine": 1}, {"mirrored": True}, {"refine": 2, "mirrored": True}])
def test_both_directions_are_those_of_either_alone(network: mz.MidwayNetwork, options: dict) -> None:
    source, target = torch.rand(2, 1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    both = mz.predict_flow(network, source, target, bidirectional=True, **options)
    there, back = (
        mz.predict_flow(network, source, target, **options),
        mz.predict_flow(network, target, source, **options),
    )
    torch.testing.assert_close(both.flow, there.flow, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.backward, back.flow, atol=1e-4, rtol=0)
    assert not torch.allclose(both.flow, mz.predict_flow(network, source, target).flow, atol=1e-3)


def test_arguments_are_checked(network: mz.MidwayNetwork) -> None:
    image = torch.rand(1, 3, 32, 48)
    for options, text in (
        ({"refine": -1}, "refine=-1"),
        ({"refine": 1.5}, "refine=1.5"),
        ({"mirrored": 1}, "mirrored=1"),
        ({"refine": 1, "method": "perturbation"}, "refine=1: for the flow head only"),
    ):
        with pytest.raises(InputError, match=text):
            mz.predict_flow(network, image, image, **options)
