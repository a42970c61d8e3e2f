"""Rounds of pretraining and flow, in pieces and at once."""

import importlib
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import midway_zoo as mz

SCRIPT = Path(__file__).parents[2] / "examples" / "miniature" / "rounds.py"
SMALL = [
    *("--pretrain", "batch_size=2", "schedule_steps=3", "precision=no"),
    *("--flow", "batch_size=2", "schedule_steps=3", "validation.scenes=2", "precision=no"),
]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rounds.py", *arguments])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))["main"]()


@pytest.mark.slow
def test_pieces_end_where_one_piece_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "whole"), *SMALL) == 0
    assert "the same command goes on" not in capsys.readouterr().out
    whole = mz.load_checkpoint(tmp_path / "whole" / "weights.safetensors")
    assert whole.dtype == torch.float16
    assert whole.flow_head is not None
    for _ in range(12):
        assert run(monkeypatch, "--out", str(tmp_path / "pieces"), "--seconds", "1", *SMALL) == 0
        pieces = mz.load_checkpoint(tmp_path / "pieces" / "weights.safetensors")
        if "the same command goes on" not in capsys.readouterr().out:
            break
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    assert (tmp_path / "whole" / "weights.safetensors").stat().st_size < 12_000_000


@pytest.mark.slow
def test_a_second_round_goes_on_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--out", str(tmp_path), "--rounds", "2", *SMALL) == 0
    assert (tmp_path / "1" / "flow" / "best.json").is_file()
    assert str(tmp_path / "0" / "flow") in (tmp_path / "1" / "pretrain" / "config.yaml").read_text()


@pytest.mark.parametrize(("finished", "rounds", "left"), [(True, 1, False), (True, 2, True), (False, 1, True)])
def test_it_says_whether_anything_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished, rounds, left
) -> None:
    """The time is up after each of these rounds."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.import_module("rounds")
    result = SimpleNamespace(reason="done", step=3)
    monkeypatch.setattr(module, "play", lambda *arguments: (result, finished))
    monkeypatch.setattr(module, "leave", lambda *arguments: None)
    monkeypatch.setattr(sys, "argv", ["rounds.py", "--out", str(tmp_path), "--seconds", "0", "--rounds", str(rounds)])
    assert module.main() == 0
    assert ("the same command goes on" in capsys.readouterr().out) == left


def test_what_it_cannot_begin_with_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mz.create_model("midway_nano").save_pretrained(tmp_path / "plain")
    assert run(monkeypatch, "--out", str(tmp_path / "out"), "--begin", str(tmp_path / "plain")) == 1
    assert f"{tmp_path / 'plain'} has no flow head; pass " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "out"), "--pretrain", "schedule_step=3") == 1
    printed = capsys.readouterr().err
    assert "Did you mean 'schedule_steps'" in printed
    assert printed.count("\n") == 1
