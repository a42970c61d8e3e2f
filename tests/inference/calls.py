"""The four functions of pictures with one signature, and how their results are compared."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

import midway_zoo as mz

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
PAIR_CALLS = pytest.mark.parametrize(
    "call", [call for name, call in CALLS.items() if name != "extract_features"], ids=list(CALLS)[1:]
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
