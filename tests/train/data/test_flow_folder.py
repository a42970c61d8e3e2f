"""Flow of one's own: frames in natural order, truth by name or by place."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from midway_zoo.cli import main
from midway_zoo.errors import DataError, MissingFileError
from midway_zoo.flow import write_flow
from midway_zoo.train.data.flow_folder import own_pairs


def write_clip(root: Path, stems: list[str], flows: list[str]) -> None:
    for name in ("frames", "flow"):
        (root / name).mkdir(parents=True)
    for stem in stems:
        Image.effect_noise((48, 32), 60).convert("RGB").save(root / "frames" / f"{stem}.jpg")
    for name in flows:
        write_flow(root / "flow" / name, torch.ones(2, 32, 48))


def test_pairs_by_name_in_natural_order(tmp_path: Path) -> None:
    write_clip(tmp_path, ["f9", "f10", "f11"], ["f9.flo", "f10.pfm"])
    (files,) = own_pairs(tmp_path).values()
    assert [(entry.source.name, entry.target.name, entry.flow.name) for entry in files] == [
        ("f9.jpg", "f10.jpg", "f9.flo"),
        ("f10.jpg", "f11.jpg", "f10.pfm"),
    ]
    (tmp_path / "flow" / "f9.flo").unlink()  # not every frame need have flow
    assert len(own_pairs(tmp_path)[tmp_path.name]) == 1


def test_clips_and_pairs_by_place(tmp_path: Path) -> None:
    write_clip(tmp_path / "a", ["1", "2"], ["flow_0.png"])
    write_clip(tmp_path / "b", ["1", "2", "10"], ["1_2.npy", "2_10.npy"])
    found = own_pairs(tmp_path)
    assert [(name, files.kind, len(files)) for name, files in found.items()] == [("a", "sparse", 1), ("b", "dense", 2)]
    assert found["b"][1].flow.name == "2_10.npy"


def test_the_command_measures_them(tmp_path: Path, capsys) -> None:
    write_clip(tmp_path / "clip", ["1", "2", "3"], ["1.flo", "2.flo"])
    out = tmp_path / "flow.json"
    arguments = ["eval", "flow", "midway_nano.scenes", "--dataset", "folder", "--root", str(tmp_path), "-o", str(out)]
    assert main([*arguments, "--method", "zero"]) == 0
    (result,) = json.loads(out.read_text())["results"]
    assert (result["data"], result["pairs"]) == ("clip", 2)
    assert result["metrics"]["epe"] == pytest.approx(2**0.5)
    assert main([*arguments, "--submission", str(tmp_path / "sub")]) == 1
    assert "--submission is for" in capsys.readouterr().err


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no frames"):
        own_pairs(tmp_path)
    write_clip(tmp_path, ["1", "2", "3"], ["a.flo"])
    with pytest.raises(DataError, match="1 flow files, 3 frames"):
        own_pairs(tmp_path)
    (tmp_path / "flow" / "a.flo").rename(tmp_path / "flow" / "1.flo")
    write_flow(tmp_path / "flow" / "3.flo", torch.ones(2, 32, 48))
    with pytest.raises(DataError, match=r"3\.flo belongs to no frame"):
        own_pairs(tmp_path)
    write_flow(tmp_path / "flow" / "1.npy", torch.ones(2, 32, 48))
    with pytest.raises(DataError, match="two files of one name"):
        own_pairs(tmp_path)
