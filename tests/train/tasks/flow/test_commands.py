"""``midway-zoo train flow`` and ``midway-zoo eval flow``, as a user types them."""

import json
from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.flow import read_flow
from midway_zoo.train.checkpoints import find_checkpoints
from tests.train.data import flow_miniatures as miniatures
from tests.train.data.flow_miniatures import SIZE


def test_from_scenes_to_figures(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", "flow", "--recipe", "flow_scenes_nano", *settings, "max_steps=2", "save_every=1"]) == 0
    best = json.loads((run / "best.json").read_text())
    checkpoint = run / "checkpoints" / f"step_{best['step']:08d}"
    assert f"midway-zoo train export {checkpoint} OUT" in capsys.readouterr().out

    assert main(["train", "export", str(run), str(out), "--best"]) == 0
    network = mz.load_checkpoint(out)
    assert network.provenance["task"] == "flow"
    assert network.provenance["step"] == best["step"]
    assert network.config.flow_size == (32, 32)
    one, other = torch.rand(3, 40, 50), torch.rand(3, 40, 50)
    found = mz.predict_flow(network, one, other)
    assert found.method == "head"
    assert found.flow.shape == (1, 2, 40, 50)

    miniatures.sintel(tmp_path / "Sintel")
    data = ["--dataset", "sintel", "--root", str(tmp_path)]
    capsys.readouterr()
    file = tmp_path / "results.json"
    assert main(["eval", "flow", str(out), *data, "-o", str(file), "--limit", "3", "--overlap", "0"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split("|")[1].strip() == "data"
    assert [line.split("|")[1].strip() for line in table[2:]] == ["sintel_clean_subval", "sintel_final_subval"]
    results = json.loads(file.read_text())["results"]
    assert [(result["pairs"], result["method"]) for result in results] == [(3, "head")] * 2
    assert main(["eval", "flow", str(out), *data, "-o", str(file)]) == 1
    assert "--force" in capsys.readouterr().err

    # The run itself is read as well; its newest checkpoint is not the exported one, unless that is the best.
    assert main(["eval", "flow", str(checkpoint), *data, "--pass", "final", "--limit", "3", "--overlap", "0"]) == 0
    assert table[3].split("|")[4] in capsys.readouterr().out


def test_submission(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    mz.create_model("midway_nano", flow_head=True).save_pretrained(tmp_path / "net")
    miniatures.sintel(tmp_path / "Sintel")
    arguments = ["eval", "flow", str(tmp_path / "net"), "--dataset", "sintel", "--root", str(tmp_path)]
    submit = ["--pass", "clean", "--submission", str(tmp_path / "sub"), "--tile", "8x16", "--overlap", "0.5"]
    assert main([*arguments, *submit]) == 0
    assert "2 files in" in capsys.readouterr().out
    assert read_flow(tmp_path / "sub" / "clean" / "ambush_1" / "frame_0002.flo").shape == (2, *SIZE)
    assert main([*arguments, "--submission", str(tmp_path / "sub"), "--max-flow", "400"]) == 1
    assert "--max-flow" in capsys.readouterr().err
    spring = ["eval", "flow", str(tmp_path / "net"), "--dataset", "hd1k", "--root", str(tmp_path)]
    assert main([*spring, "--submission", str(tmp_path / "sub")]) == 1
    assert capsys.readouterr().err.startswith("midway-zoo: error:")


def test_perturbation_and_zero_need_no_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mz.create_model("midway_nano").save_pretrained(tmp_path / "net")
    miniatures.sintel(tmp_path / "Sintel")
    arguments = ["eval", "flow", str(tmp_path / "net"), "--dataset", "sintel", "--root", str(tmp_path / "Sintel")]
    for method in ("perturbation", "zero"):
        assert main([*arguments, "--pass", "clean", "--limit", "1", "--method", method]) == 0
        assert method in capsys.readouterr().out
    assert main([*arguments, "--method", "head"]) == 1
    assert "head" in capsys.readouterr().err


def test_export_of_a_run_without_validation(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "flow", "--recipe", "flow_scenes_nano", *settings, "max_steps=1", "validation.scenes=0"]
    assert main(train) == 0
    assert len(find_checkpoints(tmp_path / "run")) == 1
    assert main(["train", "export", str(tmp_path / "run"), str(tmp_path / "out"), "--best"]) == 1
    assert "Without --best" in capsys.readouterr().err
