"""Our outputs against the original implementation's, in float32 on the CPU (tolerance 1e-4)."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.weights.convert import convert

TOLERANCE = 1e-4


def actual(output: mz.DynamicsOutput, name: str) -> Tensor:
    """The tensor of our output that a reference name means."""
    kind, _, rest = name.partition("_level")
    if name == "loss_dynamics_sum":
        return sum((loss(output, level) for level in (2, 1, 0)), torch.zeros(()))
    level = int(rest[0])
    if kind == "loss":
        return loss(output, level)
    if kind == "gate":
        assert output.gates is not None
        return output.gates[level][int(rest[-1]) - 1]
    rooms = {
        "motion_latent": output.motion_latents,
        "prediction": output.predictions,
        "backward_source": output.source_backward,
        "backward_target": output.target_backward,
        "midway_target_tokens": output.midway_target_tokens,
    }
    return rooms[kind][level]


def loss(output: mz.DynamicsOutput, level: int) -> Tensor:
    cosine = torch.cosine_similarity(output.predictions[level], output.targets[level], dim=-1)
    return (2 - 2 * cosine).mean()


def assert_agrees(output: mz.DynamicsOutput, expected: dict[str, Tensor], mode: str) -> int:
    compared = 0
    for full, reference in expected.items():
        if not full.startswith(f"{mode}."):
            continue
        name = full.removeprefix(f"{mode}.")
        value = actual(output, name.removesuffix(".first8"))
        value = value[:, :8] if name.endswith(".first8") else value
        assert value.shape == reference.shape, name
        assert (value - reference).abs().max() <= TOLERANCE, name
        compared += 1
    return compared


@pytest.mark.parametrize("mode", ["paired", "siamese_teacher", "siamese_student"])
def test_official_dynamics(mode, official, official_inputs, official_expected) -> None:
    network = mz.load_checkpoint(official, encoder=mode.removeprefix("siamese_") if mode != "paired" else "teacher",
                                 paired=mode == "paired")  # fmt: skip
    a, b = official_inputs["frame_a"], official_inputs["frame_b"]
    with torch.no_grad():
        output = network(torch.cat([a, b]), torch.cat([b, a]), return_gates=True)
    assert assert_agrees(output, official_expected, mode) == 28


@pytest.mark.parametrize("encoder", ["teacher", "student"])
@pytest.mark.parametrize("frame", ["frame_a", "frame_b"])
def test_official_encoder(encoder, frame, official, official_inputs, official_expected, tmp_path) -> None:
    convert(official, tmp_path, encoder=encoder)
    model = timm.create_model(f"local-dir:{tmp_path}/encoder", pretrained=True).eval()
    network = mz.load_checkpoint(official, encoder=encoder)
    with torch.no_grad():
        cls = model(official_inputs[frame])
        levels = network.encode(official_inputs[frame])
    assert (cls - official_expected[f"{encoder}.{frame}.cls"]).abs().max() <= TOLERANCE
    for block, tokens in zip((2, 5, 8, 11), levels, strict=True):
        assert (tokens - official_expected[f"{encoder}.{frame}.block{block}"]).abs().max() <= TOLERANCE


def test_motion_latents_without_the_rest(official, official_inputs, official_expected) -> None:
    network = mz.load_checkpoint(official)
    source = torch.cat([official_inputs["frame_a"], official_inputs["frame_b"]])
    target = torch.cat([official_inputs["frame_b"], official_inputs["frame_a"]])
    with torch.no_grad():
        output = network.dynamics.motion_latents(*network.encode_pair(source, target), network.grid_of(source))
    for level in (2, 1, 0):
        reference = official_expected[f"siamese_teacher.motion_latent_level{level}"]
        assert (output.motion_latents[level] - reference).abs().max() <= TOLERANCE


@pytest.mark.parametrize("mode", ["paired", "siamese_teacher"])
def test_full_size(mode, formula_vits: Path, shared: Path) -> None:
    from safetensors.torch import load_file

    expected = load_file(shared / "fixtures/layouts/vit_small.expected.safetensors")
    rng = np.random.default_rng(7)
    a, b = (torch.from_numpy(rng.standard_normal((1, 3, 224, 224)).astype(np.float32)) for _ in range(2))
    network = mz.load_checkpoint(formula_vits, paired=mode == "paired")
    with torch.no_grad():
        output = network(torch.cat([a, b]), torch.cat([b, a]), return_gates=True)
        levels = network.encode(a, target=True)
    assert assert_agrees(output, expected, mode) == 11
    for block, tokens in zip((2, 5, 8, 11), levels, strict=True):
        assert (tokens[:, :8] - expected[f"teacher.frame_a.block{block}.first8"]).abs().max() <= TOLERANCE
    assert (levels[-1][:, 0] - expected["teacher.frame_a.cls"]).abs().max() <= TOLERANCE
