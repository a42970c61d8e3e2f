"""A task is one folder and one line: the toy task's line is added here, and everything else finds it."""

import pytest

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.train.journal import read_log
from midway_zoo.train.tasks import TASKS, config_class, entry_of, task_class


@pytest.mark.parametrize("name", list(TASKS))
def test_every_folder_holds_what_its_entry_says(name: str) -> None:
    assert task_class(name).name == name
    assert config_class(name)().task == name
    assert entry_of(name).example.startswith(f"midway-zoo train {name} ")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "toy", "tests.train.toy_task")


@pytest.mark.usefixtures("toy")
def test_a_folder_and_a_line_make_a_command(tmp_path, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "tell bright images from dark ones" in capsys.readouterr().out
    assert main(["train", "toy", "--print-config"]) == 0
    assert "lr: 0.1" in capsys.readouterr().out
    assert main(["train", "toy", f"out={run}", "lr=0"]) == 1
    assert "lr=0.0 must be positive" in capsys.readouterr().err
    assert main(["train", "toy", f"out={run}", "trackers=[]", "--dry-run"]) == 0
    assert "images/s" in capsys.readouterr().out
    assert not run.exists()
    assert main(["train", "toy", f"out={run}", "trackers=[]", "save_every=10"]) == 0
    assert read_log(run / "log.jsonl")[-1]["loss"] < read_log(run / "log.jsonl")[0]["loss"]

    assert main(["train", "export", str(run), str(out), "--best"]) == 0
    assert mz.load_checkpoint(out).provenance["task"] == "toy"
    assert (out / "head.safetensors").is_file()
    assert main(["train", "export", str(run), str(tmp_path / "run.txt"), "--layout", "text"]) == 0
    assert (tmp_path / "run.txt").read_text() == "step 20\n"


@pytest.mark.usefixtures("toy")
def test_a_layout_of_another_task_is_refused(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    assert main(["train", "segmentation", "--recipe", "segmentation_scenes_nano", f"out={run}", "trackers=[]",
                 "schedule_steps=1", "batch_size=2", "num_workers=0", "data.val_scenes=1"]) == 0  # fmt: skip
    assert main(["train", "export", str(run), str(tmp_path / "x"), "--layout", "text"]) == 1
    assert "segmentation run, which has no layout 'text'" in capsys.readouterr().err
