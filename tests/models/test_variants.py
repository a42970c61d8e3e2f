"""The variants of the paper's ablations: each is a network of its own that runs, trains, saves and loads."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.utils import save_image

import midway_zoo as mz
from midway_zoo import MidwayConfig, MidwayNetwork
from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, ConfigError, InputError
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.weights.sharing import network_card

from ..weights.released_files import TINY

BASE: dict[str, Any] = {"levels": (2,), "backward": False, "refinement": False, "gating": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "without backward": {"backward": False},
    "without multi-level": {"levels": (2,)},
    "without refinement": {"refinement": False},
    "without gating": {"gating": False},
    "latent dynamics alone": BASE,
    "latent dynamics and backward": BASE | {"backward": True},
    "all levels, nothing else": BASE | {"levels": (2, 1, 0)},
    "two levels": {"levels": (1, 0)},
    "lowest level": {"levels": (0,)},
    "outer levels": {"levels": (2, 0), "refinement": False},
    "depth 1": {"midway_depth": 1, "forward_depth": 1},
    "narrow, few tokens": {"motion_dim": 6, "motion_tokens": 1},
}
variants = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)


def build(**values: Any) -> MidwayNetwork:
    """A tiny network with weights large enough that every path matters; equal seeds give equal shared tensors."""
    network = MidwayNetwork(replace(TINY, **values))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return network.eval()


def pair(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(2, count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def loss(output: mz.DynamicsOutput) -> Tensor:
    terms = [
        (2 - 2 * torch.cosine_similarity(output.predictions[i], output.targets[i], dim=-1)).mean()
        for i in output.predictions
    ]
    return torch.stack(terms).sum()


@variants
def test_outputs_hold_exactly_the_levels(values: dict[str, Any]) -> None:
    network = build(**values)
    config = network.config
    with torch.no_grad():
        output = network(*pair(), return_gates=True)
    for name in ("motion_latents", "predictions", "source_backward", "target_backward", "midway_target_tokens"):
        assert tuple(getattr(output, name)) == config.levels, name
    assert tuple(output.targets) == tuple(output.gates) == config.levels
    for level in config.levels:
        assert output.motion_latents[level].shape == (2, config.motion_tokens, config.motion_dim)
        assert output.predictions[level].shape == (2, 5, config.embed_dim)
        assert len(output.gates[level]) == (config.forward_depth - 1 if config.gating else 0)


@variants
def test_gradients_reach_every_trainable_parameter(values: dict[str, Any]) -> None:
    network = build(**values, paired=True).train()
    loss(network(*pair())).backward()
    dead = {name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert dead == set()
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert all(name.startswith(("target_encoder", "dynamics.target_")) for name in frozen)


@variants
@pytest.mark.parametrize("paired", [False, True], ids=["one encoder", "paired"])
def test_saved_and_loaded(values: dict[str, Any], paired: bool, tmp_path: Path) -> None:
    network = build(**values, paired=paired)
    network.save_pretrained(tmp_path)
    source, target = pair()
    with torch.no_grad():
        expected = network(source, target).predictions
        for loaded in (MidwayNetwork.from_pretrained(tmp_path), mz.load_checkpoint(tmp_path, paired=paired)):
            assert loaded.config == network.config
            found = loaded(source, target).predictions
            assert all(torch.equal(found[level], expected[level]) for level in network.config.levels)


@variants
def test_motion_latents_alone_agree_with_the_full_pass(values: dict[str, Any]) -> None:
    network = build(**values)
    with torch.no_grad():
        expected = network(*pair())
        levels = network.encode_pair(*pair())
        alone = network.dynamics.motion_latents(*levels, (2, 2))
        backward = network.dynamics.backward_features(levels[0])
    for level in network.config.levels:
        assert torch.allclose(alone.motion_latents[level], expected.motion_latents[level], atol=1e-5)
        assert torch.allclose(backward[level], expected.source_backward[level], atol=1e-5)


@variants
def test_public_functions(values: dict[str, Any]) -> None:
    network = build(**values)
    levels = network.config.levels
    a, b = pair(3).sigmoid()
    latent = mz.infer_motion_latent(network, a, b)
    assert tuple(latent.levels) == levels
    assert latent.tokens is latent.levels[levels[-1]]
    assert torch.equal(latent.pooled, latent.tokens.mean(dim=1))
    clip = mz.infer_motion_latents(network, a)
    assert tuple(clip.levels) == levels
    assert clip.tokens.shape == (2, network.config.motion_tokens, network.config.motion_dim)
    flow = mz.predict_flow(network, a, b)
    assert torch.equal(flow.flow, mz.predict_flow(network, a, b, level=levels[0]).flow)
    heat = mz.perturbation_heatmap(network, a, b, (3, 4), draws=1, level=levels[-1])
    assert heat.heatmap.shape == (3, 2, 2)
    if network.config.backward:
        assert tuple(mz.extract_features(network, a, blocks=(3,), backward=True).backward) == levels
    else:
        with pytest.raises(ConfigError, match=r"no backward layers .*backward=False"):
            mz.extract_features(network, a, backward=True)


def test_levels_that_are_left_out_are_refused() -> None:
    network, images = build(levels=(2, 1)), pair(1)[0].sigmoid()
    for call in (
        lambda: mz.predict_flow(network, images, images, level=0),
        lambda: mz.perturbation_heatmap(network, images, images, (1, 1), level=0),
        lambda: network.dynamics.motion_latents(*network.encode_pair(*pair()), (2, 2), level=0),
    ):
        with pytest.raises(InputError, match="level=0: 2 or 1 is expected"):
            call()


def test_compiles_without_graph_breaks() -> None:
    network = build(**BASE | {"levels": (1, 0)})
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, output = network(*pair()), compiled(*pair())
    level = network.config.levels[-1]
    assert torch.allclose(output.predictions[level], expected.predictions[level], atol=1e-5)


# What each switch means


def test_without_backward_tokens_take_the_place_of_backward_features() -> None:
    network = build(backward=False)
    source, target = pair()
    with torch.no_grad():
        output = network(source, target)
        levels, targets = network.encode(source), network.encode(target)
        tables = network.dynamics.position_tables((2, 2))
        motion = output.motion_latents[2]
        below = network.dynamics.infer_motion(1, motion, output.predictions[2], targets[2], tables)[0]
        prediction = network.dynamics.predict(0, output.motion_latents[0], levels[0])[0]
    assert all(torch.equal(output.source_backward[level], levels[level]) for level in (2, 1, 0))
    assert torch.allclose(output.motion_latents[1], below, atol=1e-5)
    assert torch.allclose(output.predictions[0], prediction, atol=1e-5)
    assert not [name for name in network.state_dict() if "backward" in name]


def test_without_multi_level_the_top_level_is_that_of_the_full_network() -> None:
    full, single = build(), build(levels=(2,))
    assert single.state_dict().keys() < full.state_dict().keys()
    single.load_state_dict({name: full.state_dict()[name] for name in single.state_dict()})
    with torch.no_grad():
        assert torch.equal(single(*pair()).predictions[2], full(*pair()).predictions[2])


def test_without_refinement_every_level_infers_anew() -> None:
    network = build(refinement=False)
    source, target = pair()
    with torch.no_grad():
        output = network(source, target)
        tables = network.dynamics.position_tables((2, 2))
        fresh = network.dynamics.motion_tokens.expand(2, -1, -1)
        for level in (1, 0):
            above, target_above = output.source_backward[level + 1], output.target_backward[level + 1]
            latent = network.dynamics.infer_motion(level, fresh, above, target_above, tables)[0]
            assert torch.allclose(output.motion_latents[level], latent, atol=1e-5)


@pytest.mark.parametrize("refinement", [True, False])
def test_only_refinement_lets_predictions_reach_the_motion_below(refinement: bool) -> None:
    network = build(refinement=refinement)
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.dynamics.forward_dynamics[2].parameters():
            parameter.mul_(-1)
        same = [torch.equal(network(*pair()).motion_latents[i], changed(*pair()).motion_latents[i]) for i in (2, 1, 0)]
    assert same == [True, not refinement, not refinement]


def test_without_gating_is_a_network_whose_gates_are_open() -> None:
    gated, plain = build(gate_bias=1e4), build(gating=False)
    missing = gated.state_dict().keys() - plain.state_dict().keys()
    assert missing
    assert all(".gates." in name for name in missing)
    plain.load_state_dict({name: gated.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        assert torch.equal(plain(*pair()).predictions[0], gated(*pair()).predictions[0])
        assert not torch.allclose(plain(*pair()).predictions[0], build(gate_bias=0.0)(*pair()).predictions[0])


# An encoder alone


@pytest.mark.parametrize("paired", [False, True])
def test_encoder_alone_gives_features_and_refuses_motion(paired: bool, tmp_path: Path) -> None:
    network = build(dynamics=False, paired=paired)
    network.save_pretrained(tmp_path)
    network = MidwayNetwork.from_pretrained(tmp_path)
    assert network.dynamics is None
    assert network.config == replace(TINY, dynamics=False, paired=paired)
    assert (network.device, network.dtype) == (torch.device("cpu"), torch.float32)
    assert copy.deepcopy(network).to(torch.bfloat16).dtype == torch.bfloat16
    a, b = pair().sigmoid()
    features = mz.extract_features(network, a, blocks=(1, 3))
    full = build(paired=paired)
    full.encoder.load_state_dict(network.encoder.state_dict())
    assert torch.equal(features.cls, mz.extract_features(full, a, blocks=(1, 3)).cls)
    for call in (
        lambda: network(a, b),
        lambda: mz.infer_motion_latent(network, a, b),
        lambda: mz.infer_motion_latents(network, a),
        lambda: mz.predict_flow(network, a, b),
        lambda: mz.perturbation_heatmap(network, a, b, (1, 1)),
    ):
        with pytest.raises(ConfigError, match=r"encoder alone .*dynamics=False.*dynamics=True"):
            call()
    with pytest.raises(ConfigError, match=r"no backward layers .*dynamics=False"):
        mz.extract_features(network, a, backward=True)


def test_folder_of_another_variant_is_refused(tmp_path: Path) -> None:
    network = build()
    network.config = replace(TINY, levels=(2, 1))
    network.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="unexpected"):
        mz.load_checkpoint(tmp_path)


def test_motion_command_of_a_single_level(tmp_path: Path) -> None:
    build(levels=(2,)).save_pretrained(tmp_path / "network")
    frames, out = tmp_path / "frames", tmp_path / "motion.safetensors"
    frames.mkdir()
    for index, image in enumerate(pair(1).sigmoid()[:, 0]):
        save_image(image, frames / f"{index}.png")
    assert main(["motion", str(tmp_path / "network"), str(frames), "-o", str(out)]) == 0
    assert load_file(out).keys() == {"tokens", "pooled"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, None),
        (BASE, "| variant | no backward; no refinement; no gating; levels 2 only |"),
        ({"dynamics": False}, "| variant | encoder alone, no dynamics |"),
    ],
)
def test_model_card_says_what_is_left_out(values: dict[str, Any], told: str | None) -> None:
    card = network_card(build(**values))
    assert "variant" not in card if told is None else told in card
    assert ("motion latents" in card) == ("infer_motion_latent" in card) == values.get("dynamics", True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": ()}, r"levels=\(\) must be"),
        ({"levels": (0, 1)}, r"levels=\(0, 1\) must be .* in that order"),
        ({"levels": (3,)}, "levels"),
        ({"levels": (2, 2)}, "levels"),
        ({"levels": (True,)}, r"levels=\[True\] must be integers\."),
        ({"levels": 2}, "levels=2 must be a list"),
        ({"gating": 1}, "gating=1 must be true or false"),
        ({"backward": None}, "backward=None"),
        ({"refinements": False}, "Did you mean 'refinement'"),
    ],
)
def test_variants_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MidwayConfig.from_dict(values)


def test_defaults_are_the_full_method() -> None:
    assert Dynamics(TINY).state_dict().keys() == Dynamics(replace(TINY, levels=(2, 1, 0))).state_dict().keys()
    assert MidwayConfig.from_dict({"levels": [2, 1]}).levels == (2, 1)
    names = {name.split(".")[0] for name in Dynamics(TINY).state_dict()}
    assert {"midway", "source_backward", "target_backward", "forward_dynamics"} <= names
