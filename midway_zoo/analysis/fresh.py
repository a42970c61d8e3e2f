"""Baselines of a network: the same architecture without training, or without gates."""

import torch

from midway_zoo.config import override
from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork


def untrained(network: MidwayNetwork, seed: int = 0) -> MidwayNetwork:
    """A network of the same shape with random weights, the same every time for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MidwayNetwork(network.config).to(network.device).eval()


def ungated(network: MidwayNetwork) -> MidwayNetwork:
    """The same weights with every gate fixed at 1. This shows what the gates do, not what training without them gives.

    Raises:
        ConfigError: if the network has no gates.
    """
    if not network.require_dynamics().config.gating:
        raise ConfigError("this network has no gates to open (gating=False).")
    opened = MidwayNetwork(override(network.config, {"gating": False})).to(network.device, network.dtype)
    kept = opened.state_dict()
    opened.load_state_dict({key: value for key, value in network.state_dict().items() if key in kept})
    return opened.eval()
