"""Options of flow: what makes no sense, what a method does not read, and where they are given."""

import dataclasses
import inspect
import re
from typing import Any

import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.flow_options import FlowOptions
from tests.inference.flows import SIDE, images


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tile": 30}, "multiples of the patch, 8 pixels"),
        ({"tile": 0}, "tile=0"),
        ({"tile": (32, 48, 3)}, "tile="),
        ({"tile": True}, "tile=True"),
        ({"tile": "32"}, "tile="),
        ({"tile": (32.0, 48)}, "tile="),
        ({"overlap": 1}, "overlap=1"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"overlap": "much"}, "overlap='much'"),
        ({"method": "perturbation", "tile": 32}, "for the flow head"),
        ({"method": "perturbation", "coarse": True}, "for the flow head"),
        ({"method": "raft"}, "method='raft'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"window": -1}, "window=-1"),
    ],
)
@pytest.mark.parametrize("clip", [False, True])
def test_arguments_that_make_no_sense_are_named(
    network: mz.MidwayNetwork, options: dict[str, Any], named: str, clip: bool
) -> None:
    pair = images(*SIDE)
    with pytest.raises(InputError, match=named):  # of a clip before the first result is asked for
        mz.predict_flows(network, pair, **options) if clip else mz.predict_flow(network, *pair, **options)


@pytest.mark.parametrize("options", [{}, {"size": "full"}, {"size": (8, 400)}, {"method": "perturbation"}], ids=str)
def test_a_strip_is_refused_with_a_size_that_works(network: mz.MidwayNetwork, options: dict[str, Any]) -> None:
    """A tile is 32 pixels high: 1 x 400 pixels would become 32 x 12800, which takes 270 tiles of 48."""
    strip = torch.zeros(3, 1, 400)
    with pytest.raises(InputError, match=r"times as long as it is wide") as error:
        mz.predict_flow(network, strip, strip, **options)
    named = re.search(r"size=\((\d+), (\d+)\)", str(error.value))
    assert named is not None
    size = (int(named[1]), int(named[2]))
    assert mz.predict_flow(network, strip, strip, **{**options, "size": size}).flow.shape == (1, 2, 1, 400)


def test_an_image_that_cannot_be_enlarged_to_a_tile_is_refused(network: mz.MidwayNetwork) -> None:
    """A tile of 4096 pixels on two sides makes 16 times as many patches as are allowed."""
    pair = images(*SIDE)
    with pytest.raises(InputError, match=r"to hold a tile of 16384 x 16384"):
        mz.predict_flow(network, *pair, tile=16384)


@pytest.mark.parametrize("clip", [False, True])
def test_an_unknown_option_is_refused_with_the_nearest(network: mz.MidwayNetwork, clip: bool) -> None:
    pair = images(*SIDE)
    with pytest.raises(InputTypeError, match=r"no option 'levle'. Did you mean 'level'"):
        mz.predict_flows(network, pair, levle=1) if clip else mz.predict_flow(network, *pair, levle=1)


@pytest.mark.parametrize("unread", [{"level": 1}, {"draws": 2}, {"seed": 3}, {"window": 0}], ids=str)
@pytest.mark.parametrize("method", ["auto", "head"])
def test_options_of_perturbation_are_refused_with_a_head(
    network: mz.MidwayNetwork, method: Any, unread: dict[str, int]
) -> None:
    name, value = next(iter(unread.items()))
    for predict in (mz.predict_flow, lambda net, a, b, **options: mz.predict_flows(net, [a, b], **options)):
        with pytest.raises(InputError, match=rf'{name}={value}: for method="perturbation" only'):
            predict(network, *images(*SIDE), method=method, **unread)


def test_options_of_the_head_are_refused_without_one(nano: mz.MidwayNetwork) -> None:
    with pytest.raises(InputError, match=r"overlap=0.5, coarse=True: for the flow head only"):
        mz.predict_flow(nano, *images(16, 16), overlap=0.5, coarse=True)


def test_functions_and_options_have_the_same_defaults() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(FlowOptions)}
    for function in (mz.predict_flow, mz.predict_flows):
        for name, parameter in inspect.signature(function).parameters.items():
            assert name not in defaults or parameter.default == defaults[name], name


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FlowOptions().seed = 1
