"""The pickled configuration of released files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midway_zoo import load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.released import checkpoint_summary
from tests.weights.released.files import HEADS, settings
from tests.weights.released_files import (
    DROP,
    TINY,
)


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
    "gate bias that is not a number": (settings(gating_bias=math.nan), "gat(e|ing)_bias", {"gate_bias": 4.0}),
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
