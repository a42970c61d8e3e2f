"""Fresh dynamics that match frames by place."""

from collections.abc import Callable

import pytest
import torch

from midway_zoo.config import MidwayConfig, architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.alignment import align
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask

NANO = architecture_config("midway_nano")


@torch.no_grad()
def partner_shares(network: MidwayNetwork) -> dict[int, float]:
    """Of every level: attention, in its path's first block, of either frame's tokens to the same place of the other
    one, the lesser of the two; on noise."""
    config = network.config
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        path[0].attn.qkv.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out}))
        for index, path in enumerate(network.require_dynamics().midway)
    ]
    network(*torch.randn(2, 2, 3, *config.img_size))
    for hook in hooks:
        hook.remove()
    shares = {}
    length = 1 + config.grid[0] * config.grid[1]
    for index, out in seen.items():
        q, k, _ = out.unflatten(-1, (3, config.midway_heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        source = torch.arange(q.shape[-2] - 2 * length + 1, q.shape[-2] - length)
        ways = ((source, source + length), (source + length, source))
        shares[index] = min(float(attention[:, :, here, there].mean()) for here, there in ways)
    return shares


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
def test_tokens_look_at_the_same_place_of_the_other_frame_at_every_level(changes: dict) -> None:
    torch.manual_seed(0)
    network = MidwayNetwork(override(NANO, changes)).eval()
    plain = partner_shares(network)
    align(network.require_dynamics())
    aligned = partner_shares(network)
    assert len(aligned) == len(network.config.levels)
    assert max(plain.values()) < 0.02
    assert min(aligned.values()) > 0.4


def test_what_is_looked_at_is_passed_on_by_rotations_and_at_the_scale_of_the_positions() -> None:
    torch.manual_seed(0)
    dynamics = MidwayNetwork(NANO).require_dynamics()
    align(dynamics)
    special = set()
    for path in dynamics.midway:
        attention = path[0].attn
        values = attention.qkv.weight[2 * NANO.motion_dim :]
        for matrix in (values, attention.proj.weight):
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(NANO.motion_dim))
        special |= {attention.qkv, attention.proj}
    place = NANO.motion_dim // NANO.midway_heads
    for module in dynamics.modules():
        if isinstance(module, torch.nn.Linear) and module not in special:
            weight = module.weight.detach()
            if module in (dynamics.source_embed, dynamics.target_embed):
                assert not weight[-place:].any()
                weight = weight[:-place]
            assert float(weight.std() * module.in_features**0.5) == pytest.approx(1, abs=0.15)


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


@pytest.mark.parametrize(
    ("grid", "motion_dim", "least"), [((4, 4), 21, 8), ((8, 8), 27, 10), ((3, 5), 24, 10)], ids=str
)
def test_heads_too_narrow_for_the_grid_are_refused(grid: tuple[int, int], motion_dim: int, least: int) -> None:
    narrow = override(NANO, {"grid": grid, "motion_dim": motion_dim, "midway_heads": 3})
    message = rf"needs motion_dim / midway_heads >= {least} for a grid of {grid[0]} x {grid[1]} tokens, not"
    with pytest.raises(ConfigError, match=message):
        align(MidwayNetwork(narrow).require_dynamics())
    lowest = []
    for seed in range(6):  # so narrow, a draw's lowest share is 0.06 to 0.5: torch's releases draw differently
        torch.manual_seed(seed)
        network = MidwayNetwork(override(narrow, {"motion_dim": 3 * least})).eval()
        align(network.require_dynamics())
        lowest.append(min(partner_shares(network).values()))
    assert sum(lowest) / len(lowest) > 0.2


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
    with pytest.raises(ConfigError, match=r"network.dynamics_init='alined' must be one of released, normal, aligned"):
        build("network.dynamics_init=alined")


def test_an_encoder_alone_has_nothing_to_align() -> None:
    assert pretraining("network.dynamics_init=aligned", "network.overrides={dynamics: false}").dynamics is None


def test_released_shapes_have_room() -> None:
    torch.manual_seed(0)
    shallow = {"depth": 4, "feature_blocks": (0, 1, 2, 3), "midway_depth": 1, "forward_depth": 1}
    network = MidwayNetwork(override(MidwayConfig(), shallow)).eval()
    align(network.require_dynamics())
    assert min(partner_shares(network).values()) > 0.4
