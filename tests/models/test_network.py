"""The network as a module: shapes, sizes, dtypes, derivatives, compilation, configuration."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import midway_zoo as mz
from midway_zoo.config import ARCHITECTURES, MidwayConfig
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.perturbation import sensitivity
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.models.layers import Mlp


def test_parameter_counts_are_the_papers() -> None:
    with torch.device("meta"):
        network = mz.MidwayNetwork(ARCHITECTURES["midway_vits"])
    trainable = sum(p.numel() for p in network.dynamics.parameters() if p.requires_grad)
    assert round(trainable / 1e6, 1) == 36.6
    assert round(sum(p.numel() for p in network.encoder.parameters()) / 1e6, 2) == 21.67


def test_target_side_is_a_frozen_copy() -> None:
    dynamics = Dynamics(ARCHITECTURES["midway_nano"])
    for source, target in (
        (dynamics.source_embed, dynamics.target_embed),
        (dynamics.source_backward, dynamics.target_backward),
    ):
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
        assert not any(p.requires_grad for p in target.parameters())


def test_output_names_and_shapes(nano) -> None:
    output = nano(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64), return_gates=True)
    for level in (2, 1, 0):
        assert output.motion_latents[level].shape == (2, 10, 48)
        for room in (output.predictions, output.source_backward, output.target_backward, output.targets):
            assert room[level].shape == (2, 65, 96)
        assert output.midway_target_tokens[level].shape == (2, 65, 48)
        assert [tuple(gate.shape) for gate in output.gates[level]] == [(2, 65, 96)] * 3
        assert all(((gate > 0) & (gate < 1)).all() for gate in output.gates[level])
    assert nano(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)).gates is None


def test_targets_are_normed_tokens_of_the_target_and_carry_no_gradient(nano) -> None:
    source, target = torch.randn(2, 1, 3, 64, 64)
    output = nano(source, target)
    levels = nano.encode(target)
    assert all(torch.allclose(output.targets[level], levels[level], atol=1e-5) for level in (0, 1, 2))
    assert not any(value.requires_grad for value in output.targets.values())
    assert not any(value.requires_grad for value in output.target_backward.values())


def test_gradients_reach_everything_but_the_target_side() -> None:
    network = mz.create_model("midway_nano", paired=True).train()
    source, target = torch.randn(2, 2, 3, 64, 64)
    output = network(source, target)
    sum(
        (2 - 2 * torch.cosine_similarity(output.predictions[i], output.targets[i], dim=-1)).mean() for i in (0, 1, 2)
    ).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    assert without == {
        name for name, _ in network.named_parameters() if name.startswith(("target_encoder", "dynamics.target_"))
    }


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_any_multiple_of_the_patch(nano, rows: int, columns: int) -> None:
    with torch.no_grad():
        output = nano(torch.randn(1, 3, 8 * rows, 8 * columns), torch.randn(1, 3, 8 * rows, 8 * columns))
    assert output.predictions[0].shape == (1, 1 + rows * columns, 96)
    assert output.predictions[0].isfinite().all()


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (3, 64, 64), (0, 3, 64, 64), (1, 3, 0, 64)])
def test_sizes_that_do_not_fit_the_patch_are_refused(nano, shape) -> None:
    with pytest.raises(InputError, match="multiples of the patch"):
        nano(torch.zeros(shape), torch.zeros(shape))


def test_frames_of_different_sizes_are_refused(nano) -> None:
    with pytest.raises(InputError, match="same shape"):
        nano(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 72))


def test_native_size_resamples_nothing(nano) -> None:
    source, target = nano.dynamics.position_tables((8, 8))
    assert torch.equal(torch.cat([source, target], dim=1), nano.dynamics.pos_embed)


def test_halves_of_the_motion_table_are_resampled_alike(nano) -> None:
    with torch.no_grad():
        table = copy.deepcopy(nano.dynamics)
        table.pos_embed[:, 65:] = table.pos_embed[:, :65]
        source, target = table.position_tables((5, 12))
    assert source.shape == (1, 61, 48)
    assert torch.equal(source, target)
    assert torch.equal(source[:, 0], table.pos_embed[:, 0])  # the CLS row is kept


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_other_dtypes_agree_with_float32(nano, dtype, tolerance) -> None:
    source, target = torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():
        expected = nano(source, target)
        output = copy.deepcopy(nano).to(dtype)(source.to(dtype), target.to(dtype))
    assert output.predictions[0].dtype == dtype
    cosine = torch.cosine_similarity(output.predictions[0].float(), expected.predictions[0], dim=-1)
    assert (1 - cosine).max() < tolerance


def test_compiles_without_graph_breaks(nano) -> None:
    compiled = torch.compile(nano, fullgraph=True, backend="aot_eager")
    source, target = torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():
        expected, output = nano(source, target), compiled(source, target)
    assert torch.allclose(output.predictions[0], expected.predictions[0], atol=1e-5)


def test_forward_mode_derivative_is_right(nano) -> None:
    network = copy.deepcopy(nano).double()
    with torch.no_grad():
        levels = network.encode_pair(*torch.randn(2, 1, 3, 64, 64).double())
        motion, features = network.dynamics.forward_inputs(*levels, (8, 8), level=1)
    tangent = torch.randn_like(features)

    def predict(value: torch.Tensor) -> torch.Tensor:
        return network.dynamics.predict(1, motion, value)[0]

    with torch.no_grad():
        _, pushed = torch.func.jvp(predict, (features,), (tangent,))
        step = 1e-5
        difference = (predict(features + step * tangent) - predict(features - step * tangent)) / (2 * step)
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(predict(forward_ad.make_dual(features, tangent))).tangent
    assert torch.allclose(pushed, difference, atol=1e-6)
    assert torch.allclose(pushed, dual, atol=1e-9)


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "vmap of jvp", "dual numbers"])
def test_a_training_mlp_passes_through_transforms(transform) -> None:
    torch.manual_seed(0)
    mlp, x, t = Mlp(4, 8).double().train(), torch.randn(3, 4).double(), torch.randn(3, 4).double()

    def pushed() -> torch.Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(mlp(forward_ad.make_dual(x, t))).tangent

    ways = {
        "vmap": lambda: torch.func.vmap(mlp)(x),
        "grad": lambda: torch.func.grad(lambda v: mlp(v).square().sum())(x),
        "jvp": lambda: torch.func.jvp(mlp, (x,), (t,))[1],
        "vmap of jvp": lambda: torch.func.vmap(lambda d: torch.func.jvp(mlp, (x,), (d,))[1])(t[None])[0],
        "dual numbers": pushed,
    }
    found = ways[transform]()
    mlp.eval()
    torch.testing.assert_close(found, ways[transform]())


def test_sensitivity_of_a_network_in_training(nano) -> None:
    source, target = torch.randn(2, 1, 3, 64, 64)
    expected = sensitivity(nano, source, target, tokens=[3])
    found = sensitivity(copy.deepcopy(nano).train(), source, target, tokens=[3])
    torch.testing.assert_close(found, expected)


def test_forward_dynamics_takes_second_derivatives(nano) -> None:
    network = copy.deepcopy(nano).double()
    motion, value = torch.randn(1, 10, 48).double(), torch.randn(1, 5, 96).double()
    gradient = torch.func.grad(lambda v: network.dynamics.predict(2, motion, v)[0].square().sum())(value)
    assert gradient.shape == value.shape
    assert gradient.isfinite().all()


def test_gate_reads_the_input_of_the_block_before(nano) -> None:
    """The released quirk: perturbing the output of block 0 must not change the gate of block 1."""
    dynamics = nano.dynamics.forward_dynamics[2]
    motion, value = torch.randn(1, 10, 96), torch.randn(1, 5, 96)
    with torch.no_grad():
        _, gates = dynamics(motion, value)
        assert torch.equal(gates[0], dynamics.gates[0](value))
        changed = copy.deepcopy(dynamics)
        changed.blocks[0].mlp.fc2.bias.add_(1.0)
        _, others = changed(motion, value)
    assert torch.equal(gates[0], others[0])
    assert not torch.equal(gates[1], others[1])


def test_paired_mode_uses_both_encoders() -> None:
    network = mz.create_model("midway_nano", paired=True)
    source, target = torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():
        same = network(source, target)
        for parameter in network.target_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        other = network(source, target)
    assert torch.equal(same.source_backward[2], other.source_backward[2])
    assert not torch.allclose(same.targets[2], other.targets[2])


def test_config_survives_json() -> None:
    for config in ARCHITECTURES.values():
        assert MidwayConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"motion_dims": 192}, "Did you mean 'motion_dim'"),
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=384"),
        ({"midway_heads": 5}, "midway_heads=5"),
        ({"forward_heads": 7}, "forward_heads=7"),
        ({"depth": 0}, "depth=0"),
        ({"depth": True}, "depth=True"),
        ({"embed_dim": "384"}, "embed_dim='384'"),
        ({"grid": (0, 4)}, "grid"),
        ({"grid": (4,)}, "grid"),
        ({"grid": ("a", "b")}, "grid"),
        ({"feature_blocks": (2, 5, 8)}, "feature_blocks"),
        ({"feature_blocks": (2, 5, 8, 12)}, "feature_blocks"),
        ({"feature_blocks": (5, 2, 8, 11)}, "feature_blocks"),
        ({"gate_bias": "4"}, "gate_bias"),
        ({"encoder": "midway_vit"}, "midway_vits"),
        ({"paired": "yes"}, "paired"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        MidwayConfig.from_dict(values)


def test_network_takes_a_config_only() -> None:
    with pytest.raises(ConfigError, match="create_model takes a name"):
        mz.MidwayNetwork("midway_vits")
