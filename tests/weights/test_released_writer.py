"""Written in the released layout: the reader gives back every tensor, head and center included."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from midway_zoo import MidwayNetwork, load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError, MissingExtraError, MissingFileError, OutputExistsError
from midway_zoo.weights import released_writer as released_layout
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.pickles import plain
from midway_zoo.weights.released_writer import read_center, read_head, released_args, write_released

from ..models.test_variants import VARIANTS
from .released_files import TINY, released_checkpoint
from .released_files import write_released as write_by_hand

OUT, HIDDEN, BOTTLENECK = 32, 16, 8


def head(width: int, seed: int) -> dict[str, Tensor]:
    shapes = {
        "mlp.0.weight": (HIDDEN, width),
        "mlp.0.bias": (HIDDEN,),
        "mlp.2.weight": (HIDDEN, HIDDEN),
        "mlp.2.bias": (HIDDEN,),
        "mlp.4.weight": (BOTTLENECK, HIDDEN),
        "mlp.4.bias": (BOTTLENECK,),
        "last_layer.parametrizations.weight.original0": (OUT, 1),
        "last_layer.parametrizations.weight.original1": (OUT, BOTTLENECK),
    }
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def state(**values: Any) -> dict[str, Any]:
    """Keyword arguments of ``write_released`` for a tiny network, both encoders different."""
    network = MidwayNetwork(replace(TINY, paired=True, **values))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return {
        "config": network.config,
        "student": network.encoder.state_dict(),
        "teacher": network.target_encoder.state_dict(),
        "dynamics": network.dynamics.state_dict() if network.dynamics else {},
        "student_head": head(network.config.embed_dim, 1),
        "teacher_head": head(network.config.embed_dim, 2),
        "center": torch.randn(1, OUT),
        "epoch": 7,
        "args": {"dataset": "bdd100k", "epochs": 100, "midway_model_configs": {"motion_out_dim": 4096}},
    }


def assert_read_back(path: Path, given: dict[str, Any]) -> None:
    network = load_checkpoint(path, paired=True)
    ignored = {"encoder": network.config.encoder}
    assert network.config == replace(given["config"], **ignored)
    expected = {
        **{f"encoder.{name}": value for name, value in given["student"].items()},
        **{f"target_encoder.{name}": value for name, value in given["teacher"].items()},
        **{f"dynamics.{name}": value for name, value in given["dynamics"].items()},
    }
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for side in ("student", "teacher"):
        read = read_head(path, side)
        assert read.keys() == given[f"{side}_head"].keys()
        assert all(torch.equal(read[name], value) for name, value in given[f"{side}_head"].items())
    assert torch.equal(read_center(path), given["center"])


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_is_read_back(values: dict[str, Any], tmp_path: Path) -> None:
    given = state(**values)
    write_released(tmp_path / "run.pth", **given)
    assert_read_back(tmp_path / "run.pth", given)
    teacher = load_checkpoint(tmp_path / "run.pth")
    assert all(torch.equal(teacher.encoder.state_dict()[name], value) for name, value in given["teacher"].items())


def test_encoder_alone_is_read_back(tmp_path: Path) -> None:
    given = state(dynamics=False)
    write_released(tmp_path / "run.pth", **given)
    network = load_checkpoint(tmp_path / "run.pth", paired=True)
    assert network.dynamics is None
    assert torch.equal(network.encoder.state_dict()["cls_token"], given["student"]["cls_token"])


def test_encoder_of_a_full_file_on_request(tmp_path: Path) -> None:
    given = state()
    write_released(tmp_path / "run.pth", **given)
    network = load_checkpoint(tmp_path / "run.pth", config={"dynamics": False})
    assert network.dynamics is None
    assert all(torch.equal(network.encoder.state_dict()[name], value) for name, value in given["teacher"].items())


def test_names_and_nesting_are_those_of_the_layout(tmp_path: Path) -> None:
    """Against the tests' own description of the layout, which does not use the package's tables."""
    given = state()
    write_released(tmp_path / "run.pth", **given)
    expected = released_checkpoint(TINY)
    with open_archive(tmp_path / "run.pth") as archive:
        content, args = archive.content, plain(archive.content["args"])
    assert content.keys() == expected.keys()
    for part in ("student", "teacher", "motion_loss", "dino_loss"):
        shapes = {name: ref.shape for name, ref in content[part].items()}
        assert shapes == {name: tuple(value.shape) for name, value in expected[part].items()}
    assert type(content["args"]).__name__ == "DictConfig"
    assert args["midway_model_configs"] == plain(dict(expected["args"]["midway_model_configs"]))
    assert (args["arch"], args["dataset"], args["epochs"], args["out_dim"]) == ("vit_nano", "bdd100k", 100, OUT)
    assert content["epoch"] == 7
    assert content["optimizer"] == {"state": {}, "param_groups": []}


def test_torch_reads_it_in_full_and_the_loss_scaler_takes_its_part(tmp_path: Path) -> None:
    given = state()
    write_released(tmp_path / "run.pth", **given, fp16_scaler={"scale": 2.0})
    content = torch.load(tmp_path / "run.pth", weights_only=False)  # a file of our own making
    assert content["args"].midway_model_configs.gating_type == "pred-vector"
    assert content["fp16_scaler"] == {"scale": 2.0}
    assert torch.equal(content["dino_loss"]["center"], given["center"])


def test_views_do_not_drag_their_storage_along(tmp_path: Path) -> None:
    given = state()
    given["center"] = torch.randn(1000, 1000)[:1, :OUT]
    write_released(tmp_path / "small.pth", **given)
    assert (tmp_path / "small.pth").stat().st_size < 2_500_000
    assert torch.equal(read_center(tmp_path / "small.pth"), given["center"])


def test_nothing_is_overwritten_unasked_and_nothing_half_written(tmp_path: Path) -> None:
    path, given = tmp_path / "run.pth", state()
    write_released(path, **given)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        write_released(path, **given)
    with pytest.raises((TypeError, AttributeError)):
        write_released(path, **(given | {"optimizer": {"state": lambda: None}}), overwrite=True)
    assert path.read_bytes() == before
    write_released(path, **(given | {"epoch": 8}), overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(MissingFileError):
        write_released(tmp_path / "absent/run.pth", **given)


def drop(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        ("student", drop("cls_token"), "student misses 1 .*cls_token"),
        ("teacher", lambda t: t | {"extra": torch.zeros(1)}, "teacher has unexpected 1 .*extra"),
        ("dynamics", lambda t: t | {"motion_tokens": torch.zeros(1, 9, 12)}, r"motion_tokens has shape \[1, 9, 12\]"),
        ("student_head", drop("mlp.4.bias"), r"student_head misses 1 .*mlp\.4\.bias"),
        ("teacher_head", lambda t: t | {"mlp.2.bias": torch.zeros(3)}, r"teacher_head: .*mlp\.2\.bias has shape \[3\]"),
        ("center", lambda _: torch.zeros(OUT), r"center has shape \[32\], expected \[1, 32\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(part: str, edit: Any, message: str, tmp_path: Path) -> None:
    given = state()
    given[part] = edit(given[part])
    with pytest.raises(CheckpointError, match=message):
        write_released(tmp_path / "run.pth", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [({"num_heads": 4}, "width 24 with 4 heads"), ({"embed_dim": 192, "num_heads": 6}, "width 192 with 6 heads")],
)
def test_what_the_layout_cannot_say_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        released_args(replace(TINY, **values))


def test_grid_that_is_no_square_is_read_back(tmp_path: Path) -> None:
    write_released(tmp_path / "run.pth", **state(grid=(3, 2)))
    assert load_checkpoint(tmp_path / "run.pth").config.grid == (3, 2)


def test_what_would_be_read_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a field of the configuration that the layout has no place for."""
    said = {**released_args(TINY), "motion_crop_resolution": [8, 48]}
    monkeypatch.setattr(released_layout, "released_args", lambda *_: said)
    with pytest.raises(ConfigError, match=r"cannot express grid=\[3, 2\] \(it would be read as \[1, 6\]\)"):
        write_released(tmp_path / "run.pth", **state(grid=(3, 2)))
    assert not list(tmp_path.iterdir())


def test_without_omegaconf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = state()
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    with pytest.raises(MissingExtraError, match=r"midway-zoo\[train\]"):
        write_released(tmp_path / "run.pth", **given)


# Heads and centers of files from elsewhere


def test_head_and_center_of_a_file_written_by_hand(tmp_path: Path) -> None:
    content = write_by_hand(tmp_path / "file.pth")
    for side, prefix in (("student", "module.dino_head."), ("teacher", "dino_head.")):
        read = read_head(tmp_path / "file.pth", side)
        gain = read["last_layer.parametrizations.weight.original0"]
        assert torch.equal(gain, content[side][f"{prefix}last_layer.weight_g"])
        assert torch.equal(read["mlp.4.weight"], content[side][f"{prefix}mlp.4.weight"])
    assert torch.equal(read_center(tmp_path / "file.pth"), content["dino_loss"]["center"])


def test_damaged_heads_and_centers_are_refused(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        del content["student"]["module.dino_head.mlp.0.bias"]
        content["teacher"]["dino_head.mlp.0.bias"][0] = torch.nan
        content["dino_loss"] = {}

    write_by_hand(tmp_path / "file.pth", edit=edit)
    with pytest.raises(CheckpointError, match=r"'student', projection head misses 1 .*mlp\.0\.bias"):
        read_head(tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"teacher/dino_head\.mlp\.0\.bias .*NaN"):
        read_head(tmp_path / "file.pth", "teacher")
    with pytest.raises(CheckpointError, match="no part 'dino_loss'"):
        read_center(tmp_path / "file.pth")
    with pytest.raises(MissingFileError):
        read_center(tmp_path / "absent.pth")
