"""What results print, and that they can be kept."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import midway_zoo as mz
from tests.inference.calls import EVERY_CALL, pair


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
