"""The flow head: its shape, its parameters, its place in the network and in saved files."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import midway_zoo as mz
from midway_zoo.config import ARCHITECTURES, MidwayConfig
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.models.flow_head import FlowHead, error_scale
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import empty_network
from tests.weights.released_files import write_released

RELEASED = {
    "embed_dim": 24,
    "num_heads": 3,
    "patch_size": 8,
    "grid": (4, 4),
    "motion_dim": 12,
    "backward_heads": 3,
    "forward_heads": 3,
}
TINY = MidwayConfig(
    embed_dim=24,
    num_heads=3,
    patch_size=8,
    grid=(4, 4),
    depth=4,
    feature_blocks=(0, 1, 2, 3),
    midway_depth=2,
    forward_depth=2,
    motion_dim=12,
    backward_heads=3,
    forward_heads=3,
    flow_head=(8, 12, 16, 20, 16),
    flow_size=(32, 48),
)


def maps(config: MidwayConfig, grid: tuple[int, int], batch: int = 2) -> list[Tensor]:
    widths = (config.embed_dim, config.motion_dim, config.embed_dim, config.embed_dim)
    return [torch.randn(batch, 1 + grid[0] * grid[1], width) for width in widths]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# Shape and size.


def test_size_is_the_papers_without_the_unit_that_dpt_never_uses() -> None:
    """19.5 M parameters for four maps of width 384, one residual unit of 2 * (256 * 256 * 9 + 256) included."""
    with torch.device("meta"):
        head = FlowHead(replace(MidwayConfig(flow_head=True), motion_dim=384))
    count = sum(parameter.numel() for parameter in head.parameters())
    assert (count + 2 * (256 * 256 * 9 + 256)) / 1e6 == pytest.approx(19.5, abs=0.05)
    assert head.fuse[3].lateral is None


def test_widths_of_the_released_encoders_are_the_papers() -> None:
    for name in ("midway_vits", "midway_vitb"):
        network = empty_network(MidwayNetwork, replace(ARCHITECTURES[name], flow_head=True))
        assert network.config.flow_head == (96, 192, 384, 768, 256)
        assert network.config.flow_size == (320, 384)
        assert [layer.in_channels for layer in network.flow_head.project] == [
            network.config.embed_dim,
            network.config.motion_dim,
            network.config.embed_dim,
            network.config.embed_dim,
        ]


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 1), (1, 3), (9, 2)])
def test_any_grid_gives_three_channels_at_the_images_resolution(grid: tuple[int, int], patch: int) -> None:
    config = replace(TINY, patch_size=patch)
    out = FlowHead(config)(maps(config, grid), grid)
    assert out.shape == (2, 3, grid[0] * patch, grid[1] * patch)
    assert out.isfinite().all()


def test_a_fresh_head_hears_its_tokens() -> None:
    """With PyTorch's own initialisation the output moves a hundredth of this with the tokens, and training stalls."""
    head = FlowHead(TINY)
    with torch.no_grad():
        first, second = (head([torch.randn_like(value) for value in maps(TINY, (4, 6))], (4, 6)) for _ in range(2))
    assert 0.2 < (first - second).std() < 5


def test_every_parameter_and_every_map_matters() -> None:
    head, inputs = FlowHead(TINY), maps(TINY, (4, 6))
    for value in inputs:
        value.requires_grad_()
    head(inputs, (4, 6)).square().mean().backward()
    assert not [name for name, parameter in head.named_parameters() if not parameter.grad.abs().sum()]
    for value in inputs:
        assert value.grad[:, 1:].abs().sum(dim=-1).min() > 0
        assert value.grad[:, 0].abs().sum() == 0  # class tokens have no place


def test_pyramid_is_dpts_where_the_grid_fits() -> None:
    """4, 2, 1 and 1/2 times the grid, then factors of 2 with corners aligned."""
    head, sizes = FlowHead(TINY), []
    for layer in (*head.unify, *head.fuse, head.reduce, head.output):
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[-2:])))
    head(maps(TINY, (4, 6)), (4, 6))
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3), (2, 3), (4, 6), (8, 12), (16, 24), (32, 48), (32, 48)]


def test_projection_before_enlarging_equals_dpts_after() -> None:
    head = FlowHead(TINY)
    x = torch.randn(1, 16, 4, 6)
    fuse = head.fuse[1]

    def up(value: Tensor) -> Tensor:
        return nn.functional.interpolate(value, scale_factor=2, mode="bilinear", align_corners=True)

    level = torch.randn(1, 16, 4, 6)
    joined = fuse.joint(x + fuse.lateral(level))
    torch.testing.assert_close(up(fuse(level, x)), fuse.project(up(joined)), atol=1e-5, rtol=1e-5)


def test_error_scale_runs_from_a_quarter_pixel_to_four() -> None:
    found = error_scale(torch.tensor([-50.0, 0.0, 50.0])).tolist()
    assert found == pytest.approx([0.25, 2.125, 4.0])
    assert error_scale(torch.tensor(1.0)).item() == pytest.approx(0.25 + 3.75 / (1 + math.exp(-1)))


# In the network.


def test_flow_feeds_the_head_the_four_maps_of_the_paper() -> None:
    network = mz.MidwayNetwork(TINY).eval()
    source, target = torch.randn(2, 2, 3, 32, 40)
    seen: list[Any] = []
    network.flow_head.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    with torch.no_grad():
        flow = network.flow(source, target)
        levels, others = network.encode_pair(source, target)
        out = network.dynamics(levels, others, (4, 5))
    expected = [levels[3], out.midway_target_tokens[2], out.predictions[2], out.predictions[0]]
    assert flow.shape == (2, 3, 32, 40)
    assert seen[1] == (4, 5)
    for found, wanted in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.flow_from_tokens(levels, others, (4, 5)), flow, atol=1e-5, rtol=1e-5)


def test_flow_trains_head_dynamics_and_encoder() -> None:
    network = mz.MidwayNetwork(TINY)
    network.flow(*torch.randn(2, 1, 3, 32, 32)).square().mean().backward()
    without = {name for name, p in network.named_parameters() if p.requires_grad and not p.grad.abs().sum()}
    assert without == set()
    frozen = {name.split(".")[1] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"target_embed", "target_backward"}


def test_gradients_reach_the_encoder_through_both_frames() -> None:
    network = mz.MidwayNetwork(TINY)
    source, target = (torch.randn(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    network.flow(source, target).sum().backward()
    assert source.grad.abs().sum() > 0
    assert target.grad.abs().sum() > 0


def test_the_head_learns_a_flow_in_pixels() -> None:
    """A pair and its flow are fitted with the loss of fine-tuning; prediction and error scale follow."""
    network = mz.MidwayNetwork(TINY)
    source, target = torch.randn(2, 1, 3, 32, 48)
    truth = torch.stack([torch.linspace(-4, 4, 48).expand(32, 48), torch.linspace(3, -1, 32)[:, None].expand(32, 48)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(60):
        found = network.flow(source, target)
        scale = error_scale(found[:, 2])
        loss = ((found[:, :2] - truth).abs().sum(dim=1) / scale + scale.log()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lengths = torch.linalg.vector_norm(torch.stack([truth, found[0, :2] - truth]), dim=1).mean(dim=(1, 2))
    assert lengths[1] < 0.4 * lengths[0]
    assert scale.mean() < 1.2  # 2.1 at the start


def test_paired_networks_see_the_target_with_the_teacher() -> None:
    network = mz.MidwayNetwork(replace(TINY, paired=True)).eval()
    source, target = torch.randn(2, 1, 3, 32, 32)
    before = network.flow(source, target)
    with torch.no_grad():
        network.target_encoder.patch_embed.proj.weight.zero_()
    assert not torch.equal(network.flow(source, target), before)


@pytest.mark.parametrize("variant", [{"levels": (2,)}, {"levels": (2, 0), "backward": False}, {"refinement": False}])
def test_variants_feed_their_highest_and_lowest_level(variant: dict[str, Any]) -> None:
    network = mz.MidwayNetwork(replace(TINY, **variant))
    network.flow(*torch.randn(2, 1, 3, 32, 32)).square().mean().backward()
    unused = {name for name, p in network.flow_head.named_parameters() if not p.grad.abs().sum()}
    assert unused == set()


def test_flow_refuses_what_it_cannot_use(nano: mz.MidwayNetwork) -> None:
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="flow_head=True"):
        nano.flow(image, image)
    network = mz.MidwayNetwork(TINY)
    with pytest.raises(InputError, match="same shape"):
        network.flow(image, torch.zeros(1, 3, 32, 40))
    with pytest.raises(InputError, match="multiples of the patch"):
        network.flow(image[..., :31], image[..., :31])


# Configuration.


def test_true_takes_the_widths_that_fit_and_false_none() -> None:
    assert mz.create_model("midway_nano", flow_head=True).config.flow_head == (24, 32, 48, 64, 32)
    assert mz.create_model("midway_nano", flow_head=False).flow_head is None
    assert mz.create_model("midway_nano").flow_head is None
    assert MidwayConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"flow_head": (8, 8, 8, 8)}, "5 numbers, each between 1 and"),
        ({"flow_head": (8, 8, 8, 8, 7)}, "the last one even"),
        ({"flow_head": (8, 8, 0, 8, 8)}, "5 numbers, each between 1 and"),
        ({"flow_head": "large"}, "flow_head='large'"),
        ({"flow_head": (8, 8, 8.5, 8, 8)}, "integers"),
        ({"dynamics": False}, "flow_head needs the dynamics"),
        ({"flow_size": (320,)}, "flow_size"),
        ({"flow_size": 320}, "flow_size=320"),
        ({"flow_size": (0, 384)}, "flow_size"),
        ({"flow_size": (320, 380)}, "multiples of patch_size=8"),
    ],
)
def test_fields_that_make_no_sense_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(TINY, **fields)


def test_a_head_can_be_added_once() -> None:
    network = mz.create_model("midway_nano").to(torch.bfloat16)
    body = {key: value.clone() for key, value in network.state_dict().items()}
    assert network.add_flow_head(size=(64, 64)) is network
    assert network.config.flow_head == (24, 32, 48, 64, 32)
    assert network.config.flow_size == (64, 64)
    assert {parameter.dtype for parameter in network.flow_head.parameters()} == {torch.bfloat16}
    assert not network.flow_head.training
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in body.items())
    with pytest.raises(ConfigError, match="has a flow head already"):
        network.add_flow_head()


# Files.


def test_a_fine_tuned_network_is_saved_whole(tmp_path: Path) -> None:
    network = mz.MidwayNetwork(TINY).eval()
    network.save_pretrained(tmp_path / "tuned")
    for again in (mz.MidwayNetwork.from_pretrained(tmp_path / "tuned"), mz.load_checkpoint(tmp_path / "tuned")):
        assert again.config == TINY
        assert same_weights(again, network)
    pair = torch.randn(2, 1, 3, 32, 48)
    torch.testing.assert_close(again.flow(*pair), network.flow(*pair), atol=0, rtol=0)


def test_a_missing_tensor_of_the_head_is_an_error(tmp_path: Path) -> None:
    network = mz.MidwayNetwork(TINY)
    network.save_pretrained(tmp_path)
    del network.flow_head.reduce
    from midway_zoo.weights.sharing import save_network

    save_network(network, tmp_path)
    with pytest.raises(mz.MidwayZooError, match=r"flow_head\.reduce"):
        mz.load_checkpoint(tmp_path)


def test_released_weights_get_a_fresh_head_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "small.pth"
    write_released(path, replace(MidwayConfig(), **RELEASED))
    plain = mz.load_checkpoint(path)
    fields = {"flow_head": list(TINY.flow_head), "flow_size": [32, 48]}
    with caplog.at_level(logging.WARNING, logger="midway_zoo"):
        network = mz.load_checkpoint(path, config=fields)
    assert "small.pth has no flow head" in caplog.text
    assert network.config.flow_head == TINY.flow_head
    assert network.config.flow_size == (32, 48)
    assert same_weights(network.encoder, plain.encoder)
    assert same_weights(network.dynamics, plain.dynamics)
    assert network.flow(*torch.randn(2, 1, 3, 32, 48)).isfinite().all()
    assert not network.training


def test_pretrained_names_with_a_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_released(tmp_path / "nano.pth", ARCHITECTURES["midway_nano"])
    mz.register_weights("midway_nano.mine", path=tmp_path / "nano.pth")
    network = mz.create_model("midway_nano.mine", pretrained=True, flow_head=True)
    assert "has no flow head" in caplog.text
    assert same_weights(network.encoder, mz.create_model("midway_nano.mine", pretrained=True).encoder)

    network.save_pretrained(tmp_path / "tuned")
    mz.register_weights("midway_nano.tuned", path=tmp_path / "tuned")
    caplog.clear()
    tuned = mz.create_model("midway_nano.tuned", pretrained=True, flow_head=True)
    assert caplog.text == ""
    assert same_weights(tuned, network)
    with pytest.raises(ConfigError, match="cannot replace it"):
        mz.create_model("midway_nano.tuned", pretrained=True, flow_head=(8, 8, 8, 8, 8))
