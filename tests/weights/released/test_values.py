"""Reading the released layout: right numbers, right shape, little memory."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from midway_zoo import MidwayConfig, MidwayZooError, load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError, InputTypeError, MissingFileError
from tests.weights.released.files import HEADS, settings
from tests.weights.released_files import (
    DROP,
    TINY,
    assert_same_state,
    expected_state,
    write_released,
)


@pytest.mark.parametrize(
    "options", [{}, {"encoder": "student"}, {"paired": True}], ids=["teacher", "student", "paired"]
)
def test_values_are_those_of_the_file(tiny: tuple[Path, dict[str, Any]], options: dict[str, Any]) -> None:
    path, checkpoint = tiny
    network = load_checkpoint(path, **options)
    assert_same_state(network.state_dict(), expected_state(checkpoint, **options))
    assert network.config == replace(TINY, paired="paired" in options)
    assert not any(module.training for module in network.modules())
    assert all(tensor.device.type == "cpu" for tensor in [*network.parameters(), *network.buffers()])


def test_student_and_teacher_differ(tiny: tuple[Path, dict[str, Any]]) -> None:
    student = load_checkpoint(tiny[0], encoder="student").encoder.norm.weight
    assert not torch.equal(student, load_checkpoint(tiny[0]).encoder.norm.weight)


def test_only_the_ema_copies_are_frozen(tiny: tuple[Path, dict[str, Any]]) -> None:
    network = load_checkpoint(tiny[0], paired=True)
    frozen = {name.split(".target_")[0] for name, value in network.named_parameters() if not value.requires_grad}
    assert all("target_" in name for name, value in network.named_parameters() if not value.requires_grad)
    assert all(not value.requires_grad for name, value in network.named_parameters() if "target_" in name)
    assert frozen


def test_global_random_state_is_left_alone(tiny: tuple[Path, dict[str, Any]]) -> None:
    before = torch.get_rng_state()
    load_checkpoint(tiny[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_path_may_be_text(tiny: tuple[Path, dict[str, Any]]) -> None:
    assert load_checkpoint(str(tiny[0])).config == TINY


# Any shape

SHAPES = {
    "width 48": replace(TINY, embed_dim=48),
    "width of ViT-Ti": replace(TINY, embed_dim=192),
    "width 96, which no architecture has": replace(TINY, embed_dim=96, motion_dim=36),
    "patch 16, four rows, six columns": replace(TINY, patch_size=16, grid=(4, 6)),
    "patch 16, six rows, four columns": replace(TINY, patch_size=16, grid=(6, 4)),
    "one row": replace(TINY, grid=(1, 3)),
    "one token": replace(TINY, grid=(1, 1)),
    "six motion tokens": replace(TINY, motion_tokens=6),
    "other head counts": replace(TINY, midway_heads=2, backward_heads=4, forward_heads=8),
    "midway and forward depth 3": replace(TINY, midway_depth=3, forward_depth=3),
    "forward depth 1, no gates": replace(TINY, forward_depth=1),
    "gate bias 2": replace(TINY, gate_bias=2.0),
    "encoder depth 6": replace(TINY, depth=6, feature_blocks=(1, 2, 4, 5)),
    "encoder depth 13": replace(TINY, depth=13, feature_blocks=(3, 6, 9, 12)),
}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_any_shape(write: Callable[..., Any], config: MidwayConfig) -> None:
    path, checkpoint = write(config)
    network = load_checkpoint(path, paired=True)
    assert replace(network.config, encoder=config.encoder) == replace(config, paired=True)
    assert_same_state(network.state_dict(), expected_state(checkpoint, config, paired=True))
    height, width = config.img_size
    with torch.no_grad():
        output = network(torch.randn(1, 3, height, width), torch.randn(1, 3, height, width))
    assert output.predictions[0].shape == (1, 1 + math.prod(config.grid), config.embed_dim)
    assert output.motion_latents[0].shape == (1, config.motion_tokens, config.motion_dim)


def test_gate_bias_reaches_every_gate(write: Callable[..., Any]) -> None:
    path, _ = write(args_overrides=settings(gating_bias=2))
    gates = [gate for level in load_checkpoint(path).dynamics.forward_dynamics for gate in level.gates]
    assert [gate.bias for gate in gates] == [2.0] * 3


@pytest.mark.parametrize(("actual", "claimed"), [(12, 24), (24, 12), (24, None), (24, DROP)])
def test_motion_width_comes_from_the_tensors(write: Callable[..., Any], actual: int, claimed: Any) -> None:
    config = replace(TINY, motion_dim=actual)
    path, checkpoint = write(config, args_overrides=settings(motion_dim=claimed))
    network = load_checkpoint(path)
    assert network.config.motion_dim == actual
    assert_same_state(network.state_dict(), expected_state(checkpoint, config))


def test_other_unread_settings_do_not_matter(write: Callable[..., Any]) -> None:
    path, _ = write(args_overrides=settings(motion_tokens=99, motion_depth=99, predictor_depth=99) | {"patch_size": 99})
    assert load_checkpoint(path).config == TINY


def test_order_of_parts_and_tensors_does_not_matter(write: Callable[..., Any]) -> None:
    def reverse(checkpoint: dict[str, Any]) -> None:
        for part in ("student", "teacher", "motion_loss"):
            checkpoint[part] = dict(reversed(checkpoint[part].items()))
        for key in reversed(list(checkpoint)):
            checkpoint[key] = checkpoint.pop(key)

    path, checkpoint = write(edit=reverse)
    assert next(iter(checkpoint)) == "motion_loss"
    assert_same_state(load_checkpoint(path, paired=True).state_dict(), expected_state(checkpoint, paired=True))


@pytest.mark.parametrize(
    ("tokens", "motion", "whole", "grid"),
    [
        ((4, 6), [64, 96], [224, 224], (4, 6)),
        ((4, 6), [96, 64], [224, 224], (6, 4)),
        ((4, 6), [224, 224], [96, 64], (6, 4)),
        ((4, 6), DROP, [64, 96], (4, 6)),
        ((4, 4), DROP, DROP, (4, 4)),
        ((4, 4), [224, 224], [224, 224], (4, 4)),
        ((4, 4), [32, 128], [224, 224], (2, 8)),
        ((4, 4), "224", None, (4, 4)),
    ],
    ids=str,
)
def test_grid_is_the_crop_that_fits_else_a_square(
    write: Callable[..., Any], tokens: tuple[int, int], motion: Any, whole: Any, grid: tuple[int, int]
) -> None:
    config = replace(TINY, patch_size=16, grid=tokens)
    crops = {"motion_crop_resolution": motion, "global_crop_resolution": whole}
    path, _ = write(config, args_overrides=crops)
    assert load_checkpoint(path).config.grid == grid


def test_grid_that_cannot_be_told(write: Callable[..., Any]) -> None:
    crops = {"motion_crop_resolution": [224, 224], "global_crop_resolution": DROP}
    path, _ = write(replace(TINY, grid=(2, 3)), args_overrides=crops)
    with pytest.raises(ConfigError, match=r"file\.pth: .*6 patch rows.*config=\{'grid': \(rows, columns\)\}"):
        load_checkpoint(path)
    assert load_checkpoint(path, config={"grid": (3, 2)}).config.grid == (3, 2)


# config= overrides


def test_overrides_win_over_the_file(tiny: tuple[Path, dict[str, Any]]) -> None:
    given = {
        "num_heads": 4,
        "midway_heads": 6,
        "backward_heads": 3,
        "forward_heads": 2,
        "gate_bias": 1.5,
        "grid": [4, 1],
        "feature_blocks": (0, 1, 2, 3),
    }
    network = load_checkpoint(tiny[0], config=given)
    assert network.config == replace(TINY, **given)
    assert network.encoder.blocks[0].attn.num_heads == 4
    assert network.dynamics.source_backward[0].cross_attn.heads == 3
    assert_same_state(network.state_dict(), expected_state(tiny[1]))


@pytest.mark.parametrize("paired", [False, True])
def test_a_whole_config_needs_nothing_of_args(write: Callable[..., Any], paired: bool) -> None:
    path, checkpoint = write(edit=lambda checkpoint: checkpoint.pop("args"))
    network = load_checkpoint(path, paired=paired, config=TINY)
    assert network.config == replace(TINY, paired=paired)
    assert_same_state(network.state_dict(), expected_state(checkpoint, paired=paired))


def test_a_few_overrides_replace_missing_args(write: Callable[..., Any]) -> None:
    path, _ = write(edit=lambda checkpoint: checkpoint.pop("args"))
    given = HEADS | {"gate_bias": 4, "feature_blocks": [0, 1, 2, 3]}
    assert load_checkpoint(path, config=given).config == TINY


def test_overrides_that_contradict_the_tensors(tiny: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.pth: tensor .*has shape \[.*24.*\], expected \[.*48.*\]"):
        load_checkpoint(tiny[0], config={"embed_dim": 48})


@pytest.mark.parametrize(
    ("key", "suggestion"), [("gridd", "grid"), ("midway_head", "midway_heads"), ("motion_width", "motion_")]
)
def test_unknown_override_suggests_the_nearest(tiny: tuple[Path, dict[str, Any]], key: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown configuration key '{key}'. Did you mean '{suggestion}"):
        load_checkpoint(tiny[0], config={key: 3})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grid", 4),
        ("grid", None),
        ("grid", (4,)),
        ("grid", (0, 4)),
        ("feature_blocks", 3),
        ("feature_blocks", (0, 1, 2, 4)),
        ("num_heads", 0),
        ("num_heads", "3"),
        ("backward_heads", 5),
        ("motion_tokens", 2**70),
        ("gate_bias", "4"),
        ("gate_bias", math.nan),
        ("encoder", "student"),
        ("encoder", "resnet18"),
        ("encoder", 3),
    ],
)
def test_bad_override_names_its_key(tiny: tuple[Path, dict[str, Any]], key: str, value: Any) -> None:
    with pytest.raises(MidwayZooError, match=key):
        load_checkpoint(tiny[0], config={key: value})


@pytest.mark.parametrize("config", [["grid"], "grid", 5, {1: 2}], ids=str)
def test_config_that_is_no_mapping_of_names(tiny: tuple[Path, dict[str, Any]], config: Any) -> None:
    with pytest.raises((ConfigError, InputTypeError), match="config"):
        load_checkpoint(tiny[0], config=config)


def test_encoder_and_path_arguments_are_checked(tiny: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'encoder=\'both\'.*"teacher" or "student"'):
        load_checkpoint(tiny[0], encoder="both")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="int"):
        load_checkpoint(5)  # type: ignore[arg-type]
    with pytest.raises(MissingFileError, match=re.escape(str(tmp_path / "no.pth"))):
        load_checkpoint(tmp_path / "no.pth")
    with pytest.raises(MissingFileError, match=r"create_model\('midway_vits.bdd100k', pretrained=True\)"):
        load_checkpoint("midway_vits.bdd100k")


MEASURE = """
import json, sys
import torch
from midway_zoo import load_checkpoint

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

tiny, large = sys.argv[1:]
load_checkpoint(tiny)  # whatever the first call imports and allocates
before = status("VmRSS")
network = load_checkpoint(large)
growth = status("VmHWM") - before
kept = sum(tensor.nbytes for tensor in network.state_dict().values())
whole = torch.load(large, weights_only=False)
print(json.dumps({"kept": kept, "growth": growth, "whole": status("VmHWM") - before - kept}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads a process's peak memory from Linux")
def test_peak_memory_is_that_of_the_network(
    tiny: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # VmHWM rather than ru_maxrss: that one starts at the size of the process that forked this one.
    config = replace(TINY, embed_dim=384, num_heads=6, motion_dim=96, patch_size=16)
    path = tmp_path_factory.mktemp("large") / "large.pth"
    write_released(path, config)
    command = [sys.executable, "-c", MEASURE, str(tiny[0]), str(path)]
    try:
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert found["kept"] > 100e6
        assert path.stat().st_size > 2.5 * found["kept"]
        assert found["growth"] <= 1.5 * found["kept"]
        assert found["whole"] > 1.5 * found["kept"], "torch.load reads all of it: the measurement must show that"
    finally:
        path.unlink()


WITHOUT_OMEGACONF = """
import sys
sys.modules["omegaconf"] = None
from midway_zoo import load_checkpoint
network = load_checkpoint(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("omegaconf.")]
print(network.config.midway_heads, network.dynamics.motion_proj.bias[3].item().hex())
"""


def test_omegaconf_is_not_needed_to_read(tiny: tuple[Path, dict[str, Any]]) -> None:
    command = [sys.executable, "-c", WITHOUT_OMEGACONF, str(tiny[0])]
    heads, number = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert heads == "3"
    assert float.fromhex(number) == tiny[1]["motion_loss"]["module.motion_proj.bias"][3].item()
