"""Pictures for the tiny network with a flow head, and its raw flow."""

from typing import Any

import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.inference.batches import normaliser
from tests.models.test_flow_head import TINY

SIDE = TINY.flow_size  # 32 x 48


def images(height: int, width: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(count, 3, height, width, generator=generator)


def close(found: Any, expected: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def raw(network: mz.MidwayNetwork, source: Tensor, target: Tensor) -> Tensor:
    normalise = normaliser(network)
    with torch.no_grad():
        return network.flow(normalise(source), normalise(target))
