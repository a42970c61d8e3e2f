"""Networks put together from parts of others."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

import midway_zoo as mz

SCRIPT = Path(__file__).parents[2] / "examples" / "miniature" / "join.py"
NAME = "midway_nano.scenes"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["join.py", *arguments])
    return runpy.run_path(str(SCRIPT))["main"]()


def test_parts_come_from_where_they_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = mz.create_model(NAME, pretrained=True)
    out, head = tmp_path / "out", list(given.config.flow_head or ())
    parts = [f"encoder={NAME}", f"dynamics={NAME}", f"flow_head={NAME}", "--fresh", "dynamics.midway.0"]
    assert run(monkeypatch, str(out), *parts, "--overrides", f"{{grid: [8, 8], flow_head: {head}}}") == 0
    joined, old = mz.load_checkpoint(out).state_dict(), given.state_dict()
    differ = {name for name in joined if not torch.equal(joined[name], old[name])}
    assert differ
    assert all(name.startswith("dynamics.midway.0.") for name in differ)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"encodr={NAME}"], "Did you mean 'encoder'"),
        (["encoder=nowhere"], "neither an existing path nor a pretrained name"),
        (["encoder"], "should be PART=SOURCE"),
        ([f"encoder={NAME}", "--overrides", "[1]"], "should be fields in braces"),
        ([f"dynamics={NAME}", "--overrides", "{motion_dim: 96}"], "does not fit the network"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, str(tmp_path / "out"), *arguments) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
