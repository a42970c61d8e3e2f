"""The paper's tables as commands: what they are, that they are commands, and that what is done is not done again."""

import json
import shlex
from pathlib import Path

import pytest

from midway_zoo.cli import build_parser, main, reproduce
from midway_zoo.cli.reproduce import FOLDERS, TABLES, Step, steps_of
from midway_zoo.readouts.labelled import labelled_set
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks import config_class


def test_tables_are_listed(capsys) -> None:
    assert main(["reproduce"]) == 0
    printed = capsys.readouterr().out
    assert "table1\n" in printed
    assert "vits-linear-bdd100k          mIoU 39.7, aAcc 90.3 (reported by the authors)" in printed
    assert all(row.name in printed for rows in TABLES.values() for row in rows)


@pytest.mark.parametrize("table", TABLES)
def test_every_step_is_a_command_with_a_configuration(table: str, tmp_path: Path) -> None:
    for row in TABLES[table]:
        for step in steps_of(row, tmp_path, tmp_path / "out", ["num_workers=4"]):
            options = build_parser().parse_args(list(step.words))
            if step.words[0] == "train" and step.words[1] != "export":
                config = load_config(config_class(options.task), options.recipe, options.settings)
                config.check()
                assert config.num_workers == 4
    assert len({row.name for row in TABLES[table]}) == len(TABLES[table])


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_a_vit_b_trains_with_its_own_values(table: str, tmp_path: Path) -> None:
    """Those that the recipes have in their comments; "--set" wins over them."""
    for row in TABLES[table]:
        if not row.recipe.startswith("upernet"):
            continue
        train = steps_of(row, tmp_path, tmp_path, ["optim.warmup_steps=7"])[0]
        options = build_parser().parse_args(list(train.words))
        config = load_config(config_class(options.task), options.recipe, options.settings)
        large = row.model.startswith(("midway_vitb", "timm:vit_base"))
        assert large == ("vitb" in row.name)
        assert config.optim.lr == (8e-5 if large else 3e-5)
        if config.network.finetune:
            assert config.optim.layer_decay == (0.65 if large else 0.9)
        assert config.optim.warmup_steps == 7
    assert steps_of(TABLES["table1"][6], tmp_path, tmp_path, ["optim.lr=1"])[0].words[-1] == "optim.lr=1"


def test_the_folders_that_are_asked_for_are_those_that_are_found() -> None:
    assert {name: labelled_set(name).folder for name in FOLDERS} == FOLDERS
    assert {row.dataset for rows in TABLES.values() for row in rows} == {*FOLDERS, "flow"}


def test_a_dry_run_prints_and_does_nothing(tmp_path: Path, capsys) -> None:
    data, out = tmp_path / "my data", tmp_path / "out"
    assert main(["reproduce", "flow", "--data", str(data), "--out", str(out), "--row", "vits-flow", "--dry-run"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines[0][:5] == ["midway-zoo", "train", "flow", "--recipe", "flow_full"]
    assert f"data.root={data}" in lines[0]
    assert [line[1:3] for line in lines] == [["train", "flow"], ["train", "export"], ["eval", "flow"], ["eval", "flow"]]
    assert not out.exists()


def test_what_is_done_is_skipped_and_set_beside_the_published(tmp_path: Path, capsys, monkeypatch) -> None:
    ran: list[Step] = []

    def run(step: Step) -> None:
        ran.append(step)
        if step.words[1] == "flow" and step.words[0] == "train":
            return
        step.result.parent.mkdir(parents=True, exist_ok=True)
        names = ("flying_things", "sintel")["sintel" in step.words], ("test", "subval")["sintel" in step.words]
        parts = [f"{names[0]}_{rendered}_{names[1]}" for rendered in ("clean", "final")]
        results = [{"data": part, "metrics": {"epe": 5.04}} for part in parts]
        step.result.write_text(json.dumps({"results": results}))

    monkeypatch.setattr(reproduce, "_run", run)
    arguments = ["reproduce", "flow", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--row", "vits-flow"]
    assert main(arguments) == 0
    assert len(ran) == 4
    assert "| vits-flow | Sintel clean EPE | 5.0 | 4.1 |" in (tmp_path / "out" / "flow.md").read_text()
    (tmp_path / "out" / "vits-flow" / "sintel.json").unlink()
    assert main(arguments) == 0
    assert [step.words[4] for step in ran[4:]] == ["sintel"]
    assert "# done: midway-zoo train flow" in capsys.readouterr().out


def test_segmentation_figures_are_percent(tmp_path: Path) -> None:
    row = TABLES["table1"][0]
    (tmp_path / row.name).mkdir()
    (tmp_path / row.name / "segmentation.json").write_text(json.dumps({"results": {"mIoU": 0.401, "aAcc": 0.9}}))
    assert "| vits-linear-bdd100k | mIoU % | 40.1 | 39.7 |" in reproduce.table_of([row], tmp_path)
    assert "| - | 50.4 |" in reproduce.table_of(TABLES["table1"][1:2], tmp_path)


def test_what_cannot_be_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["reproduce", "table1"]) == 1
    assert "pass --data ROOT" in capsys.readouterr().err
    assert main(["reproduce", "table1", "--data", str(tmp_path), "--row", "vits-linear-bdd"]) == 1
    assert "Did you mean 'vits-linear-bdd100k'" in capsys.readouterr().err
    arguments = ["reproduce", "table2", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--row", "venice-flow", "--set", "no_such=1"]) == 1
    assert "ended with 1; fix the cause" in capsys.readouterr().err
