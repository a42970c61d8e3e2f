"""``midway-zoo export``."""

from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main


@pytest.fixture(scope="module")
def folder(tiny: mz.MidwayNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "tiny"
    tiny.save_pretrained(path)
    return path


def test_the_file_is_named_after_what_is_in_it_and_runs_alone(
    folder: Path, tiny: mz.MidwayNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["export", str(folder), "--format", "torchscript", "--blocks", "1,3", "--size", "32x48"]
    assert main(command) == 0
    said = capsys.readouterr().out
    (written,) = tmp_path.iterdir()
    assert written.name == "tiny-encoder.ts"
    assert written.name in said
    images = torch.rand(1, 3, 32, 48)
    outputs = torch.jit.load(written)(images)
    found = outputs[0] if not isinstance(outputs, dict) else outputs["cls"]
    expected = mz.extract_features(tiny, images, blocks=(1, 3), size="full").cls
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert main(command) == 1
    assert "tiny-encoder.ts" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-o", "tiny.zip"], r"tiny.zip"),
        (["-o", "tiny.onnx", "--format", "pt2"], "pt2 is written to .pt2"),
        (["-o", "tiny.ts", "--dynamic", "bach"], "bach"),
        (["-o", "tiny.ts", "--blocks", "99"], "99"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder), *arguments]) == 1
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
