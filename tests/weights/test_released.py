"""Reading the released layout: right numbers, right shape, every tensor accounted for, little memory."""

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
from torch import nn

from midway_zoo import MidwayConfig, MidwayZooError, load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError, InputTypeError, MissingFileError
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.released import checkpoint_summary
from tests.weights.released_files import (
    DROP,
    TINY,
    assert_same_state,
    expected_state,
    released_checkpoint,
    write_released,
)

HEADS = {"num_heads": 3, "midway_heads": 3, "backward_heads": 6, "forward_heads": 6}

PARTS = ("student", "teacher", "motion_loss", "dino_loss")

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small released file with every part, and what it holds."""
    path = tmp_path_factory.mktemp("released") / "tiny.pth"
    return path, write_released(path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Write a small released file without optimizer: options as in ``write_released``."""

    def write(config: MidwayConfig = TINY, **options: Any) -> tuple[Path, dict[str, Any]]:
        path = tmp_path / "file.pth"
        return path, write_released(path, config, optimizer=False, **options)

    return write


def settings(**overrides: Any) -> dict[str, Any]:
    """``args_overrides`` for the switches of the dynamics."""
    return {"midway_model_configs": overrides}


def put(part: str, name: str, value: Any) -> Edit:
    """Replace a tensor, by a value or by a function of the old one."""

    def edit(checkpoint: dict[str, Any]) -> None:
        old = checkpoint[part].get(name)
        checkpoint[part][name] = value(old) if callable(value) else value

    return edit


def remove(part: str, *patterns: str) -> Edit:
    """Remove the tensors whose names match."""

    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint[part] = {
            name: value
            for name, value in checkpoint[part].items()
            if not any(re.search(pattern, name) for pattern in patterns)
        }

    return edit


# Right numbers


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


# The pickled configuration


def test_args_may_be_a_plain_dict(write: Callable[..., Any]) -> None:
    path, _ = write(args="plain")
    assert load_checkpoint(path).config == TINY


# what the file says -> what the message names, the override that mends it
BAD_ARGS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "no midway heads": (settings(num_motion_heads=DROP), "num_motion_heads", {"midway_heads": 3}),
    "null midway heads": (settings(num_motion_heads=None), "num_motion_heads", {"midway_heads": 3}),
    "midway heads as text": (settings(num_motion_heads="3"), "num_motion_heads", {"midway_heads": 3}),
    "midway heads as truth": (settings(num_motion_heads=True), "num_motion_heads", {"midway_heads": 3}),
    "fractional midway heads": (settings(num_motion_heads=3.5), "midway_heads=3.5", {"midway_heads": 3}),
    "midway heads that do not divide": (settings(num_motion_heads=5), "midway_heads=5", {"midway_heads": 3}),
    "no backward heads": (settings(num_feature_heads=DROP), "num_feature_heads", {"backward_heads": 6}),
    "backward heads that do not divide": (settings(num_feature_heads=7), "backward_heads=7", {"backward_heads": 6}),
    "no forward heads": (settings(num_pred_heads=DROP), "num_pred_heads", {"forward_heads": 6}),
    "negative forward heads": (settings(num_pred_heads=-6), "forward_heads=-6", {"forward_heads": 6}),
    "no gate bias": (settings(gating_bias=DROP), "gating_bias", {"gate_bias": 4.0}),
    "gate bias that is no number": (settings(gating_bias=math.nan), "gat(e|ing)_bias", {"gate_bias": 4.0}),
    "infinite gate bias": (settings(gating_bias=math.inf), "gat(e|ing)_bias", {"gate_bias": 4.0}),
    "unknown arch": ({"arch": "swin"}, "arch='swin'", {"num_heads": 3}),
    "no arch": ({"arch": DROP}, "arch=None", {"num_heads": 3}),
    "arch of another width": ({"arch": "vit_base"}, "arch='vit_base'.*24 wide", {"num_heads": 3}),
    "three levels": ({"motion_feature_levels": [0, 1, 2]}, "feature_blocks", {"feature_blocks": (0, 1, 2, 3)}),
    "level beyond the depth": ({"motion_feature_levels": [0, 1, 2, 9]}, "9", {"feature_blocks": (0, 1, 2, 3)}),
    "levels as text": ({"motion_feature_levels": list("0123")}, "feature_blocks", {"feature_blocks": (0, 1, 2, 3)}),
    "no levels": ({"motion_feature_levels": DROP}, "feature_blocks", {"feature_blocks": (0, 1, 2, 3)}),
    "negative crop": ({"motion_crop_resolution": [-16, -16]}, "grid", {"grid": (2, 2)}),
    "no settings": ({"midway_model_configs": DROP}, "num_motion_heads", HEADS | {"gate_bias": 4.0}),
    "null settings": ({"midway_model_configs": None}, "num_motion_heads", HEADS | {"gate_bias": 4.0}),
}


@pytest.mark.parametrize(("overrides", "named", "mend"), BAD_ARGS.values(), ids=BAD_ARGS)
def test_bad_args_name_the_key_and_an_override_mends_them(
    write: Callable[..., Any], overrides: dict[str, Any], named: str, mend: dict[str, Any]
) -> None:
    path, _ = write(args_overrides=overrides)
    with pytest.raises(ConfigError, match=rf"file\.pth: .*{named}.*Pass config="):
        load_checkpoint(path)
    assert load_checkpoint(path, config=mend).config == TINY


@pytest.mark.parametrize("huge", [10**400, 10**5000], ids=["400 digits", "5000 digits"])
@pytest.mark.parametrize("key", ["arch", "num_motion_heads", "gating_bias", "gating_tau"])
def test_absurd_numbers_in_args(write: Callable[..., Any], key: str, huge: int) -> None:
    path, _ = write(args="plain", args_overrides={"arch": huge} if key == "arch" else settings(**{key: huge}))
    with pytest.raises((ConfigError, CheckpointError), match=r"file\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("args", [None, [], ["arch"], "arch", 5, {}], ids=str)
def test_args_that_are_no_mapping(write: Callable[..., Any], args: Any) -> None:
    path, _ = write(edit=lambda checkpoint: checkpoint.update(args=args))
    with pytest.raises((ConfigError, CheckpointError), match=r"file\.pth: .*(args|configuration)"):
        load_checkpoint(path)


def test_missing_args_name_the_override(write: Callable[..., Any]) -> None:
    path, _ = write(edit=lambda checkpoint: checkpoint.pop("args"))
    with pytest.raises(ConfigError, match=r"head count.*config=\{'num_heads'"):
        load_checkpoint(path)


SWITCHES = [
    ("use_pos_embed", False),
    ("feature_block_type", "self"),
    ("feature_block_type", None),  # the variant without backward layers, were there no such tensors
    ("feature_depth", 2),
    ("shared_feature_block", True),
    ("use_cls_token", False),
    ("motion_agg_type", "cat"),
    ("motion_agg_type", None),  # half of the variant without refinement
    ("shared_motion", True),
    ("motion_pred_input", False),
    ("gating_type", None),
    ("gating_tau", 0.5),
    ("pred_type", "cross"),
    ("pos_embed_mode", "sincos"),
    ("pred_tau", 0.5),
    ("pred_registers", 4),
    ("shared_forward", True),
    ("motion_head_type", "mlp"),
    ("target_type", "backward"),
]


@pytest.mark.parametrize(("key", "value"), SWITCHES)
def test_switches_that_change_the_computation_are_refused(write: Callable[..., Any], key: str, value: Any) -> None:
    path, _ = write(args_overrides=settings(**{key: value}))
    with pytest.raises(CheckpointError, match=rf"file\.pth .*{key}={value!r}.*only {key}="):
        load_checkpoint(path)


def test_summary_reads_no_tensor(tiny: tuple[Path, dict[str, Any]]) -> None:
    with open_archive(tiny[0]) as archive:
        archive.read = None  # type: ignore[method-assign,assignment]
        assert checkpoint_summary(archive) == {"epoch": 300, "arch": "vit_nano", "dataset": "bdd100k"}


# Every tensor accounted for

DYNAMICS = "module.forward_predictor_1.1.attn.proj.bias"
ENCODER = "backbone.blocks.2.attn.qkv.weight"


def one_infinity(old: torch.Tensor) -> torch.Tensor:
    return old.index_fill(0, torch.tensor(3), math.inf)


BAD_TENSORS: dict[str, tuple[Edit, str]] = {
    "encoder tensor missing": (remove("teacher", "blocks.2.norm1.bias"), "blocks.2.norm1.bias"),
    "encoder block missing": (remove("teacher", r"blocks\.1\."), r"blocks\.1"),
    "position table missing": (remove("teacher", "pos_embed"), "pos_embed"),
    "patch embedding missing": (remove("teacher", "patch_embed"), "patch_embed.proj.weight"),
    "dynamics tensor missing": (remove("motion_loss", "motion_proj.bias"), "motion_proj.bias"),
    "motion tokens missing": (remove("motion_loss", "motion_tokens"), "motion_tokens"),
    "gates of one level missing": (remove("motion_loss", "gating_mlps_1"), "gating_mlps_1"),
    "no encoder at all": (remove("teacher", "backbone"), "patch_embed"),
    "unexpected encoder tensor": (put("teacher", "backbone.register_tokens", torch.zeros(1)), "register_tokens"),
    "unexpected dynamics tensor": (put("motion_loss", "module.tau", torch.zeros(1)), "tau"),
    "unexpected qkv bias": (
        put("motion_loss", "module.motion_blocks_0.0.attn.qkv.bias", torch.zeros(36)),
        "attn.qkv.bias",
    ),
    "name that is a number": (put("teacher", 7, torch.zeros(1)), "7"),  # type: ignore[arg-type]
    "encoder tensor transposed": (put("teacher", ENCODER, lambda old: old.t()), "blocks.2.attn.qkv.weight"),
    "dynamics tensor too long": (put("motion_loss", DYNAMICS, torch.zeros(25)), "attn.proj.bias"),
    "one dimension too many": (put("motion_loss", DYNAMICS, lambda old: old[None]), "attn.proj.bias"),
    "scalar": (put("teacher", ENCODER, torch.tensor(1.0)), "blocks.2.attn.qkv.weight"),
    "empty": (put("teacher", ENCODER, torch.zeros(0, 24)), "blocks.2.attn.qkv.weight"),
    "empty position table": (put("teacher", "backbone.pos_embed", torch.zeros(1, 0, 24)), "pos_embed"),
    "flat position table": (put("teacher", "backbone.pos_embed", torch.zeros(5, 24)), "pos_embed"),
    "position tables disagree": (put("motion_loss", "module.pos_embed", torch.zeros(1, 34, 12)), "pos_embed"),
    "grey patch embedding": (put("teacher", "backbone.patch_embed.proj.weight", torch.zeros(24, 1, 8, 8)), "RGB"),
    "NaN": (put("teacher", ENCODER, lambda old: old.clone().fill_(math.nan)), "blocks.2.attn.qkv.weight"),
    "one infinity": (put("motion_loss", DYNAMICS, one_infinity), "attn.proj.bias"),
    "minus infinity in half": (put("teacher", ENCODER, lambda old: old.half().fill_(-math.inf)), "attn.qkv.weight"),
    "int64": (put("teacher", ENCODER, lambda old: old.long()), r"attn\.qkv\.weight is torch\.int64"),
    "bool": (put("motion_loss", DYNAMICS, lambda old: old > 0), r"attn\.proj\.bias is torch\.bool"),
    "no tensor": (put("teacher", ENCODER, [1.0]), "blocks.2.attn.qkv.weight"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "named"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensor_is_named(write: Callable[..., Any], edit: Edit, named: str) -> None:
    path, _ = write(edit=edit)
    with pytest.raises(CheckpointError, match=rf"file\.pth.*{named}"):
        load_checkpoint(path)


def test_the_same_checks_hold_for_the_student(write: Callable[..., Any]) -> None:
    path, _ = write(edit=put("student", f"module.{ENCODER}", lambda old: old * math.nan))
    for options in ({"encoder": "student"}, {"paired": True}):
        with pytest.raises(CheckpointError, match=r"blocks\.2\.attn\.qkv\.weight holds NaN"):
            load_checkpoint(path, **options)
    load_checkpoint(path)  # the teacher is whole


def test_two_spellings_of_one_name_are_no_guess(write: Callable[..., Any]) -> None:
    path, _ = write(edit=put("student", "backbone.cls_token", torch.zeros(1, 1, 24)))
    with pytest.raises(CheckpointError, match=r"backbone\.cls_token"):
        load_checkpoint(path, encoder="student")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("teacher", "backbone.blocks.{}.norm1.weight"),
        ("motion_loss", "module.motion_blocks_0.{}.norm1.weight"),
        ("motion_loss", "module.forward_predictor_0.{}.norm1.weight"),
    ],
    ids=["encoder", "midway", "forward"],
)
@pytest.mark.parametrize("index", ["100000", "9" * 5000], ids=["100000", "5000 digits"])
def test_stray_block_index_builds_no_giant_network(write: Callable[..., Any], part: str, name: str, index: str) -> None:
    path, _ = write(edit=put(part, name.format(index), torch.zeros(24)))
    with pytest.raises(CheckpointError, match=r"blocks|forward_predictor"):
        load_checkpoint(path)


def test_prefix_of_ddp_is_optional(write: Callable[..., Any]) -> None:
    def swap(checkpoint: dict[str, Any]) -> None:
        for part in ("student", "motion_loss"):
            checkpoint[part] = {name.removeprefix("module."): value for name, value in checkpoint[part].items()}
        checkpoint["teacher"] = {f"module.{name}": value for name, value in checkpoint["teacher"].items()}

    path, _ = write(edit=swap)
    expected = expected_state(released_checkpoint(TINY), paired=True)
    assert_same_state(load_checkpoint(path, paired=True).state_dict(), expected)


# Missing parts, other files


@pytest.mark.parametrize("part", ["teacher", "motion_loss"])
@pytest.mark.parametrize("value", [DROP, {}, None, [1, 2]], ids=["absent", "empty", "null", "list"])
def test_missing_part_is_named(write: Callable[..., Any], part: str, value: Any) -> None:
    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint[part] = value
        if value is DROP:
            del checkpoint[part]

    path, _ = write(edit=edit)
    with pytest.raises(CheckpointError, match=rf"file\.pth has no part '{part}'.*student"):
        load_checkpoint(path)


def test_encoder_without_the_other_one(write: Callable[..., Any]) -> None:
    path, _ = write(edit=lambda checkpoint: checkpoint.pop("student"))
    load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no part 'student'"):
        load_checkpoint(path, paired=True)


def test_plain_state_dict_is_explained_in_few_words(tmp_path: Path) -> None:
    torch.save(nn.Sequential(*(nn.Linear(2, 2) for _ in range(200))).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"plain\.pth has no part .*0\.weight") as caught:
        load_checkpoint(tmp_path / "plain.pth")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], "text", None, 5], ids=["tensor", "list", "str", "None", "5"]
)
def test_file_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds a .*student, teacher, motion_loss"):
        load_checkpoint(tmp_path / "other.pth")


# Kinds of tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_becomes_single(write: Callable[..., Any], dtype: torch.dtype) -> None:
    path, checkpoint = write(dtype=dtype)
    expected = {name: value.float() for name, value in expected_state(checkpoint).items()}
    network = load_checkpoint(path)
    assert network.dtype == torch.float32
    assert_same_state(network.state_dict(), expected)


def transposed(old: torch.Tensor) -> torch.Tensor:
    return old.t().contiguous().t()


def inside_a_larger_storage(old: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full((7,), math.nan), old.flatten(), torch.zeros(5)])[7:-5].view(old.shape)


def every_second(old: torch.Tensor) -> torch.Tensor:
    return old.repeat_interleave(2, dim=-1)[..., ::2]


def every_second_row_from_the_third(old: torch.Tensor) -> torch.Tensor:
    return torch.cat([old.new_full((2, *old.shape[1:]), math.nan), old.repeat_interleave(2, dim=0)])[2::2]


VIEWS = [transposed, inside_a_larger_storage, every_second, every_second_row_from_the_third, nn.Parameter]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_views_load_as_what_they_show(write: Callable[..., Any], view: Callable[..., torch.Tensor]) -> None:
    path, checkpoint = write(edit=put("teacher", ENCODER, view))
    network = load_checkpoint(path)
    assert_same_state(network.state_dict(), expected_state(checkpoint))
    weight = network.encoder.blocks[2].attn.qkv.weight
    assert weight.is_contiguous()
    assert weight.untyped_storage().nbytes() == weight.nbytes


def test_tensors_that_share_a_storage_come_apart(write: Callable[..., Any]) -> None:
    names = [f"backbone.blocks.{index}.norm1.weight" for index in range(4)]

    def share(checkpoint: dict[str, Any]) -> None:
        teacher = checkpoint["teacher"]
        flat = torch.stack([teacher[name] for name in names])
        teacher.update(zip(names, flat, strict=True))
        teacher["backbone.norm.weight"] = teacher[names[0]]  # one tensor under two names

    path, checkpoint = write(edit=share)
    network = load_checkpoint(path)
    assert_same_state(network.state_dict(), expected_state(checkpoint))
    state = network.state_dict()
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)
    before = network.encoder.norm.weight.clone()
    with torch.no_grad():
        network.encoder.blocks[0].norm1.weight.zero_()
    assert torch.equal(network.encoder.norm.weight, before)


def test_plain_dicts_of_todays_torch(tmp_path: Path) -> None:
    checkpoint = released_checkpoint(TINY, optimizer=False)
    torch.save({key: dict(value) if key in PARTS else value for key, value in checkpoint.items()}, tmp_path / "new.pth")
    assert_same_state(load_checkpoint(tmp_path / "new.pth").state_dict(), expected_state(checkpoint))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_pickle_protocols(tiny: tuple[Path, dict[str, Any]], tmp_path: Path, protocol: int) -> None:
    torch.save(tiny[1], tmp_path / "file.pth", pickle_protocol=protocol)
    assert_same_state(load_checkpoint(tmp_path / "file.pth").state_dict(), expected_state(tiny[1]))


# What reading costs, and what it needs

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
