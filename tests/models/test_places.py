"""Forward dynamics that attends by place: what a displacement says is where perturbations go."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.perturbation import sensitivity
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.alignment import align
from midway_zoo.weights.released_writer import released_args

GRID = (6, 9)


@pytest.fixture(scope="module")
def network() -> MidwayNetwork:
    torch.manual_seed(0)
    changes = {"forward_places": True, "gate_bias": -1.0, "grid": GRID}
    network = MidwayNetwork(override(architecture_config("midway_nano"), changes)).eval()
    align(network.require_dynamics())
    return network


@pytest.fixture
def displaced(network: MidwayNetwork) -> Iterator[Tensor]:
    """What every head of every placed block is told: (x, y) in tokens, to be set."""
    told = torch.zeros(2)
    heads = network.config.forward_heads
    hooks = [
        path.blocks[1].attn.displace_all.register_forward_hook(
            lambda _, __, out: torch.zeros_like(out) + told.repeat(heads)
        )
        for path in network.require_dynamics().forward_dynamics
    ]
    yield told
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("motion", [(0, 0), (2, 1), (-3, 0), (0, -2)])
def test_perturbations_go_where_the_displacement_says(
    network: MidwayNetwork, displaced: Tensor, motion: tuple[int, int]
) -> None:
    displaced.copy_(torch.tensor(motion))
    rows, columns = GRID
    images = torch.rand(1, 3, 8 * rows, 8 * columns, generator=torch.Generator().manual_seed(1))
    peaks = sensitivity(network, images, images, level=2, draws=4)[0].argmax(-1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    there = torch.stack([x + motion[0], y + motion[1]], dim=-1)
    inside = ((there >= 0) & (there < torch.tensor([columns, rows]))).all(-1)
    expected = (there[..., 1] * columns + there[..., 0])[inside]
    assert (peaks.reshape(GRID)[inside] == expected).float().mean() > 0.6
    if motion != (0, 0):
        stayed = (peaks.reshape(GRID) == torch.arange(rows * columns).reshape(GRID))[inside]
        assert stayed.float().mean() < 0.1


def test_gradients_reach_the_displacement_and_the_sharpness(network: MidwayNetwork) -> None:
    images = torch.rand(2, 1, 3, 48, 72, generator=torch.Generator().manual_seed(1))
    out = network(*images, predictions_only=True)
    torch.stack([p.square().mean() for p in out.predictions.values()]).sum().backward()
    for path in network.require_dynamics().forward_dynamics:
        attention = path.blocks[1].attn
        for parameter in (attention.displace_all.weight, attention.displace_each.weight, attention.sharpness):
            assert parameter.grad.abs().max() > 0
    network.zero_grad()


def test_tokens_of_another_grid_need_it_said(network: MidwayNetwork) -> None:
    images = torch.rand(2, 1, 3, 48, 72)
    motion, features = network.require_dynamics().forward_inputs(*network.encode_pair(*images), GRID, level=2)
    assert network.require_dynamics().predict(2, motion, features, GRID)[0].shape == features.shape
    with pytest.raises(InputError, match="54 patch tokens do not form a square"):
        network.require_dynamics().predict(2, motion, features)


def test_it_is_off_unless_asked_for() -> None:
    plain = MidwayNetwork(architecture_config("midway_nano"))
    assert not any("displace" in name for name in plain.state_dict())
    placed = MidwayNetwork(override(architecture_config("midway_nano"), {"forward_places": True}))
    extra = {name for name in placed.state_dict() if "displace" in name or "sharpness" in name}
    assert len(extra) == 9
    assert set(placed.state_dict()) - extra == set(plain.state_dict())


def test_the_released_layout_cannot_say_it() -> None:
    with pytest.raises(ConfigError, match=r"forward_places=True .* --layout zoo"):
        released_args(override(architecture_config("midway_nano"), {"forward_places": True}))
