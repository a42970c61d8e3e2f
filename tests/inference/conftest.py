"""A clip, a network whose two encoders differ, and a tiny one with a flow head."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import midway_zoo as mz
from tests.inference.clips import T
from tests.models.test_flow_head import TINY


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(T, 64, 64, 3) uint8: a smooth pattern that drifts to the right over noise."""
    random = np.random.default_rng(0)
    columns = np.arange(64)
    waves = np.stack([127 + 90 * np.sin((columns - 3 * step) / 6) for step in range(T)])
    noise = random.integers(0, 38, (T, 64, 64, 3))
    return (waves[:, None, :, None] + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def paired(nano: mz.MidwayNetwork) -> mz.MidwayNetwork:
    """A network in paired mode whose target encoder differs from its source encoder."""
    torch.manual_seed(2)
    network = mz.create_model("midway_nano", paired=True)
    network.encoder.load_state_dict(nano.encoder.state_dict())
    network.dynamics.load_state_dict(nano.dynamics.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(network.target_encoder.parameters(), network.encoder.parameters(), strict=True):
            mine.copy_(theirs + 0.3 * theirs.std(correction=0) * torch.randn_like(theirs))
    return network


@pytest.fixture(scope="module")
def network() -> mz.MidwayNetwork:
    torch.manual_seed(2)
    network = mz.MidwayNetwork(TINY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


@pytest.fixture
def encoded(network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through the encoder held."""
    passes: list[int] = []
    encode = network.encode

    def counted(images: Tensor, **kwargs: Any) -> list[Tensor]:
        passes.append(len(images))
        return encode(images, **kwargs)

    monkeypatch.setattr(network, "encode", counted)
    return passes
