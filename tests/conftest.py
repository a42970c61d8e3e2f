"""Shared fixtures: small networks, generated images, one seed."""

import os

# Before torch: two threads in all are what the smallest supported machine has, and tests never reach the Hub. Workers
# of pytest-xdist would inherit what the process that starts them has set for itself.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

import midway_zoo as mz
from midway_zoo import manifest


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that a test registers are gone after it: the order of tests must not matter."""
    monkeypatch.setattr(manifest, "_registered", dict(manifest._registered))


@pytest.fixture(scope="session")
def nano() -> mz.MidwayNetwork:
    """An untrained midway_nano with weights large enough that every path matters."""
    torch.manual_seed(1)
    network = mz.create_model("midway_nano")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network
