"""Networks and pictures to measure with. Weights do not affect the time, so a bare architecture gets random ones."""

from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.checkpoint import load_checkpoint
from midway_zoo.weights.registry import create_model, is_path


def network_of(model: str, device: torch.device, **config: Any) -> MidwayNetwork:
    """The network of an architecture (random weights), a pretrained name or a path."""
    if is_path(model):
        network = load_checkpoint(model, config=config or None)
    else:
        network = create_model(model, pretrained="." in model or model.startswith("hf-hub:"), **config)
    return network.to(device).eval()


def with_head(model: str, device: torch.device) -> MidwayNetwork:
    """The network with its flow head, or else with a head of random weights."""
    network = network_of(model, device)
    if network.flow_head is None:
        network = network_of(model, device, flow_head=True)
    return network


def noise(shape: tuple[int, ...], device: torch.device, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1), the same for the same seed."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def drifting(frames: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Frames (T, 3, H, W) in [0, 1] of a smooth pattern with texture that moves by two pixels a frame to the left."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(height // 16, 2), max((width + 2 * frames) // 16, 2), generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + 2 * frames), mode="bicubic").clamp(0, 1)[0]
    wide = 0.8 * wide + 0.2 * torch.rand(wide.shape, generator=generator)
    return torch.stack([wide[:, :, 2 * t : 2 * t + width] for t in range(frames)])


def sides(text: str | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from a text such as 1024x436, with the width first, as usual for screens and data sets.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(text, str):
        return text
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise InputError(f"size {text!r}: WIDTHxHEIGHT in pixels is expected, such as 1024x436.")
    return int(height), int(width)
