"""``midway-zoo benchmark`` as a command."""

import json
import sys
from pathlib import Path

import pytest
import torch

from midway_zoo.benchmarks import compute
from midway_zoo.cli import build_parser, main
from midway_zoo.cli.benchmark import SUBJECTS

NANO = ["benchmark", "encoder", "--model", "midway_nano", "--batch", "1", "--rounds", "1", "--warmup", "0"]


def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_SIDE", {"cpu": 64})
    path = tmp_path / "found.json"
    command = [*NANO, "--json", str(path)]
    assert main(command) == 0
    found = json.loads(path.read_text())
    assert found["subject"] == "encoder"
    assert found["command"] == " ".join(["midway-zoo", *command])
    assert found["settings"]["batch"] == 1
    assert found["settings"]["device"] == "cpu"
    assert [row["name"] for row in found["comparisons"][0]["rows"]][1] == "midway_nano"
    out = capsys.readouterr().out
    assert "encoder, 1 images of 64 x 64" in out
    assert f"torch {torch.__version__}" in out
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*NANO, "--json", str(path), "--plot", str(path)]) == 1
    assert "both name" in capsys.readouterr().err


def test_what_is_asked_wrongly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", "encodr"])
    assert "Did you mean 'encoder'" in capsys.readouterr().err
    for wrong, said in {
        "flow --parts head,zeroshot": "Did you mean 'zero-shot'",
        "flow --sizes 100": "not a size such as 1024x436",
        "motion --frames 1": "two frames or more",
        "extract --workers 0": "numbers from 1 on",
        "hub --latency -1": "negative",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main(["benchmark", *wrong.split()])
        assert said in capsys.readouterr().err, wrong
    assert main([*NANO, "--warmup", "-1"]) == 1
    assert "--warmup -1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*NANO, "--plot", "found.png"]) == 1
    assert "[benchmark]" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NANO, "--device", "cuda"]) == 1
    assert "Use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_takes_the_options_that_its_parser_has(subject: str) -> None:
    """The names of the parser's own options are those of ``measure``, and so are the defaults."""
    import importlib
    import inspect

    options = build_parser().parse_args(["benchmark", subject])
    module = importlib.import_module(f"midway_zoo.benchmarks.{'importing' if subject == 'import' else subject}")
    taken = inspect.signature(module.measure).parameters
    assert set(options.own) == set(taken) - {"how"}
    for name in options.own:
        assert getattr(options, name) == taken[name].default, name
