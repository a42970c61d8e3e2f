"""Pairs of frames: the matrix against derivatives taken otherwise, heat maps, gates, attention."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import midway_zoo as mz
import midway_zoo.analysis as analysis
from midway_zoo.analysis.attention import _before, _weights
from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.perturbation import sensitivity_of
from midway_zoo.inference.perturbation import tangents as draw_tangents

TINY = {"embed_dim": 12, "motion_dim": 6, "grid": (2, 2), "motion_tokens": 2, "forward_depth": 2, "midway_depth": 1}


@pytest.fixture(scope="module")
def tiny() -> mz.MidwayNetwork:
    """Four tokens of width 12, in double precision: a Jacobian of 60 x 60 numbers."""
    torch.manual_seed(3)
    network = mz.MidwayNetwork(override(architecture_config("midway_nano"), TINY)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


@pytest.mark.parametrize("level", [2, 0])
def test_the_matrix_is_that_of_the_exact_jacobian_and_of_finite_differences(tiny: mz.MidwayNetwork, level: int) -> None:
    source, target = (torch.rand(1, 3, 16, 16, dtype=torch.float64) for _ in range(2))
    dynamics = tiny.require_dynamics()
    with torch.no_grad():
        levels = tiny.encode_pair(source, target)
        found = sensitivity_of(tiny, *levels, (2, 2), level=level, seed=5)[0]
        motion, features = dynamics.forward_inputs(*levels, (2, 2), level=level)
    directions = draw_tangents(4, 1, features, 5)[0]

    def predict(value: torch.Tensor) -> torch.Tensor:
        return dynamics.predict(level, motion, value, (2, 2))[0]

    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(predict, features)[0, :, :, 0]  # (L, D, L, D)
    step = 1e-6
    for token in range(4):
        exact = jacobian[1:, :, token + 1] @ directions[token]
        moved = features.clone()
        moved[0, token + 1] += step * directions[token]
        back = 2 * features - moved
        with torch.no_grad():
            differences = (predict(moved) - predict(back))[0, 1:] / (2 * step)
        for tangents in (exact, differences):
            cosine = torch.nn.functional.cosine_similarity(tangents, directions[token][None], dim=-1)
            torch.testing.assert_close(found[token], cosine.float(), atol=2e-6, rtol=0)


def test_a_matrix_in_parts_is_the_whole(nano: mz.MidwayNetwork) -> None:
    source, target = torch.rand(3, 32, 40), torch.rand(3, 32, 40)
    options: dict[str, Any] = {"size": "full", "draws": 2, "level": 1}
    whole = analysis.sensitivity_matrix(nano, source, target, chunk_size=1000, **options).matrix
    for chunk in (3, 7):
        part = analysis.sensitivity_matrix(nano, source, target, chunk_size=chunk, **options).matrix
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)
    rows = list(analysis.sensitivity_rows(nano, source, target, rows=9, **options))
    assert [len(one) for one in rows] == [9, 9, 2]
    torch.testing.assert_close(torch.cat(rows), whole[0], atol=1e-5, rtol=0)
    assert torch.is_grad_enabled()
    with pytest.raises(InputError, match="2 pairs"):
        next(analysis.sensitivity_rows(nano, [source] * 2, [target] * 2))
    with pytest.raises(InputError, match="chunk_size=0"):
        analysis.sensitivity_matrix(nano, source, target, chunk_size=0)


def test_maps_of_many_points_are_those_of_each(nano: mz.MidwayNetwork) -> None:
    source, targets = torch.rand(3, 32, 40), torch.rand(2, 3, 32, 40)
    points = [(30, 20), (1, 1), (2, 3)]  # the last two are on one token
    found = analysis.heat_maps(nano, source, targets, points, size="full", draws=2, seed=1)
    assert repr(found).startswith("HeatMaps(heatmaps=float32[2, 3, 4, 5]")
    for number, target in enumerate(targets):
        for index, xy in enumerate(points):
            one = mz.perturbation_heatmap(nano, source, target, xy, size="full", draws=2, seed=1)
            torch.testing.assert_close(found.heatmaps[number, index], one.heatmap[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(found.target_xy[number, index], one.target_xy[0])
            assert found.tokens[index].tolist() == one.source_token[0].tolist()
    with pytest.raises(InputError, match=r"xy\[1\]=\(40, 0\) is outside"):
        analysis.heat_maps(nano, source, targets, [(1, 1), (40, 0)])


def test_gates_are_the_networks_and_can_be_held_open(nano: mz.MidwayNetwork) -> None:
    source, target = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    found = analysis.gate_maps(nano, source, target, batch_size=1)
    assert found.grid == (8, 8)
    images = [normaliser(nano)(one) for one in (source, target)]
    nano.eval()
    with torch.no_grad():
        out = nano(*images, return_gates=True)
        opened = analysis.ungated(nano)(*images)
    for level, gates in out.gates.items():
        assert found.mean[level].shape == (2, 3, 8, 8)
        torch.testing.assert_close(found.mean[level][1, 2].flatten(), gates[2][1, 1:].mean(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.closed[level][0, 0].flatten(), (gates[0][0, 1:] < 0.5).float().mean(-1))
    assert not torch.allclose(opened.predictions[2], out.predictions[2])
    flat = analysis.ungated(nano)
    for call in (lambda: analysis.gate_maps(flat, source, target), lambda: analysis.ungated(flat)):
        with pytest.raises(ConfigError, match="gat"):
            call()


@pytest.mark.parametrize("block", [0, 11])
def test_attention_is_what_the_block_mixes_by(nano: mz.MidwayNetwork, block: int) -> None:
    images = torch.rand(2, 3, 32, 40)
    found = analysis.attention_maps(nano, images, block=block, size="full")
    assert (found.maps.shape, found.grid, found.block) == ((2, 3, 4, 5), (4, 5), block)
    attn = nano.encoder.blocks[block].attn
    with torch.no_grad():
        x = _before(nano, normaliser(nano)(images), block)
        weights = _weights(nano.encoder.blocks[block], x)
        normed = nano.encoder.blocks[block].norm1(x)
        values = attn.qkv(normed).unflatten(-1, (3, 3, -1))[:, :, 2].transpose(1, 2)
        mixed = attn.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, attn(normed), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.maps, weights[:, :, 0, 1:].unflatten(2, (4, 5)))
    at = analysis.attention_maps(nano, images, block=block, xy=(17, 9), size="full")
    torch.testing.assert_close(at.maps, weights[:, :, 1 + 7, 1:].unflatten(2, (4, 5)))
    with pytest.raises(InputError, match="block=12"):
        analysis.attention_maps(nano, images, block=12)


@pytest.mark.parametrize("level", [2, 0])
def test_motion_tokens_share_their_attention(nano: mz.MidwayNetwork, level: int) -> None:
    """And the block whose attention this is gives the latent that the network gives."""
    source, target = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    found = analysis.motion_attention(nano, source, target, level=level, size=32)
    total = found.source.sum((2, 3)) + found.target.sum((2, 3)) + found.motion.sum(2)
    assert found.source.shape == (1, 10, 4, 4)
    assert (total < 1).all()  # the class tokens have the rest
    assert (total > 0.5).all()
    from midway_zoo.analysis.attention import _midway_input

    images = [normaliser(nano)(one) for one in (source, target)]
    with torch.no_grad():
        latent = nano.require_dynamics().midway[level](_midway_input(nano, level, *images))[:, :10]
        out = nano(*images)
    above = 0 if level == 2 else out.motion_latents[1]
    torch.testing.assert_close(latent + above, out.motion_latents[level], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="block=4"):
        analysis.motion_attention(nano, source, target, block=4)
