"""Derivatives that are written out, against those of torch.func.jvp."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.inference.perturbation import sensitivity_of
from midway_zoo.models.dynamics import ForwardDynamics
from midway_zoo.models.places import PlacedAttention
from midway_zoo.models.tangents import ForwardTangents, can_be_written_out

SMALL: dict[str, Any] = {"embed_dim": 24, "num_heads": 3, "motion_dim": 12, "backward_heads": 3, "forward_heads": 3}
GRID = (3, 4)


def network(**fields: Any) -> mz.MidwayNetwork:
    """In double precision, with norms and biases that a fresh network leaves at one and zero."""
    torch.manual_seed(0)
    made = mz.create_model("midway_nano", **{**SMALL, "flow_head": None, **fields}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made


def example(made: mz.MidwayNetwork) -> tuple[ForwardDynamics, Tensor, Tensor]:
    """Level 1 of the dynamics, motion tokens (M, D) and features (L, D)."""
    generator = torch.Generator().manual_seed(1)
    motion = torch.randn(made.config.motion_tokens, 24, generator=generator).double()
    return made.dynamics.forward_dynamics[1], motion, torch.randn(1 + 12, 24, generator=generator).double()


def expected(dynamics: ForwardDynamics, motion: Tensor, source: Tensor, token: int, direction: Tensor) -> Tensor:
    def predict(value: Tensor) -> Tensor:
        return dynamics(motion[None], value[None], GRID)[0][0, 1:]

    tangent = torch.zeros_like(source)
    tangent[1 + token] = direction
    return F.cosine_similarity(torch.func.jvp(predict, (source,), (tangent,))[1], direction, dim=-1)


@pytest.mark.parametrize(
    "fields",
    [{}, {"gating": False}, {"gate_bias": 0.0}, {"forward_heads": 1}]
    + [{"forward_depth": depth} for depth in (1, 2, 3)]
    + [{"motion_tokens": 1, "forward_heads": 12}]
    + [{"forward_places": True, "forward_depth": depth} for depth in (1, 2, 3)]
    + [{"forward_places": True, "gate_bias": -1.0, "motion_tokens": 2}],
    ids=str,
)
def test_they_are_the_derivatives(fields: dict[str, Any]) -> None:
    dynamics, motion, source = example(network(**fields))
    assert can_be_written_out(dynamics)
    written = ForwardTangents(dynamics, motion, source, GRID)
    # More, then fewer at once: memory is used again, and what was in it must not show.
    for tokens in ([0, 5, 5, 11, 7], [3], [11, 0]):
        directions = torch.randn(len(tokens), 24, generator=torch.Generator().manual_seed(len(tokens))).double()
        found = written.cosines(torch.tensor(tokens), directions)
        assert found.shape == (len(tokens), 12)
        assert found.dtype == torch.float32
        for row, token, direction in zip(found, tokens, directions, strict=True):
            want = expected(dynamics, motion, source, token, direction)
            torch.testing.assert_close(row, want.float(), atol=2e-6, rtol=0)
            assert want.abs().max() > 0.05


class Doubled(nn.Linear):
    """Stands for whatever wraps a linear layer (LoRA, quantisation)."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _wrap(dynamics: ForwardDynamics) -> None:
    old = dynamics.blocks[1].attn.qkv
    dynamics.blocks[1].attn.qkv = Doubled(old.in_features, old.out_features, bias=False).double()


def _hook(dynamics: ForwardDynamics) -> None:
    dynamics.blocks[2].mlp.register_forward_hook(lambda module, given, output: 2 * output)


def _patch(dynamics: ForwardDynamics) -> None:
    old = dynamics.blocks[0].norm2.forward
    dynamics.blocks[0].norm2.forward = lambda x: 2 * old(x)


def _tanh(dynamics: ForwardDynamics) -> None:
    dynamics.gates[0].mlp.act = nn.GELU("tanh")


def _eps(dynamics: ForwardDynamics) -> None:
    dynamics.gates[1].norm.eps = 0.5


def _norm(dynamics: ForwardDynamics) -> None:
    dynamics.blocks[3].attn.q_norm = nn.LayerNorm(8).double()


@pytest.mark.parametrize("change", [_wrap, _hook, _patch, _tanh, _eps, _norm])
def test_what_is_not_known_is_left_to_torch(change: Any) -> None:
    changed = network()
    dynamics = changed.dynamics.forward_dynamics[1]
    change(dynamics)
    assert not can_be_written_out(dynamics)
    found = sensitivity_of(changed, *levels(), GRID, tokens=[2, 9], level=1)
    motion, features = changed.dynamics.forward_inputs(*levels(), GRID, level=1)
    directions = torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(0)).double()[0]
    for row, token in enumerate([2, 9]):
        want = expected(dynamics, changed.dynamics.motion_proj(motion[0]), features[0], token, directions[token])
        torch.testing.assert_close(found[0, row], want.float(), atol=2e-6, rtol=0)


def levels() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    source, target = torch.randn(2, 4, 1, 13, 24, generator=generator).double()
    return list(source), list(target)


def test_the_networks_own_attention_by_place_in_it() -> None:
    """The option reached the blocks: else the cases above would test the paper's attention twice."""
    plain, placed = (network(forward_places=places).dynamics.forward_dynamics[1] for places in (False, True))
    assert not any(isinstance(part, PlacedAttention) for part in plain.modules())
    assert any(isinstance(part, PlacedAttention) for part in placed.modules())


def test_threads_take_derivatives_by_torch_at_once() -> None:
    """The page of ``midway-zoo app``: one visitor stopped while another's heat map is drawn."""
    changed = network()
    _hook(changed.dynamics.forward_dynamics[1])

    def heat(token: int) -> Tensor:
        return sensitivity_of(changed, *levels(), GRID, tokens=[token], level=1)

    want = [heat(token) for token in range(12)]
    with ThreadPoolExecutor(4) as threads:
        for token, found in enumerate(threads.map(heat, [token % 12 for token in range(60)])):
            assert torch.equal(found, want[token % 12])
    assert torch.backends.cuda.flash_sdp_enabled()  # what a derivative switches off is on again


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions(dtype: torch.dtype) -> None:
    dynamics, motion, source = example(network())
    tokens, directions = torch.tensor([4, 8]), torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    want = ForwardTangents(dynamics, motion, source, GRID).cosines(tokens, directions)
    dynamics.to(dtype)
    found = ForwardTangents(dynamics, motion.to(dtype), source.to(dtype), GRID).cosines(tokens, directions.to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0)


def test_autocast_changes_nothing() -> None:
    made = network().float()
    source, target = ([one.float() for one in side] for side in levels())
    with torch.no_grad():
        motion, features = made.dynamics.forward_inputs(source, target, GRID, level=1)
    dynamics, tokens, directions = made.dynamics.forward_dynamics[1], torch.tensor([1]), torch.ones(1, 24)
    motion = made.dynamics.motion_proj(motion[0])
    want = ForwardTangents(dynamics, motion, features[0], GRID).cosines(tokens, directions)
    with torch.autocast("cpu", torch.bfloat16):
        found = ForwardTangents(dynamics, motion, features[0], GRID).cosines(tokens, directions)
    assert torch.equal(found, want)
    assert not found.requires_grad
