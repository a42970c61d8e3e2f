"""Layers that something wraps (LoRA, quantisation) are run, not read: their weight alone is not what they do."""

import pytest
import torch
from torch import Tensor, nn

import midway_zoo as mz


class Wrapped(nn.Module):
    """As PEFT does it: the weight of the layer within, and more."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * x[..., :1]


@pytest.fixture
def wrapped() -> mz.MidwayNetwork:
    torch.manual_seed(0)
    network = mz.create_model("midway_nano", flow_head=None).eval()
    for module in [block for path in network.dynamics.midway for block in path] + list(network.encoder.blocks):
        module.attn.qkv = Wrapped(module.attn.qkv)
    return network


@torch.no_grad()
def test_motion_latents_alone_are_those_of_the_whole_pass(wrapped: mz.MidwayNetwork) -> None:
    levels = wrapped.encode_pair(*torch.randn(2, 1, 3, 64, 64))
    whole = wrapped.dynamics(*levels, (8, 8)).motion_latents
    alone = wrapped.dynamics.motion_latents(*levels, (8, 8)).motion_latents
    for level in (2, 1, 0):
        torch.testing.assert_close(alone[level], whole[level], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_class_tokens_alone_are_those_of_the_whole_pass(wrapped: mz.MidwayNetwork) -> None:
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(wrapped.encode_cls(images), wrapped.encode(images)[3][:, 0], atol=1e-5, rtol=1e-5)
