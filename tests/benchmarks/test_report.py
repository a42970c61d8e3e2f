"""Tables, files and plots of what was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

from midway_zoo.benchmarks.machine import Machine
from midway_zoo.benchmarks.measuring import Comparison, Row, Spread
from midway_zoo.benchmarks.report import Report, check_plot, plot, seconds, table
from midway_zoo.errors import InputError, MissingExtraError, OutputExistsError
from midway_zoo.files import write_json

PEER = Row("theirs", Spread(0.5, 0.4, 0.6), None, 16.0, 1.0, None, None, None, None)
OURS = Row("ours", Spread(0.25, 0.2, 0.3), Spread(0.2, 0.2, 0.2), 32.0, 2.0, 1.5, 12.3, 4.5, 0.61)
FOUND = Comparison("images", "images", "theirs", (PEER, OURS), ("OpenCV is not measured",))


@pytest.fixture
def report() -> Report:
    machine = Machine.here(torch.device("cpu"))
    return Report(
        "encoder", "2026-01-01T00:00:00+00:00", "midway-zoo benchmark encoder", {"batch": 8}, machine, (FOUND,)
    )


def test_table() -> None:
    lines = table(FOUND).splitlines()
    assert lines[0] == "images"
    assert " ".join(lines[1].split()) == "median quartiles images/s speed CPU by CPU peak MiB GFLOP of ceiling"
    assert " ".join(lines[2].split()) == "theirs 500 ms 400 ms - 600 ms 16 1.00"
    assert " ".join(lines[3].split()) == "ours 250 ms 200 ms - 300 ms 32 2.00 200 ms 1.50 12 4.5 61%"
    assert lines[4] == "  speed relative to theirs, by the clock and by processor seconds"
    assert lines[5] == "  OpenCV is not measured"
    alone = Comparison("images", "images", None, (PEER,))
    assert "ceiling" not in table(alone)


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.3 s"), (1234.5, "1234 s"), (0.0123, "12.3 ms"), (2e-5, "20 us")]
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


def test_json_says_where_and_how(report: Report, tmp_path: Path) -> None:
    write_json(tmp_path / "found.json", report.to_dict())
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["format"] == "midway-zoo-benchmark"
    assert found["command"] == "midway-zoo benchmark encoder"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert found["comparisons"][0]["rows"][1]["seconds"] == {"median": 0.25, "low": 0.2, "high": 0.3}
    assert f"torch {torch.__version__}" in str(report.machine)


def test_plot(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "found.svg"
    check_plot(path)
    plot(report, path)
    assert path.read_text().startswith("<?xml")
    with pytest.raises(OutputExistsError, match="--force"):
        plot(report, path)


def test_plots_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"a plot ends in \.png"):
        check_plot(tmp_path / "found.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[benchmark\]"):
        check_plot(tmp_path / "found.png")
