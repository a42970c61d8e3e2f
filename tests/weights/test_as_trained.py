"""Files as training loops leave them: NumPy scalars, interpolations, older keys, and what else lies in them."""

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import pickletools
import time
import types
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from midway_zoo import load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.pickles import plain
from midway_zoo.weights.released import Parts, checkpoint_summary
from midway_zoo.weights.run_config import RunConfig
from tests.weights.released_files import DROP, TINY, assert_same_state, expected_state, write_released

SETTINGS = "midway_model_configs"


def loads(path: Path, checkpoint: dict[str, Any], **options: Any) -> None:
    network = load_checkpoint(path, **options)
    assert_same_state(network.state_dict(), expected_state(checkpoint, paired=options.get("paired", False)))


def opcodes(path: Path) -> list[tuple[str, Any]]:
    with zipfile.ZipFile(path) as file:
        pickled = next(file.read(name) for name in file.namelist() if name.endswith("/data.pkl"))
    return [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]


@pytest.mark.parametrize("numpy", [1, 2])
def test_the_fixture_is_what_torch_2_2_and_the_loop_write(tmp_path: Path, numpy: int) -> None:
    write_released(tmp_path / "file.pth", numpy=numpy)
    with zipfile.ZipFile(tmp_path / "file.pth") as file:
        names = [name.partition("/")[2] for name in file.namelist()]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
    assert names[:2] == ["data.pkl", "byteorder"]
    assert names[2:6] == ["data/0", "data/1", "data/10", "data/100"]
    assert names[-2:] == ["version", ".data/serialization_id"]
    found = opcodes(tmp_path / "file.pth")
    core = "numpy.core" if numpy == 1 else "numpy._core"
    assert found[0] == ("PROTO", 2)
    for name in (f"{core}.multiarray scalar", "numpy dtype", "_codecs encode", "omegaconf.dictconfig DictConfig"):
        assert ("GLOBAL", name) in found
    texts = {argument for name, argument in found if name == "BINUNICODE"}
    assert {"_metadata", "midway_${dataset}", "_growth_tracker", "module.backbone.cls_token"} <= texts
    if numpy > int(np.__version__.partition(".")[0]):
        return  # NumPy 1 cannot read what NumPy 2 wrote; this package can, below
    checkpoint = torch.load(tmp_path / "file.pth", weights_only=False)
    assert all(type(group["lr"]) is np.float64 for group in checkpoint["optimizer"]["param_groups"])
    assert type(checkpoint["optimizer"]["param_groups"][0]["weight_decay"]) is np.float64


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("options", [{}, {"paired": True}], ids=["teacher", "paired"])
def test_loads(tmp_path: Path, numpy: int, options: dict[str, Any]) -> None:
    loads(tmp_path / "file.pth", write_released(tmp_path / "file.pth", numpy=numpy), **options)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_scalars_of_any_kind_nested_and_shared(tmp_path: Path, protocol: int) -> None:
    shared = np.float64(0.25)
    values = {
        "nested": {"list": [shared, (shared, [shared])]},
        "kinds": [np.float16(1.5), np.float32(-2.5), np.int64(-(2**40)), np.uint8(200), np.bool_(True)],
        "text": [np.str_("vit_nano"), np.bytes_(b"abc"), np.complex128(1 - 2j)],
        "big endian": np.array([1.5], ">f8").astype(">f8")[0],
        "longdouble": np.longdouble(1.5),
        np.int64(3): "a key",
        "set": {shared, np.int32(7)},
    }
    checkpoint = write_released(tmp_path / "first.pth", optimizer=False)
    torch.save({**checkpoint, "metrics": values}, tmp_path / "file.pth", pickle_protocol=protocol)
    loads(tmp_path / "file.pth", checkpoint)
    with open_archive(tmp_path / "file.pth") as archive:
        found = archive.content["metrics"]
    assert found["nested"] == {"list": [0.25, (0.25, [0.25])]}
    assert found["kinds"] == [1.5, -2.5, -(2**40), 200, True]
    assert [type(value) for value in found["kinds"]] == [float, float, int, int, bool]
    assert found["text"] == ["vit_nano", "abc", 1 - 2j]
    assert found["longdouble"] is None
    assert found[3] == "a key"


def test_a_numpy_gate_bias_and_head_count_are_read(tmp_path: Path) -> None:
    settings = {"gating_bias": np.float64(2.5), "num_motion_heads": np.int64(2)}
    write_released(tmp_path / "file.pth", args="plain", args_overrides={SETTINGS: settings})
    assert load_checkpoint(tmp_path / "file.pth").config == replace(TINY, gate_bias=2.5, midway_heads=2)


def older_key(checkpoint: dict[str, Any]) -> None:
    args = OmegaConf.to_container(checkpoint["args"], resolve=False)
    args["motion_model_configs"] = args.pop(SETTINGS)
    checkpoint["args"] = OmegaConf.create(args)


def vars_of_ours(checkpoint: dict[str, Any]) -> None:
    args = OmegaConf.to_container(checkpoint["args"], resolve=False)
    args[SETTINGS] = argparse.Namespace(**args[SETTINGS])
    checkpoint["args"] = collections.OrderedDict(args)


def simple_namespace(checkpoint: dict[str, Any]) -> None:
    checkpoint["args"] = types.SimpleNamespace(**OmegaConf.to_container(checkpoint["args"], resolve=False))


def mixed(checkpoint: dict[str, Any]) -> None:
    checkpoint["args"] = argparse.Namespace(**dict(checkpoint["args"].items_ex(resolve=False)))


EXTRAS: dict[str, Any] = {
    "git": {"sha": "0" * 40, "dirty": False, "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)},
    "metrics": collections.defaultdict(list, {"loss": [1.0, np.float32(0.5)]}),
    "seen": {1, 2}, "frozen": frozenset({"a"}), "empty": set(), "part": slice(1, None), "complex": 1j,
    "range": range(3), "raw": b"\x00\xff", "nothing": b"", "array": bytearray(b"abc"), "dots": ...,
    "root": pathlib.PurePosixPath("/data"), "path": Path("data/bdd"), "count": collections.Counter("abca"),
    "queue": collections.deque([1.0, 2.0, 3.0], maxlen=3), "day": datetime.date(2026, 1, 1),
    "took": datetime.timedelta(seconds=3), "size": torch.Size([2, 3]), "device": torch.device("cuda", 0),
    "dtype": torch.bfloat16, "dtypes": {torch.float32: 1, torch.device("cpu"): 2}, "type": int,
    "rng": torch.get_rng_state(), "ordered": collections.OrderedDict(a=1), "nan": float("nan"), "big": 2**80,
    "torch": torch.__version__, "id": uuid.UUID(int=7), "price": decimal.Decimal("1.5"),
    "third": fractions.Fraction(1, 3), "start": time.gmtime(0), "spectrum": torch.ones(3, dtype=torch.complex64),
    "repeated": torch.zeros(1).expand(10, 2), "turned": torch.ones(2, 3).t(), "slice of": torch.ones(9)[2:4],
    "shared": [torch.ones(2)] * 2,
}  # fmt: skip


def extras(checkpoint: dict[str, Any]) -> None:
    checkpoint.update(EXTRAS)


def unusual_memory(checkpoint: dict[str, Any]) -> None:
    """Tensors that are turned, lie inside larger storages or share one."""
    teacher = checkpoint["teacher"]
    for name in ("backbone.blocks.0.mlp.fc1.weight", "backbone.norm.bias"):
        tensor = teacher[name]
        teacher[name] = torch.stack([tensor, tensor], dim=-1)[..., 1]
    name = "backbone.blocks.1.mlp.fc1.weight"
    teacher[name] = teacher[name].t().contiguous().t()
    teacher["dino_head.extra"] = teacher["backbone.norm.bias"]


VARIANTS: dict[str, dict[str, Any]] = {
    "unusual memory": {"edit": unusual_memory},
    "older key": {"edit": older_key},
    "argparse": {"args": "namespace"},
    "plain dict": {"args": "plain"},
    "OrderedDict with a Namespace inside": {"edit": vars_of_ours},
    "SimpleNamespace": {"edit": simple_namespace},
    "Namespace with DictConfigs inside": {"edit": mixed},
    "no optimizer": {"optimizer": False},
    "no scaler": {"edit": lambda checkpoint: checkpoint.update(fp16_scaler=None)},
    "extra keys": {"edit": extras},
    "NumPy epoch": {"edit": lambda checkpoint: checkpoint.update(epoch=np.int64(300))},
    "one schedule value in all groups": {
        "edit": lambda checkpoint: [
            group.update(lr=checkpoint["optimizer"]["param_groups"][0]["lr"])
            for group in checkpoint["optimizer"]["param_groups"]
        ]
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(tmp_path: Path, variant: str) -> None:
    path = tmp_path / "file.pth"
    checkpoint = write_released(path, **VARIANTS[variant])
    loads(path, checkpoint)
    assert load_checkpoint(path).config == TINY
    with open_archive(path) as archive:
        assert checkpoint_summary(archive)["epoch"] == 300


@pytest.mark.parametrize(
    ("prefix", "inside"),
    [("", ""), ("module.module.", ""), ("module._orig_mod.", ""), ("_orig_mod.module.", ""), ("module.", "_orig_mod.")],
)
def test_wrappers(tmp_path: Path, prefix: str, inside: str) -> None:
    """Prefixes of DistributedDataParallel and torch.compile around a part, and around the backbone in it."""

    def edit(checkpoint: dict[str, Any]) -> None:
        for part in ("student", "teacher", "motion_loss"):
            names = {name: name.removeprefix("module.") for name in checkpoint[part]}
            for name, bare in names.items():
                renamed = prefix + bare.replace("backbone.", f"backbone.{inside}")
                checkpoint[part][renamed] = checkpoint[part].pop(name)

    write_released(tmp_path / "wrapped.pth", edit=edit)
    expected = write_released(tmp_path / "file.pth")
    loads(tmp_path / "wrapped.pth", expected)
    loads(tmp_path / "wrapped.pth", expected, paired=True)


def test_a_repeated_number_does_not_make_a_weight(tmp_path: Path) -> None:
    edit = {"backbone.norm.bias": torch.zeros(1).expand(TINY.embed_dim)}
    write_released(tmp_path / "file.pth", edit=lambda checkpoint: checkpoint["teacher"].update(edit))
    with pytest.raises(CheckpointError, match=r"teacher/backbone\.norm\.bias is a tensor larger than its storage"):
        load_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_extra_keys_in_other_protocols(tmp_path: Path, protocol: int) -> None:
    checkpoint = write_released(tmp_path / "first.pth", optimizer=False)
    torch.save({**checkpoint, **EXTRAS}, tmp_path / "file.pth", pickle_protocol=protocol)
    loads(tmp_path / "file.pth", checkpoint)


# Interpolations

SAID = {
    "model": {"heads": 6, "bias": "${top.bias}", "alias": "${.heads}"},
    "top": {"bias": 2.5, "name": "${missing}", "list": [3, "${model.heads}"]},
    "settings": "${model}",
    "text": "a-${top.list[0]}-${top.list.1}-${oc.env:HOME}",
    "nested": "${top.${which}}",
    "which": "bias",
    "loop": "${loop}",
    "ring": ["${ring}"],
    "mute": "???",
    "up": {"down": {"value": "${..sibling}", "far": "${...which}"}, "sibling": 7},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nested", 2.5),
        ("text", "a-3-6-${oc.env:HOME}"),
        ("loop", "${loop}"),
        ("mute", "???"),
        ("missing", None),
    ],
)
def test_interpolations(key: str, value: Any) -> None:
    assert RunConfig(SAID).get(key) == value


def test_interpolations_inside() -> None:
    said = RunConfig(SAID)
    assert RunConfig({**SAID, "midway_model_configs": "${settings}"}).dynamics() == {
        "heads": 6,
        "bias": 2.5,
        "alias": 6,
    }
    assert RunConfig({**SAID, "motion_model_configs": SAID["up"]["down"]}).dynamics() == {
        "value": "${..sibling}",  # one level too high here
        "far": "${...which}",
    }
    assert RunConfig({"midway_model_configs": {"value": "${..sibling}"}, "sibling": 7}).dynamics() == {"value": 7}
    assert said.get("ring") is not None
    assert said.dynamics() is None


def test_interpolations_agree_with_omegaconf() -> None:
    said = {key: value for key, value in SAID.items() if key not in ("loop", "ring", "mute", "text", "top")}
    said["top"] = {"bias": 2.5, "list": [3, "${model.heads}"]}
    resolved = OmegaConf.to_container(OmegaConf.create(said), resolve=True)
    for key in ("nested", "which"):
        assert RunConfig(said).get(key) == resolved[key]
    for key in ("model", "settings", "up"):
        assert RunConfig({**said, "midway_model_configs": f"${{{key}}}"}).dynamics() is not None
    assert RunConfig({**said, "midway_model_configs": "${settings}"}).dynamics() == resolved["settings"]


def test_a_chain_that_doubles_ends_soon() -> None:
    values: dict[str, Any] = {f"k{index}": f"${{k{index + 1}}}${{k{index + 1}}}" for index in range(200)}
    values["k200"] = "x" * 100
    assert len(RunConfig(values).get("k0")) < 10_000


@pytest.mark.parametrize("args", ["omegaconf", "plain", "namespace"])
def test_a_configuration_of_interpolations(tmp_path: Path, args: str) -> None:
    overrides = {
        "model": {"heads": 2, "arch": "nano", "levels": [0, 1]},
        "arch": "vit_${model.arch}",
        "motion_crop_resolution": "${global_crop_resolution}",
        "motion_feature_levels": ["${model.levels[0]}", "${model.levels[1]}", 2, 3],
        SETTINGS: {"num_motion_heads": "${model.heads}", "num_pred_heads": "${.num_motion_heads}"},
    }
    checkpoint = write_released(tmp_path / "file.pth", args=args, args_overrides=overrides)
    loads(tmp_path / "file.pth", checkpoint)
    assert load_checkpoint(tmp_path / "file.pth").config == replace(TINY, midway_heads=2, forward_heads=2)


@pytest.mark.parametrize("value", ["${oc.env:HEADS}", "${no.such.key}", "???", "${.num_motion_heads}"])
def test_an_interpolation_that_cannot_be_followed_is_shown(tmp_path: Path, value: str) -> None:
    write_released(tmp_path / "file.pth", args_overrides={SETTINGS: {"num_motion_heads": value}})
    with pytest.raises(ConfigError, match=r"num_motion_heads \(found '.*'\).*config=\{'midway_heads'"):
        load_checkpoint(tmp_path / "file.pth")
    assert load_checkpoint(tmp_path / "file.pth", config={"midway_heads": 3}).config == TINY


def test_structured_configuration(tmp_path: Path) -> None:
    from tests.weights import structured

    checkpoint = write_released(tmp_path / "file.pth", edit=structured.add)
    with open_archive(tmp_path / "file.pth") as archive:
        assert plain(archive.content["args"]) == checkpoint["plain"]


# What an encoder alone needs, and what the manifest supplies

DYNAMICS = {"midway_heads": 3, "backward_heads": 6, "forward_heads": 6, "gate_bias": 4.0}


def parts_config(path: Path, **options: Any) -> Any:
    with open_archive(path) as archive:
        parts = Parts(archive)
        return parts.config(**options), parts.filled


@pytest.mark.parametrize(
    "edit",
    [
        lambda checkpoint: checkpoint["args"].pop(SETTINGS),
        lambda checkpoint: checkpoint.pop("motion_loss"),
        lambda checkpoint: checkpoint["motion_loss"].clear(),
        lambda checkpoint: checkpoint.pop("student"),
    ],
    ids=["no settings", "no dynamics", "empty dynamics", "no student"],
)
def test_an_encoder_alone_needs_nothing_of_dynamics(tmp_path: Path, edit: Callable[..., Any]) -> None:
    path = tmp_path / "file.pth"
    checkpoint = write_released(path, edit=edit)
    network = load_checkpoint(path, config={"dynamics": False})
    assert network.dynamics is None
    expected = {f"encoder.{name.removeprefix('backbone.')}": value for name, value in checkpoint["teacher"].items()}
    expected = {name: value for name, value in expected.items() if "dino_head" not in name}
    assert_same_state(network.state_dict(), expected)


def test_what_is_supplied_fills_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    write_released(path, args_overrides={SETTINGS: DROP, "arch": DROP})
    config, filled = parts_config(path, supplied={**DYNAMICS, "num_heads": 3})
    assert config == TINY
    assert filled == {*DYNAMICS, "num_heads"}
    with pytest.raises(ConfigError, match="num_motion_heads"):
        parts_config(path, supplied={"num_heads": 3})
    write_released(path)
    assert parts_config(path, supplied=DYNAMICS) == (TINY, set())


@pytest.mark.parametrize(
    ("supplied", "values"),
    [
        ({"gate_bias": 1.0}, "gate_bias=4.0.*gate_bias=1.0"),
        ({"midway_heads": 6}, "midway_heads=3.*midway_heads=6"),
        ({"num_heads": 6}, "num_heads=3.*num_heads=6"),
        ({"motion_dim": 24}, "motion_dim=12.*motion_dim=24"),
        ({"grid": [3, 3]}, r"grid=\(2, 2\).*grid=\[3, 3\]"),
        ({"depth": 12}, "depth=4.*depth=12"),
    ],
)
def test_what_is_supplied_must_agree(tmp_path: Path, supplied: dict[str, Any], values: str) -> None:
    path = tmp_path / "file.pth"
    write_released(path)
    with pytest.raises(CheckpointError, match=rf"file\.pth: the file says {values}"):
        parts_config(path, supplied=supplied)
    assert parts_config(path, supplied=supplied, overrides=TINY.to_dict() | {"paired": False})[0] == TINY
