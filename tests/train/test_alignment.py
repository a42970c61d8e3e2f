"""Fresh dynamics that match frames by place."""

from collections.abc import Callable

import pytest
import torch

from midway_zoo.errors import ConfigError
from midway_zoo.models.config import MidwayConfig, architecture_config, override
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.alignment import align
from midway_zoo.train.config import load_config
from midway_zoo.train.flow.config import FlowConfig
from midway_zoo.train.flow.task import FlowTask
from midway_zoo.train.pretrain.config import PretrainConfig
from midway_zoo.train.pretrain.task import PretrainTask

NANO = architecture_config("midway_nano")


@torch.no_grad()
def partner_share(network: MidwayNetwork) -> float:
    """Attention of the target's tokens to the same place of the source, in the path's first block, on noise."""
    dynamics, config = network.require_dynamics(), network.config
    frames = torch.randn(2, 2, 3, *config.img_size)
    source, target = network.encode_pair(*frames)
    tables = dynamics.position_tables(config.grid)
    above = dynamics._backward(dynamics.target_backward, 2, target, target[3])
    motion = dynamics.motion_tokens.expand(2, -1, -1)
    inputs = (dynamics.source_embed(source[3]) + tables[0], dynamics.target_embed(above) + tables[1])
    block = dynamics.midway[config.levels[0]][0]  # type: ignore[index]
    normed = block.norm1(torch.cat([motion, *inputs], dim=1))
    q, k, _ = block.attn.qkv(normed).unflatten(-1, (3, config.midway_heads, -1)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    first = motion.shape[1] + 1
    count, length = config.grid[0] * config.grid[1], 1 + config.grid[0] * config.grid[1]
    tokens = torch.arange(first, first + count)
    return float(attention[:, :, tokens + length, tokens].mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grid": (5, 9)},
        {"backward": False},
        {"levels": (2,), "refinement": False},
        {"midway_heads": 2, "motion_dim": 64},
    ],
    ids=str,
)
def test_target_tokens_look_at_the_same_place_of_the_source(changes: dict) -> None:
    torch.manual_seed(0)
    network = MidwayNetwork(override(NANO, changes)).eval()
    plain = partner_share(network)
    align(network.require_dynamics())
    assert plain < 0.02
    assert partner_share(network) > 0.5


def test_target_side_equals_the_source_side_and_nothing_is_left_unset() -> None:
    torch.manual_seed(0)
    dynamics = MidwayNetwork(NANO).require_dynamics()
    align(dynamics)
    state = dynamics.state_dict()
    for name, value in state.items():
        assert torch.isfinite(value).all()
        if name.startswith("target_"):
            assert torch.equal(value, state[name.replace("target_", "source_", 1)])
    assert not any(p.requires_grad for p in dynamics.target_embed.parameters())


def test_narrow_heads_are_refused() -> None:
    dynamics = MidwayNetwork(override(NANO, {"motion_dim": 12})).require_dynamics()
    with pytest.raises(ConfigError, match=r"dynamics_init=aligned needs motion_dim / midway_heads >= 8, not 4"):
        align(dynamics)


def pretraining(*more: str) -> MidwayNetwork:
    return PretrainTask(load_config(PretrainConfig, "nano_scenes", ["out=unused", *more])).model.network


def flow(*more: str) -> MidwayNetwork:
    return FlowTask(
        load_config(FlowConfig, "flow_scenes_nano", ["out=unused", "network.head_init=plain", *more])
    ).model.network


@pytest.mark.parametrize("build", [pretraining, flow])
def test_recipes_switch_it(build: Callable[..., MidwayNetwork]) -> None:
    tables = {}
    for value in ("released", "aligned"):
        network = build(f"network.dynamics_init={value}", "initial=random" if build is flow else "seed=0")
        tables[value] = network.require_dynamics().pos_embed.abs().max()
    assert tables["released"] < 0.2 < 1 < tables["aligned"]
    with pytest.raises(ConfigError, match=r"network.dynamics_init='alined' must be one of released, aligned"):
        build("network.dynamics_init=alined")


def test_an_encoder_alone_has_nothing_to_align() -> None:
    assert pretraining("network.dynamics_init=aligned", "network.overrides={dynamics: false}").dynamics is None


def test_released_shapes_have_room() -> None:
    shallow = {"depth": 4, "feature_blocks": (0, 1, 2, 3), "midway_depth": 1, "forward_depth": 1}
    small = override(MidwayConfig(), shallow)
    align(MidwayNetwork(small).require_dynamics())
